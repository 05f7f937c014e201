"""Make the tokenizer of the embedded image model of scenes from captions of random scenes.

python -m training.build_scene_tokenizer --sprites build/sprites.npz --places build/places.npz --out build/tokenizer.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .build_tokenizer import from_texts
from .patch_encoder import CONFIG
from .scenes import Scenes

MERGES = 700  # enough for one token a word
CAPTIONS = 40_000


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
