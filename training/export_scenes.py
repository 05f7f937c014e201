"""Write the trained parts of the image model of scenes, finished or not, as a checkpoint directory of the Chameleon family.

    python -m training.export_scenes --transformer build/transformer --codec build/codec --tokenizer build/tokenizer.json \
        --out build/scenes

`--start-from embedded/scenes` names the checkpoint that the training began with: `transformer_report.json` then lists the parts
that led there, too. With `--share 0.65`, a mean of the weights is exported: of the training's by that share, and of the
checkpoint's by the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from . import loop, train_scene_codec, train_scene_transformer
from .chameleon_files import write_checkpoint
from .scenes import COLUMNS

REPORT = "transformer_report.json"
# Guidance and top-k were chosen on `prompts.TUNING` by eye; min-p by `whole_things --prompts things`: at temperature 1, what it
# cuts is a stray code now and then in a thing that is otherwise sure. That was with the 16 x 16 codes of before; the model card
# says how they were looked at again.
GENERATION = {
    "image_grid": [COLUMNS, COLUMNS],
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
    """Write `out` from the folders of the two trainings, with their reports beside the weights.

    checkpoint: directory that the transformer's training began with; share: of the training's weights, next to its own.
    """
    tokens, weights = Tokenizer.from_file(str(tokenizer)), loop.weights(transformer)
    if checkpoint:
        weights = averaged(weights, tokens, checkpoint, share)
    states = weights, train_scene_codec.whole(loop.weights(codec)).state_dict()
    write_checkpoint(out, train_scene_transformer.CONFIG, train_scene_codec.CONFIG, tokens, *states, GENERATION)
    if report := loop.report_of(codec):
        shutil.copyfile(report, out / "codec_report.json")
    before = checkpoint / REPORT if checkpoint else None
    parts = json.loads(before.read_text())["parts"] if before and before.exists() else []
    (out / REPORT).unlink(missing_ok=True)  # an older one says nothing of these weights
    if report := loop.report_of(transformer):
        whole = joined(json.loads(report.read_text()), parts, share)
        (out / REPORT).write_text(json.dumps(whole, indent=1) + "\n")


def joined(report: dict, before: list[dict], share: float) -> dict:
    """A training's report with those of the parts before it; of a mean there are no figures.

    A last part of the same seed is the same training, exported before it went on.
    """
    again = bool(before) and before[-1]["run"]["seed"] == report["run"]["seed"]
    last = report if share == 1 else report | {"averaged_with_it": share}
    parts = [*(before[:-1] if again else before), last]
    sums = {name: sum(part[name] for part in parts) for name in ("steps", "seconds")}
    return (report if share == 1 else {}) | sums | {"parts": parts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("transformer", "codec", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--start-from", type=Path, metavar="DIR", help="checkpoint directory that the training began with"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the training's weights in a mean with those that it "
                        "began with (default: %(default)s)")  # fmt: skip
    a = parser.parse_args()
    export(a.transformer, a.codec, a.tokenizer, a.out, a.start_from, a.share)
