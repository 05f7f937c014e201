"""Qwen2's tokenizer from either of its published forms: `tokenizer.json`, or vocabulary, merges and added tokens in files."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .rank_tokenizer import QWEN_PATTERN
from .text_tokenizer import read_tokenizer

WHOLE, VOCABULARY, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"


def read_qwen_tokenizer(directory: Path, added: dict[str, int]):
    """The `tokenizers.Tokenizer` in `directory`.

    `added` are the tokens after the vocabulary of the older form, by name, as `added_tokens.json` lists them.
    """
    if (directory / WHOLE).is_file() or not (directory / VOCABULARY).is_file():
        return read_tokenizer(directory / WHOLE)
    return _of_parts(directory / VOCABULARY, directory / MERGES, added)


def _of_parts(vocabulary: Path, merges: Path, added: dict[str, int]):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{vocabulary} and {merges.name} are no tokenizer ({error}); download them again.") from None
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(added, key=added.__getitem__)
    if [added[name] for name in names] != list(
        range(tokenizer.get_vocab_size(), tokenizer.get_vocab_size() + len(names))
    ):
        raise InputError(
            f"The added tokens of {vocabulary.parent} do not follow its vocabulary; download the files again."
        )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer
