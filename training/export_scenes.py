"""Write the trained parts of the image model of scenes, finished or not, as a checkpoint directory of the Chameleon family.

    python -m training.export_scenes --transformer build/transformer --codec build/codec --tokenizer build/tokenizer.json \
        --out build/scenes

`--average-with embedded/scenes --share 0.65` exports a mean of the weights: of the training's by that share, and of the
checkpoint's that it began with by the rest.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from . import loop, train_scene_codec, train_scene_transformer
from .chameleon_files import write_checkpoint

# Guidance and top-k were chosen on `prompts.TUNING` by eye; min-p by `whole_things --prompts things`: at temperature 1, what it
# cuts is a stray code now and then in a thing that is otherwise sure.
GENERATION = {
    "image_grid": [16, 16],
    "guidance_scale": 2.0,
    "temperature": 1.0,
    "top_k": 100,
    "top_p": 1.0,
    "min_p": 0.02,
}


def averaged(ours: dict[str, Tensor], tokens: Tokenizer, checkpoint: Path, share: float) -> dict[str, Tensor]:
    """Weights by name, `share` (0 to 1) of them ours and the rest a checkpoint directory's."""
    other = train_scene_transformer.build_model(tokens, 0)
    train_scene_transformer.start_from(other, checkpoint)
    return {name: weight.lerp(ours[name], share) for name, weight in other.state_dict().items()}


def export(
    transformer: Path, codec: Path, tokenizer: Path, out: Path, checkpoint: Path | None = None, share: float = 1.0
) -> None:
    """Write `out` from the folders of the two trainings, with their reports beside the weights."""
    tokens, weights = Tokenizer.from_file(str(tokenizer)), loop.weights(transformer)
    if checkpoint:
        weights = averaged(weights, tokens, checkpoint, share)
    states = weights, train_scene_codec.whole(loop.weights(codec)).state_dict()
    write_checkpoint(out, train_scene_transformer.CONFIG, train_scene_codec.CONFIG, tokens, *states, GENERATION)
    for name, part in (("transformer", transformer), ("codec", codec)):
        report = loop.report_of(part)
        if report and not (checkpoint and name == "transformer"):  # of a mean there is none
            shutil.copyfile(report, out / f"{name}_report.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("transformer", "codec", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--average-with", type=Path, metavar="DIR", help="checkpoint directory to average the weights with"
    )
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the training's weights in the mean (default: %(default)s)"
    )
    a = parser.parse_args()
    export(a.transformer, a.codec, a.tokenizer, a.out, a.average_with, a.share)
