"""Text to ids by a rank file, the vocabulary format of tiktoken: one token a line, in base64, with its id.

A token's id is its merge rank, too. Prompts are short, so the merging is written out plainly instead of asking for a package.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from itertools import pairwise
from pathlib import Path

from ..errors import InputError

# How Qwen's vocabulary, which Emu3 takes over, cuts a text before merging: contractions, letters with one sign in front,
# single digits, other signs, line ends, spaces.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class RankTokenizer:
    """Ids of ordinary text; names of special tokens in it are ordinary text, too."""

    def __init__(self, ranks: dict[bytes, int], pattern: str = QWEN_PATTERN):
        from tokenizers import Regex, pre_tokenizers  # heavy: only when a model is loaded

        self.ranks = ranks
        self.splitter = pre_tokenizers.Split(Regex(pattern), behavior="isolated")

    @classmethod
    def of_file(cls, path: Path) -> RankTokenizer:
        """Raises InputError if the file is missing, no rank file, or lacks one of the 256 bytes."""
        if not path.is_file():
            raise InputError(f"{path} is missing; the text tokenizer is part of the checkpoint directory.")
        try:
            lines = path.read_bytes().splitlines()
            ranks = {
                base64.b64decode(token, validate=True): int(rank)
                for token, rank in map(bytes.split, filter(None, lines))
            }
        except (ValueError, binascii.Error, OSError) as error:
            raise InputError(f"{path} is not a file of merge ranks ({error}); download it again.") from None
        if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
            raise InputError(f"{path} is not a whole file of merge ranks; download it again.")
        return cls(ranks)

    def encode(self, text: str) -> list[int]:
        pieces = self.splitter.pre_tokenize_str(unicodedata.normalize("NFC", text))
        return [id for piece, _ in pieces for id in self._merge(piece.encode())]

    def _merge(self, piece: bytes) -> list[int]:
        """Ids of a piece: the neighbours whose union has the lowest rank become one, until none has a rank."""
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 1:
            unions = [self.ranks.get(a + b, len(self.ranks)) for a, b in pairwise(parts)]
            index = min(range(len(unions)), key=unions.__getitem__)
            if unions[index] == len(self.ranks):
                break
            parts[index : index + 2] = [parts[index] + parts[index + 1]]
        return [self.ranks[part] for part in parts]
