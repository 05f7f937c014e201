"""Draw the sheet that shows what the small video model can and cannot do.

    python -m training.video_sheet --sprites build-video/sprites.npz --out docs/video.png

Held-out first frames with their captions, one for every motion, at the checkpoint's own settings; nothing is picked by
hand. Every second frame is shown, the given one first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcsjd_core import DecodeSettings, load, sample, start_codes, videos

from . import motion_data, video_examples
from .motion_data import Sprites


def first_codes(model, examples: list[video_examples.Example]) -> Tensor:
    """Codes [B, 1, rows, columns] of the examples' first frames."""
    return torch.cat([start_codes(model, example.first_frame) for example in examples])


def draw(model, examples: list[video_examples.Example], settings: DecodeSettings) -> list[np.ndarray]:
    """Drawn frames uint8 [FRAMES, SIZE, SIZE, 3] of every example."""
    captions = [example.caption for example in examples]
    tokens = sample(model, captions, settings, first_codes=first_codes(model, examples)).tokens
    frames = videos(model, tokens).movedim(2, -1)
    return list((frames * 255).round().byte().numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("embedded/emoji-motion"))
    parser.add_argument("--out", type=Path, default=Path("docs/video.png"))
    a = parser.parse_args()
    family, chosen = load(a.model), video_examples.held_out(Sprites.load(a.sprites), len(motion_data.motions()))
    law = family.defaults.law
    drawn = draw(family, chosen, DecodeSettings("maximal", family.defaults.window, law))
    motion_data.contact_sheet(drawn, [example.caption for example in chosen]).save(a.out)
