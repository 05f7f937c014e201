"""Rank files against the tokenizers package: the same vocabulary as merges gives the same ids."""

import base64
import random

import pytest

from mcsjd_core import InputError
from mcsjd_core.text.rank_tokenizer import QWEN_PATTERN, RankTokenizer

WORDS = ("he", "th", "the", " t", " the", "ca", "cat", "at", "in", " c", "'s", "90", "é", "\n\n")


def write_ranks(path, words=WORDS):
    """A rank file of all bytes and `words`, in this order."""
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return RankTokenizer.of_file(write_ranks(tmp_path_factory.mktemp("ranks") / "tiny.tiktoken"))


def reference(ranks: dict[bytes, int]):
    """The same as a byte-level BPE: a token's merge is how the tokens before it would write it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    printable = {}  # the letters that stand for bytes there, found by asking
    for letter in pre_tokenizers.ByteLevel.alphabet():
        printable[letter] = None
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert set(letters.values()) == set(printable)

    def name(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            earlier = RankTokenizer({known: r for known, r in ranks.items() if r < rank})
            left, right = earlier._merge(token)
            by_rank = {r: known for known, r in ranks.items()}
            merges.append((name(by_rank[left]), name(by_rank[right])))
    built = Tokenizer(models.BPE(vocab={name(token): rank for token, rank in ranks.items()}, merges=merges))
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return built


def test_ids_equal_those_of_a_byte_level_bpe(tokenizer):
    theirs, generator = reference(tokenizer.ranks), random.Random(0)
    for _ in range(300):
        text = "".join(generator.choice("the cat's in 90\n.é") for _ in range(generator.randrange(30)))
        assert tokenizer.encode(text) == theirs.encode(text).ids, text


def test_texts_are_cut_before_they_are_merged(tokenizer):
    def tokens(text: str) -> list[bytes]:
        by_id = {id: token for token, id in tokenizer.ranks.items()}
        return [by_id[id] for id in tokenizer.encode(text)]

    assert tokens("the cat") == [b"the", b" ", b"cat"]  # `ca` has a lower rank than ` c`
    assert tokens("90") == [b"9", b"0"]  # digits stay single, whatever the vocabulary holds
    assert tokens("cat's") == [b"cat", b"'s"]
    assert tokens("e\u0301") == ["é".encode()]  # composed first
    assert tokens("") == []


def test_names_of_special_tokens_are_ordinary_text(tokenizer):
    assert max(tokenizer.encode("<|extra_203|><|image start|>")) < 256 + len(WORDS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"aGU= 0\n",
        b"hello\n",
        b"!!! 0\n",
        b"aGU= x\n",
        b"".join(base64.b64encode(bytes([b])) + b" 1\n" for b in range(256)),
    ],
    ids=["empty", "one token", "no rank", "no base64", "no number", "one rank for all"],
)
def test_a_broken_file_is_named(tmp_path, content):
    (file := tmp_path / "emu3.tiktoken").write_bytes(content)
    with pytest.raises(InputError, match=r"emu3\.tiktoken is not .*download it again"):
        RankTokenizer.of_file(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"emu3\.tiktoken is missing"):
        RankTokenizer.of_file(tmp_path / "emu3.tiktoken")
