"""Draw the sheet that shows what the small video model can and cannot do.

    python -m training.video_sheet --stage build-video/stage.npz --out docs/video.png

First frames on held-out ground with their captions, one for every motion, at the checkpoint's own settings; nothing is
picked by hand. Every second frame is shown, the given one first.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcsjd_core import DecodeSettings, LawSettings, load, sample, start_codes, videos

from . import motion_data, video_examples
from .motion_data import Stage


def own_law(model, top_p: float | None = None) -> LawSettings:
    """The checkpoint's own settings, with another top-p if it is given."""
    law = model.defaults.law
    return law if top_p is None else replace(law, top_p=top_p)


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
    parser.add_argument("--stage", type=Path, required=True, help="file written by training.stage")
    parser.add_argument("--model", type=Path, default=Path("embedded/motion"))
    parser.add_argument("--examples", type=int, default=0, help="which held-out clips: a seed")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--top-p", type=float, help="the checkpoint's own if not given")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/video.png"))
    a = parser.parse_args()
    family = load(a.model)
    chosen = video_examples.held_out(Stage.load(a.stage), len(motion_data.motions()), a.examples)
    settings = DecodeSettings("maximal", family.defaults.window, own_law(family, a.top_p), seed=a.seed)
    drawn = draw(family, chosen, settings)
    motion_data.contact_sheet(drawn, [example.caption for example in chosen], scale=a.scale).save(a.out)
