"""What of a prompt a checkpoint does not take in: words that it does not know, and the end of a long one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = "words.txt"  # beside a checkpoint that was trained on few words: all of them, one a line
UNKNOWN = "<unk>"
WORD = re.compile(r"[^\W_]+")
SHOWN = 8  # words or prompts in a sentence
BEGINNING = 40  # characters of a prompt in a sentence


@dataclass(frozen=True)
class Words:
    """What a checkpoint in `directory` knows: the words of its list if it has one, else what its tokenizer can spell.

    A tokenizer that cuts is given texts as `cleaned` makes them, which looks at their first `longest` characters alone.
    """

    tokenizer: Any  # a `tokenizers.Tokenizer`
    directory: Path
    cleaned: Callable[[str], str] = str
    longest: int | None = None

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """The words of the texts that it does not know, each once, in the order in which they come."""
        words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
        listed = self._listed()
        if listed is not None:
            return [word for word in words if word.lower() not in listed]
        id = self.tokenizer.token_to_id(UNKNOWN)
        return [word for word in words if id in self.tokenizer.encode(word, add_special_tokens=False).ids]

    def note(self, texts: Iterable[str]) -> str | None:
        """A line about the words that are unknown, and one about the texts that are cut; None without either."""
        texts = list(dict.fromkeys(texts))
        return "\n".join(filter(None, (self._unknown_note(texts), self._cut_note(texts)))) or None

    def _unknown_note(self, texts: list[str]) -> str | None:
        unknown = self.unknown(texts)
        if not unknown:
            return None
        where = f"; the words it knows are in {self.directory / LIST}" if (self.directory / LIST).is_file() else ""
        return f"This model does not know {_listing(unknown)}: what it draws for that is left to chance{where}."

    def _cut_note(self, texts: list[str]) -> str | None:
        cutting = self.tokenizer.truncation
        if cutting is None:
            return None
        characters = "" if self.longest is None else f" and {self.longest} characters"
        return cut_note(filter(self._is_cut, texts), f"{cutting['max_length']} tokens{characters}")

    def _is_cut(self, text: str) -> bool:
        too_long = self.longest is not None and len(text) > self.longest
        return too_long or bool(self.tokenizer.encode(self.cleaned(text)).overflowing)

    def _listed(self) -> frozenset[str] | None:
        file = self.directory / LIST
        return (
            frozenset(file.read_text(encoding="utf-8-sig", errors="replace").lower().split())
            if file.is_file()
            else None
        )


def cut_note(cut: Iterable[str], limit: str) -> str | None:
    """A sentence about texts that are longer than what is read of one, `limit`; None if there are none."""
    named = [f'"{text[:BEGINNING]}{"..." if len(text) > BEGINNING else ""}"' for text in cut]
    if not named:
        return None
    return f"This model reads {limit} of a prompt at the most: the end of {_listing(named)} is left out."


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
