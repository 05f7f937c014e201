"""Rebuild the embedded video model from zero: stage, encoder, decoder, transformer, checkpoint directory.

    python -m training.build_video --sprites build/sprites.npz --places build/places.npz --work build-video

`training.sprites` and `training.places` say where their data come from; both are needed for the stage alone. An interrupted
training continues: run the same command again. More minutes than before train decoder and transformer further; the encoder
stays as it was once it is trained, for both hang on its codes. Seeds are fixed; budgets are minutes, so another machine takes
other numbers of steps and gets other weights. Decoder and transformer do not need each other: their commands may run side
by side.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from . import export_video, loop, stage, train_video_codec, train_video_encoder, train_video_transformer
from .motion_data import Stage
from .places import Places
from .sprites import Sprites


def build(stage_file: Path, work: Path, out: Path, minutes: dict[str, float], run: loop.RunSettings) -> None:
    """Train what is not trained yet, each part for its minutes, and export."""
    encoder, codec, transformer = (work / name for name in ("encoder", "codec", "transformer"))
    loaded, seed = Stage.load(stage_file), run.seed

    def train(task: loop.Task, folder: Path) -> None:
        loop.train(task, folder, replace(run, minutes=minutes[folder.name]))

    if not (encoder / "report.json").exists():
        train(train_video_encoder.EncoderTask(loaded, train_video_encoder.Settings(seed=seed), run.device), encoder)
    train(train_video_codec.DecoderTask(
        loaded, train_video_encoder.read_encoder(encoder), train_video_codec.Settings(seed=seed), run.device), codec)  # fmt: skip
    train(train_video_transformer.TransformerTask(
        loaded, train_video_encoder.read_encoder(encoder), train_video_transformer.Settings(seed=seed), run.device),
        transformer)  # fmt: skip
    export_video.export(stage_file, transformer, codec, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sprites", type=Path, default=Path("build/sprites.npz"), help="file written by training.sprites"
    )
    parser.add_argument("--places", type=Path, default=Path("build/places.npz"), help="file written by training.places")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--work", type=Path, default=Path("build-video"), help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=Path("embedded/motion"))
    for part, default in (("encoder", 8.0), ("codec", 45.0), ("transformer", 60.0)):
        parser.add_argument(f"--{part}-minutes", type=float, default=default)
    loop.add_options(parser, minutes=None)
    a = parser.parse_args()
    file = a.work / "stage.npz"
    if not file.exists():
        a.work.mkdir(parents=True, exist_ok=True)
        stage.build(Sprites.load(a.sprites), Places.load(a.places), a.root).save(file)
    budgets = {part: getattr(a, f"{part}_minutes") for part in ("encoder", "codec", "transformer")}
    build(file, a.work, a.out, budgets, loop.settings_from(a))
