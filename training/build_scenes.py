"""Build the image model of scenes from zero: pictures, codebook, tokenizer, decoder, transformer, checkpoint.

    apt-get install fonts-noto-color-emoji lomiri-wallpapers-16.04 mypaint-data-extras blender-data
    npm install --prefix build/npm fluentui-emoji@1.3.0 @lobehub/fluent-emoji-3d@1.1.0 @twemoji/svg@15.0.0
    pip install -r training/requirements.txt
    python -m training.build_scenes --npm build/npm/node_modules --work build --out build/scenes

A step whose result is there is skipped, and an interrupted training continues: run the same command again. More minutes than
before train a finished part further. `--start-from embedded/scenes` begins with the shipped weights, their codebook and their
tokenizer, at half the transformer's learning rates; another `--seed` then draws scenes that they have not seen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcsjd_core.text.words import LIST

from . import (
    build_tokenizer,
    export_scenes,
    loop,
    places,
    sprites,
    train_scene_codec,
    train_scene_transformer,
    write_words,
)
from .patch_encoder import load_encoder
from .scenes import Scenes


def pictures(npm: Path, root: Path, work: Path, seed: int) -> Scenes:
    """Sprites and places in the folder `work`, made now if they are not there."""
    things, grounds = work / "sprites.npz", work / "places.npz"
    work.mkdir(parents=True, exist_ok=True)
    if not things.exists():
        sprites.build(npm, root / sprites.NOTO.relative_to("/")).save(things)
    if not grounds.exists():
        places.build(root, seed).save(grounds)
    return Scenes.load(things, grounds)


def build(scenes: Scenes, work: Path, out: Path, minutes: dict[str, float], settings: loop.RunSettings,
          checkpoint: Path | None = None, rate_scale: float = 1.0) -> None:  # fmt: skip
    """Train codec and transformer for their minutes, from zero or from a checkpoint directory's weights, and export.

    rate_scale: factor on the transformer's learning rates.
    """
    codec, transformer, tokenizer = work / "codec", work / "transformer", work / "tokenizer.json"
    centres = train_scene_codec.codebook_in(codec, scenes, settings.seed, checkpoint)
    if not tokenizer.exists():
        words = Tokenizer.from_file(str(checkpoint / "tokenizer.json")) if checkpoint else None
        (words or build_tokenizer.build(scenes, settings.seed)).save(str(tokenizer))
    if checkpoint and not (transformer / loop.CHECKPOINT).exists():
        check_codes(centres, tokenizer, checkpoint, work)
    decoding = train_scene_codec.Training(
        scenes, train_scene_codec.build_model(centres, settings.seed), settings.seed, settings.device
    )
    sequences = train_scene_transformer.Sequences(
        scenes, load_encoder(codec), Tokenizer.from_file(str(tokenizer)), settings.device
    )
    drawing = train_scene_transformer.Training(sequences, settings.seed, rate_scale=rate_scale)
    if checkpoint:  # what the work folder holds of an earlier run counts more
        train_scene_codec.start_from(decoding.model, checkpoint)
        train_scene_transformer.start_from(drawing.model, checkpoint)
    loop.train(decoding, codec, replace(settings, minutes=minutes["codec"]))
    loop.train(drawing, transformer, replace(settings, minutes=minutes["transformer"]))
    export_scenes.export(transformer, codec, tokenizer, out, checkpoint)
    write_words.write(scenes, out / LIST, settings.seed)


def check_codes(centres: Tensor, tokenizer: Path, checkpoint: Path, work: Path) -> None:
    """Weights of a checkpoint mean nothing with the codes or words of another; the shapes would agree."""
    vocabularies = [Tokenizer.from_file(str(file)).get_vocab() for file in (tokenizer, checkpoint / "tokenizer.json")]
    if vocabularies[0] != vocabularies[1] or not torch.equal(centres, train_scene_codec.codebook_of(checkpoint)):
        raise SystemExit(
            f"{work} holds codes or words of another model than {checkpoint}: give an empty --work, or leave out --start-from."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm", type=Path, default=Path("build/npm/node_modules"), help="folder with the three packages, "
                        "if sprites.npz is not in the work folder yet")  # fmt: skip
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--work", type=Path, default=Path("build"), help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=Path("build/scenes"))
    parser.add_argument("--start-from", type=Path, help="checkpoint directory whose weights to begin with")
    parser.add_argument("--rate-scale", type=float, help="factor on the transformer's learning rates (default: 1; 0.5 with "
                        "--start-from)")  # fmt: skip
    parser.add_argument("--codec-minutes", type=float, default=60.0)
    loop.add_options(parser, minutes=240)
    a = parser.parse_args()
    run = loop.settings_from(a)
    budgets = {"codec": a.codec_minutes, "transformer": run.minutes}
    scale = (0.5 if a.start_from else 1.0) if a.rate_scale is None else a.rate_scale
    build(pictures(a.npm, a.root, a.work, a.seed), a.work, a.out, budgets, run, a.start_from, scale)
