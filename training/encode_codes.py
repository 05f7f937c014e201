"""Encode the pictures of the data set that the transformer learns, with the trained codec.

python -m training.encode_codes --data build/emoji --codec build/codec --out build/codes.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from mcsjd_core.codecs.vqgan import VQGAN

from . import emoji_data
from .sequences import KIND_WEIGHTS
from .train_codec import CONFIG, pixels_of


def encode(data: Path, codec: Path, batch: int = 32) -> torch.Tensor:
    """Codes [M, 256] int16; -1 for shifted copies, which the transformer never sees."""
    model = VQGAN(CONFIG).eval()
    model.load_state_dict(torch.load(codec / "training.pt", weights_only=True)["model"])
    emoji = emoji_data.load(data)
    rows = [row for row, variant in enumerate(emoji.variants) if KIND_WEIGHTS[variant["kind"]]]
    places = (emoji_data.SIZE // CONFIG.downsampling) ** 2
    codes = torch.full((len(emoji.variants), places), -1, dtype=torch.int16)
    for start in tqdm(range(0, len(rows), batch), desc="encoding", mininterval=10):
        some = rows[start : start + batch]
        codes[some] = model.encode(pixels_of(emoji.images, some)).flatten(1).short()
    return codes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codec", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    save_file({"codes": encode(arguments.data, arguments.codec)}, arguments.out)
