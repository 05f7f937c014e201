"""Rank files against the tokenizers package: the same vocabulary as merges gives the same ids."""

import base64
import random
from itertools import pairwise

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


def naive_ids(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """The rule as it is stated: over and over, the pair of lowest rank becomes one, the leftmost of equal ones."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_ids_are_those_of_the_naive_rule_whatever_the_ranks():
    generator = random.Random(1)
    for _ in range(400):
        letters = "ab" if generator.random() < 0.5 else "abc"
        tokens = {
            "".join(generator.choices(letters, k=generator.randint(2, 6))) for _ in range(generator.randint(1, 25))
        }
        # Few ranks for many tokens, so that several unions are equally good.
        ranks = {token.encode(): generator.randrange(8) for token in sorted(tokens)}
        ranks |= {bytes([byte]): 100 + byte for byte in range(256)}
        for length in (0, 1, 2, generator.randint(3, 12), generator.randint(20, 60)):
            text = "".join(generator.choices(letters, k=length))
            assert RankTokenizer(ranks).encode(text) == naive_ids(ranks, text.encode()), (ranks, text)


def test_a_long_run_of_letters_takes_few_looks_at_the_ranks():
    """Chinese without punctuation is one piece: looked at pair by pair after every merge, 2000 signs take seconds."""

    class Counted(dict):
        looks = 0

        def get(self, *arguments):
            self.looks += 1
            return super().get(*arguments)

    ranks = Counted({bytes([byte]): byte for byte in range(256)})
    ranks |= {sign.encode()[:length]: 256 + 2 * n + length for n, sign in enumerate("山水") for length in (2, 3)}
    text = "".join(random.Random(2).choices("山水", k=500))
    ids = RankTokenizer(ranks).encode(text)
    assert len(ids) == 500 and ranks.looks <= 3 * len(text.encode())


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
