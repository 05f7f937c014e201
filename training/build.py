"""Rebuild the embedded model from zero: data set, codec, codes, tokenizer, transformer, fitted codec, checkpoint.

    apt-get install fonts-noto-color-emoji
    npm pack emojibase-data@17.0.0 && tar xf emojibase-data-17.0.0.tgz
    python -m training.build --emojibase package/en/data.json --work build --out embedded/emoji-256

Every step is skipped when its result is there, and an interrupted training continues: run the same command again. Seeds
are fixed; the trainings' budgets are minutes, so another machine takes other numbers of steps and gets other weights.
`--start-from embedded/emoji-256` takes codec and tokenizer of a checkpoint and trains its transformer and codec further.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import save_file

from mcsjd_core import load

from . import build_tokenizer, emoji_data, encode_codes, export, fit_codec, plain_codes, schedule, train_codec
from . import train_transformer as transformer_training


def adopt(checkpoint: Path, codec: Path, tokenizer: Path) -> None:
    """Put codec and tokenizer of a checkpoint directory where the first steps would have written them."""
    codec.mkdir(parents=True, exist_ok=True)
    schedule.save(codec / "training.pt", {"model": load(checkpoint).codec.state_dict()})
    shutil.copyfile(checkpoint / "codec_report.json", codec / "report.json")
    shutil.copyfile(checkpoint / "tokenizer.json", tokenizer)


def build(
    emojibase: Path, font: Path, work: Path, out: Path, minutes: dict[str, float], seed: int,
    start_from: Path | None = None,
) -> None:  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    data, codec, fitted, transformer = (work / name for name in ("emoji", "codec", "fitted", "transformer"))
    codes, tokenizer = work / "codes.safetensors", work / "tokenizer.json"
    if not (data / "variants.json").exists():
        emoji_data.write_set(data, font, emojibase, seed)
    if start_from is not None and not (codec / "report.json").exists():
        adopt(start_from, codec, tokenizer)
    if not (codec / "report.json").exists():
        train_codec.train(data, codec, minutes["codec"], train_codec.Settings(seed=seed))
    if not codes.exists():
        raw = encode_codes.encode(data, codec)
        save_file({"codes": plain_codes.unify(data, raw, plain_codes.codebook(codec))}, codes)
    if not tokenizer.exists():
        build_tokenizer.build(data, build_tokenizer.MERGES, seed).save(str(tokenizer))
    if not (transformer / "report.json").exists():
        settings = transformer_training.Settings(seed=seed)
        transformer_training.train(data, codes, tokenizer, transformer, minutes["transformer"], settings, start_from)
    if not (fitted / "report.json").exists():
        fit_codec.train(data, codes, codec, fitted, minutes["fit"], fit_codec.Settings(seed=seed))
    export.export(transformer, fitted, tokenizer, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emojibase", type=Path, required=True, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--font", type=Path, default=emoji_data.DEFAULT_FONT)
    parser.add_argument("--work", type=Path, default=Path("build"), help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=Path("embedded/emoji-256"))
    for part, default in (("codec", 76.0), ("transformer", 160.0), ("fit", 25.0)):
        parser.add_argument(f"--{part}-minutes", type=float, default=default)
    parser.add_argument("--start-from", type=Path, help="checkpoint directory to begin with, in place of nothing")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    budgets = {"codec": a.codec_minutes, "transformer": a.transformer_minutes, "fit": a.fit_minutes}
    build(a.emojibase, a.font, a.work, a.out, budgets, a.seed, a.start_from)
