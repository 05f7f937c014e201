"""Rebuild the embedded video model from zero: sprites, encoder, decoder, transformer, checkpoint directory.

    apt-get install fonts-noto-color-emoji
    npm pack emojibase-data@17.0.0 && tar xf emojibase-data-17.0.0.tgz
    python -m training.build_video --emojibase package/en/data.json --work build-video --out embedded/emoji-motion

Every step is skipped when its result is there, and an interrupted training continues: run the same command again. Seeds
are fixed; the trainings' budgets are minutes, so another machine takes other numbers of steps and gets other weights.
Decoder and transformer do not need each other: on two cores, their commands may run side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import emoji_data, export_video, motion_data, train_video_codec, train_video_encoder, train_video_transformer


def build(emojibase: Path, font: Path, work: Path, out: Path, minutes: dict[str, float], seed: int) -> None:
    sprites, encoder, codec, transformer = (work / name for name in ("sprites.npz", "encoder", "codec", "transformer"))
    work.mkdir(parents=True, exist_ok=True)
    if not sprites.exists():
        motion_data.draw_sprites(font, emojibase, seed).save(sprites)
    if not (encoder / "report.json").exists():
        settings = train_video_encoder.Settings(seed=seed)
        train_video_encoder.train(sprites, encoder, minutes["encoder"], settings)
    if not (codec / "report.json").exists():
        train_video_codec.train(sprites, encoder, codec, minutes["decoder"], train_video_codec.Settings(seed=seed))
    if not (transformer / "report.json").exists():
        settings = train_video_transformer.Settings(seed=seed)
        train_video_transformer.train(sprites, encoder, transformer, minutes["transformer"], settings)
    export_video.export(sprites, transformer, codec, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emojibase", type=Path, required=True, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--font", type=Path, default=emoji_data.DEFAULT_FONT)
    parser.add_argument("--work", type=Path, default=Path("build-video"), help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=Path("embedded/emoji-motion"))
    for part, default in (("encoder", 7.0), ("decoder", 47.0), ("transformer", 46.0)):
        parser.add_argument(f"--{part}-minutes", type=float, default=default)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    budgets = {part: getattr(a, f"{part}_minutes") for part in ("encoder", "decoder", "transformer")}
    build(a.emojibase, a.font, a.work, a.out, budgets, a.seed)
