"""Make the tokenizer of the embedded image model: byte-level BPE over captions, in the id order of the Chameleon family.

    python -m training.build_tokenizer --sprites build/sprites.npz --places build/places.npz --out build/tokenizer.json

Ids: 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 `<unk>`, then the image tokens, the control tokens, the bytes and the merges. The big
models of the family have the same order with 8192 image tokens, so one loader serves both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mcsjd_core.families.chameleon import image_token_name

from .patch_encoder import CONFIG
from .scenes import Scenes

MERGES = 700  # enough for one token a word
CAPTIONS = 40_000
LEADING = ("<s>", "<pad>", "</s>", "<unk>")
CONTROLS = ("<eoss>", "<racm3:break>", "<reserved08706>", "<image>")


def prepare(tokenizer: Tokenizer) -> Tokenizer:
    """Lower case, and a space before the first word, so that a word has one spelling wherever it stands."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_pairs(texts: Iterator[str], merges: int) -> tuple[list[str], list[list[str]]]:
    """Symbols (the 256 bytes, then the merged ones) and merges of a byte-level BPE."""
    tokenizer = prepare(Tokenizer(models.BPE()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def from_texts(texts: Iterator[str], codebook_size: int, merges: int) -> Tokenizer:
    """Tokenizer of a model with so many codes, its merges learned from the texts."""
    symbols, pairs = byte_pairs(texts, merges)
    images = [image_token_name(code) for code in range(codebook_size)]
    names = [*LEADING, *images, *CONTROLS, *symbols]
    vocabulary = {name: id for id, name in enumerate(names)}
    merged = [tuple(pair) for pair in pairs]
    tokenizer = prepare(Tokenizer(models.BPE(vocab=vocabulary, merges=merged, unk_token="<unk>")))
    # Image tokens are no added tokens: thousands of them would slow every encode down, and no text contains them.
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*LEADING, *CONTROLS)])
    return tokenizer


def captions(scenes: Scenes, seed: int) -> Iterator[str]:
    rng = np.random.default_rng((seed, 2))
    for _ in range(CAPTIONS):
        yield scenes.caption(scenes.draw(rng), rng)


def build(scenes: Scenes, seed: int = 0) -> Tokenizer:
    return from_texts(captions(scenes, seed), CONFIG.codebook_size, MERGES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sprites", "places", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    build(Scenes.load(a.sprites, a.places), a.seed).save(str(a.out))
