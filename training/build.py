"""Rebuild the embedded model from zero: data set, codec, codes, tokenizer, transformer, checkpoint directory.

    apt-get install fonts-noto-color-emoji
    npm pack emojibase-data@17.0.0 && tar xf emojibase-data-17.0.0.tgz
    python -m training.build --emojibase package/en/data.json --work build --out embedded/emoji-256

Every step is skipped when its result is there, and an interrupted training continues: run the same command again. Seeds
are fixed; the trainings' budgets are minutes, so another machine takes other numbers of steps and gets other weights.
`--keep-codec embedded/emoji-256` takes codec and tokenizer from a checkpoint and trains the transformer (and, unless its
minutes are 0, the decoder once more).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import save_file

from mcsjd_core import load

from . import build_tokenizer, emoji_data, encode_codes, export, schedule, train_codec, train_transformer


def adopt(checkpoint: Path, codec: Path, tokenizer: Path) -> None:
    """Put codec and tokenizer of a checkpoint directory where the first steps would have written them."""
    codec.mkdir(parents=True, exist_ok=True)
    schedule.save(codec / "training.pt", {"model": load(checkpoint).codec.state_dict()})
    shutil.copyfile(checkpoint / "codec_report.json", codec / "report.json")
    shutil.copyfile(checkpoint / "tokenizer.json", tokenizer)


def build(
    emojibase: Path, font: Path, work: Path, out: Path, minutes: dict[str, float], seed: int, keep: Path | None = None
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    data, codec, decoder, transformer = (work / name for name in ("emoji", "codec", "decoder", "transformer"))
    codes, tokenizer = work / "codes.safetensors", work / "tokenizer.json"
    if not (data / "variants.json").exists():
        emoji_data.write_set(data, font, emojibase, seed)
    if keep is not None and not (codec / "report.json").exists():
        adopt(keep, codec, tokenizer)
    if not (codec / "report.json").exists():
        train_codec.train(data, codec, minutes["codec"], train_codec.Settings(seed=seed))
    if not codes.exists():
        save_file({"codes": encode_codes.encode(data, codec)}, codes)
    if not tokenizer.exists():
        build_tokenizer.build(data, build_tokenizer.MERGES, seed).save(str(tokenizer))
    if not (transformer / "report.json").exists():
        train_transformer.train(
            data, codes, tokenizer, transformer, minutes["transformer"], train_transformer.Settings(seed=seed)
        )
    if not minutes["decoder"]:
        decoder = codec
    if not (decoder / "report.json").exists():  # the codes stay valid: encoder and codebook are kept
        settings = train_codec.Settings.for_decoder(seed)
        train_codec.train(data, decoder, minutes["decoder"], settings, start_from=codec)
    export.export(transformer, decoder, tokenizer, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emojibase", type=Path, required=True, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--font", type=Path, default=emoji_data.DEFAULT_FONT)
    parser.add_argument("--work", type=Path, default=Path("build"), help="folder for everything in between")
    parser.add_argument("--out", type=Path, default=Path("embedded/emoji-256"))
    for part, default in (("codec", 52.0), ("transformer", 90.0), ("decoder", 24.0)):
        parser.add_argument(f"--{part}-minutes", type=float, default=default)
    parser.add_argument("--keep-codec", type=Path, help="checkpoint directory whose codec and tokenizer to keep")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    budgets = {"codec": a.codec_minutes, "transformer": a.transformer_minutes, "decoder": a.decoder_minutes}
    build(a.emojibase, a.font, a.work, a.out, budgets, a.seed, a.keep_codec)
