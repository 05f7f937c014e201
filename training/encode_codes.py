"""Encode every picture of the data set with the trained codec.

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
from .train_codec import CONFIG, pixels_of


def encode(data: Path, codec: Path, batch: int = 32) -> torch.Tensor:
    """Codes [M, 256] int16 of all pictures."""
    model = VQGAN(CONFIG).eval()
    model.load_state_dict(torch.load(codec / "training.pt", weights_only=True)["model"])
    images = emoji_data.load(data).images
    starts = tqdm(range(0, len(images), batch), desc="encoding", mininterval=10)
    codes = [model.encode(pixels_of(images, slice(i, i + batch))).flatten(1).short() for i in starts]
    return torch.cat(codes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codec", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    save_file({"codes": encode(arguments.data, arguments.codec)}, arguments.out)
