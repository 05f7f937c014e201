"""Text to ids by a rank file, the vocabulary format of tiktoken: one token a line, in base64, with its id.

A token's id is its merge rank, too. Prompts are short, so the merging is written out here instead of asking for a package.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from heapq import heappop, heappush
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
        """Ids of a piece: the neighbours whose union has the lowest rank become one, the first of several, until none has one.

        In n log n for n bytes, by a heap of unions: Chinese without punctuation is a single long piece.
        """
        count, unions = len(piece), []
        # Of a part, by where it begins: where it ends, 0 if none begins there; and where the one in front of it begins.
        stops, before = list(range(1, count + 1)), list(range(-1, count))

        def stop_of_union(start: int) -> int:
            """Where the part at `start` and the next one end together; 0 if there are not both."""
            return stops[stops[start]] if 0 < stops[start] < count else 0

        def offer(start: int) -> None:
            stop = stop_of_union(start)
            if stop and (rank := self.ranks.get(piece[start:stop])) is not None:
                heappush(unions, (rank, start, stop))

        for start in range(count):
            offer(start)
        while unions:
            _, start, stop = heappop(unions)
            if stop_of_union(start) != stop:
                continue  # one of the two has become part of another union
            stops[stops[start]] = 0
            stops[start], before[stop] = stop, start
            offer(start)
            if start > 0:
                offer(before[start])
        return [self.ranks[piece[start:stop]] for start, stop in enumerate(stops) if stop]
