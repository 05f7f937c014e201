"""Clips that the small video model is shown and measured on: held out from its training, given by first frame and caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import motion_data
from .motion_data import Clip, Drawer, Sprites


@dataclass(frozen=True)
class Example:
    clip: Clip
    caption: str
    frames: np.ndarray  # uint8 [FRAMES, SIZE, SIZE, 3], as they should become

    @property
    def first_frame(self) -> Tensor:
        """[1, 3, SIZE, SIZE] in 0..1."""
        return torch.from_numpy(self.frames[:1].copy()).permute(0, 3, 1, 2).float() / 255


def caption(clip: Clip, names: list[str]) -> str:
    """The caption that says everything, in the first verb of its kind."""
    words = [
        "the",
        names[clip.glyph],
        motion_data.VERBS[clip.kind][0],
        clip.direction or "still" * (clip.kind == "stands"),
    ]
    return " ".join(filter(None, words))


def held_out(sprites: Sprites, count: int, seed: int = 0) -> list[Example]:
    """`count` held-out clips, the motions in turn, the glyphs all different as long as there are some left."""
    clips = Drawer(len(sprites.names), seed).held_out
    order = np.random.default_rng((seed, 11)).permutation(len(clips))
    motions, shown, chosen = motion_data.motions(), set(), []
    while len(chosen) < count:
        wanted = motions[len(chosen) % len(motions)]
        fitting = [clips[i] for i in order if (clips[i].kind, clips[i].direction) == wanted and clips[i] not in chosen]
        clip = next((clip for clip in fitting if clip.glyph not in shown), fitting[0])
        shown.add(clip.glyph)
        chosen.append(clip)
    return [Example(clip, caption(clip, sprites.names), motion_data.render(sprites, clip)) for clip in chosen]
