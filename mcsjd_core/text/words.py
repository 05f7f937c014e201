"""Which words of a prompt a checkpoint does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = "words.txt"  # beside a checkpoint that was trained on few words: all of them, one a line
UNKNOWN = "<unk>"
WORD = re.compile(r"[^\W_]+")
SHOWN = 8  # words in a sentence


@dataclass(frozen=True)
class Words:
    """What a checkpoint in `directory` knows: the words of its list if it has one, else what its tokenizer can spell."""

    tokenizer: Any  # a `tokenizers.Tokenizer`
    directory: Path

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """The words of the texts that it does not know, each once, in the order in which they come."""
        words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
        listed = self._listed()
        if listed is not None:
            return [word for word in words if word.lower() not in listed]
        id = self.tokenizer.token_to_id(UNKNOWN)
        return [word for word in words if id in self.tokenizer.encode(word, add_special_tokens=False).ids]

    def note(self, texts: Iterable[str]) -> str | None:
        """A sentence about the words that are unknown; None if all are known."""
        unknown = self.unknown(texts)
        if not unknown:
            return None
        named = ", ".join(unknown[:SHOWN]) + (" ..." if len(unknown) > SHOWN else "")
        where = f"; the words it knows are in {self.directory / LIST}" if (self.directory / LIST).is_file() else ""
        return f"This model does not know {named}: what it draws for that is left to chance{where}."

    def _listed(self) -> frozenset[str] | None:
        file = self.directory / LIST
        return (
            frozenset(file.read_text(encoding="utf-8-sig", errors="replace").lower().split())
            if file.is_file()
            else None
        )
