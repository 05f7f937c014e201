"""The vocabulary of BAAI's Emu models: ranks of text, then special tokens, then those of images, by the order of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..text.rank_tokenizer import RankTokenizer

RANKS, VISION_TOKENS = "emu3.tiktoken", "emu3_vision_tokens.txt"
# Ids go on after the text tokens with these names, then those of emu3_vision_tokens.txt.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def code_name(code: int) -> str:
    return f"<|visual token {code:06d}|>"


def read_vocabulary(path: Path) -> tuple[RankTokenizer, dict[str, int]]:
    """Text tokenizer, and ids of special tokens and codes by name, of a published directory."""
    tokenizer = RankTokenizer.of_file(path / RANKS)
    names = (*SPECIAL, *_vision_names(path / VISION_TOKENS))
    return tokenizer, {name: len(tokenizer.ranks) + index for index, name in enumerate(names)}


def _vision_names(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file} is missing or no text; download it again.") from None
    return [line.strip() for line in lines if line.strip()]


def named_ids(ids: dict[str, int], names: Sequence[str], codebook_size: int) -> tuple[int, ...]:
    """Ids of `names`, and of the first code; the codes have to follow one another."""
    first, last = code_name(0), code_name(codebook_size - 1)
    missing = [name for name in (*names, first, last) if name not in ids]
    if missing:
        raise InputError(f"The vocabulary lacks {', '.join(missing)}; it belongs to another model, or is incomplete.")
    if ids[last] - ids[first] != codebook_size - 1:
        raise InputError("The visual tokens' ids are not consecutive; the vocabulary belongs to another model.")
    return (*(ids[name] for name in names), ids[first])
