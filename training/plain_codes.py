"""Give plain white one code: the encoder writes hundreds of different ones for it, which nobody can predict.

    python -m training.plain_codes --data build/emoji --codec build/codec --codes build/raw_codes.safetensors \
        --out build/codes.safetensors

A patch is plain where it and a margin of one pixel around it are white. All of them get the code that the encoder writes
most often there, and so do codes whose codebook rows are all but equal to that one's, wherever they stand.
`training.fit_codec` then teaches the codec to use the one code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from . import emoji_data
from .train_codec import CONFIG

WHITE = 250  # lowest value of any channel
# Wider margins leave too many codes of white behind; without one, codes that hold the edge beside them are lost as well.
MARGIN = 1  # pixels
NEAR = 0.3  # squared distance to the row of white below which a row means white too; rows are 0.5 apart as a rule


def codebook(codec: Path) -> Tensor:
    """Rows [K, d] of the codec that training.train_codec left in the folder `codec`."""
    return torch.load(codec / "training.pt", weights_only=True)["model"]["quantize.embedding.weight"]


def plain_patches(images: np.ndarray) -> Tensor:
    """bool [B, h, w]: which patches of uint8 pictures [B, H, W, 3] are plain white. Beyond the border all is white."""
    darkness = 255 - torch.from_numpy(images.min(-1).astype(np.float32))[:, None]
    patch = CONFIG.downsampling
    darkest = F.max_pool2d(F.pad(darkness, (MARGIN,) * 4), patch + 2 * MARGIN, stride=patch)
    return darkest[:, 0] <= 255 - WHITE


def unify(data: Path, codes: Tensor, book: Tensor, batch: int = 256) -> Tensor:
    """`codes` [M, N] of codebook `book` [K, d] with one code for plain white. Pictures without codes (negative ones) stay
    without."""
    images = emoji_data.load(data).images
    starts = range(0, len(images), batch)
    coded = codes >= 0
    plain = torch.cat([plain_patches(images[start : start + batch]) for start in starts]).flatten(1) & coded
    white = codes[plain].long().bincount().argmax()
    near = (book - book[white]).square().sum(1) < NEAR
    return torch.where(plain | (coded & near[codes.long()]), white.to(codes.dtype), codes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codec", "codes", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    rows = codebook(arguments.codec)
    save_file({"codes": unify(arguments.data, load_file(arguments.codes)["codes"], rows)}, arguments.out)
