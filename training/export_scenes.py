"""Write the trained parts of the image model of scenes, finished or not, as a checkpoint directory of the Chameleon family.

    python -m training.export_scenes --transformer build/transformer --codec build/codec --tokenizer build/tokenizer.json \
        --out build/scenes
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tokenizers import Tokenizer

from . import loop, train_scene_codec, train_scene_transformer
from .chameleon_files import write_checkpoint

# Chosen on `prompts.TUNING` by eye; the temperature stays 1, as a real model's.
GENERATION = {"image_grid": [16, 16], "guidance_scale": 2.0, "temperature": 1.0, "top_k": 100, "top_p": 1.0}


def export(transformer: Path, codec: Path, tokenizer: Path, out: Path) -> None:
    """Write `out` from the folders of the two trainings, with their reports beside the weights."""
    states = loop.weights(transformer), train_scene_codec.whole(loop.weights(codec)).state_dict()
    tokens = Tokenizer.from_file(str(tokenizer))
    write_checkpoint(out, train_scene_transformer.CONFIG, train_scene_codec.CONFIG, tokens, *states, GENERATION)
    for name, part in (("transformer", transformer), ("codec", codec)):
        if (part / "report.json").exists():  # an unfinished training has none
            shutil.copyfile(part / "report.json", out / f"{name}_report.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("transformer", "codec", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    a = parser.parse_args()
    export(a.transformer, a.codec, a.tokenizer, a.out)
