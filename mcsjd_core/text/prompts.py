"""Prompts as people type and paste them, made fit for every model."""

from __future__ import annotations

from ..errors import InputError


def clean_prompt(text: str) -> str:
    """`text` with every run of spaces and line ends as one space, none at its ends.

    No model is trained on the difference, and some draw another thing for it. Raises InputError for half a character, which
    a cut emoji or an argument in another encoding leaves behind.
    """
    check_characters(text, "The prompt")
    return " ".join(text.split())


def check_characters(text: str, name: str) -> None:
    """Raise InputError, which calls the text `name`, for half a character: no file and no tokenizer takes one."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds half a character (U+{ord(text[error.start]):04X}) at character {error.start + 1}: type it again."
        ) from None
