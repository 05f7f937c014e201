"""A checkpoint's text tokenizer, and user texts that cannot smuggle in what steers the model."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from ..file_contents import check_contents


def read_tokenizer(path: Path):
    """The `tokenizers.Tokenizer` of a tokenizer.json; it cuts nothing and pads nothing, whatever the file says.

    Read directly: the Llama class of transformers rebuilds a byte-level file as another kind, and drops spaces.
    """
    from tokenizers import Tokenizer  # heavy: only when a model is loaded

    if not path.is_file():
        raise InputError(f"{path} is missing; the text tokenizer is part of the checkpoint directory.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        check_contents(path)
        raise InputError(f"{path} is not a tokenizer file ({error}); download it again.") from None
    # A file that was saved after an encoding with either has both in it: prompts would lose their ends, or gain pads.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def control_ids(tokenizer, names: re.Pattern) -> frozenset[int]:
    """Ids that no text may lead to: special tokens, and whatever bears a name that `names` matches as a whole.

    Added tokens that are not special are text: DeepSeek's vocabulary adds letters such as `ö` and `ø`.
    """
    named = {id for name, id in tokenizer.get_vocab().items() if names.fullmatch(name)}
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return frozenset(named | special)


def text_ids(tokenizer, text: str, controls: frozenset[int]) -> list[int]:
    """Ids of a user's text; control and image tokens written in it are dropped, they would change the format."""
    return [id for id in tokenizer.encode(text, add_special_tokens=False).ids if id not in controls]


def without_controls(tokenizer, text: str, controls: frozenset[int]) -> str:
    """`text` with everything cut out that the tokenizer reads as one of `controls`, also what the cutting joins."""
    while True:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        spans = [span for id, span in zip(encoding.ids, encoding.offsets, strict=True) if id in controls]
        if not spans:
            return text
        for start, end in reversed(spans):
            text = text[:start] + text[end:]
