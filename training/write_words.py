"""Write the words that the image model of scenes was trained on beside its tokenizer, where the pack looks for them.

python -m training.write_words --sprites build/sprites.npz --places build/places.npz --out embedded/MODEL/words.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mcsjd_core.text.words import WORD

from .build_tokenizer import captions
from .scenes import Scenes


def words(scenes: Scenes, seed: int = 0) -> list[str]:
    """Every word of many random captions, in the order of the alphabet."""
    return sorted({word.lower() for caption in captions(scenes, seed) for word in WORD.findall(caption)})


def write(scenes: Scenes, file: Path, seed: int = 0) -> None:
    file.write_text("\n".join(words(scenes, seed)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sprites", "places", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    write(Scenes.load(arguments.sprites, arguments.places), arguments.out)
