"""Clips that the small video model is shown and measured on: held-out ground, given by first frame and caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import motion_data
from .motion_data import Clip, Stage


@dataclass(frozen=True)
class Example:
    clip: Clip
    caption: str
    frames: np.ndarray  # uint8 [FRAMES, SIZE, SIZE, 3], as they might become

    @property
    def first_frame(self) -> Tensor:
        """[1, 3, SIZE, SIZE] in 0..1."""
        return torch.from_numpy(self.frames[:1].copy()).permute(0, 3, 1, 2).float() / 255


def held_out(stage: Stage, count: int, seed: int = 0) -> list[Example]:
    """`count` clips, the motions and the things in turn; `seed` decides the rest."""
    rng, motions = np.random.default_rng((seed, 11)), motion_data.motions()
    names, examples = list(dict.fromkeys(stage.names)), []
    for number in range(count):
        name = names[number % len(names)]
        pictures = [i for i, other in enumerate(stage.names) if other == name]
        motion = motions[number % len(motions)]
        clip = motion_data.draw_clip(stage, rng, motion, held_out=True, thing=int(rng.choice(pictures)))
        examples.append(Example(clip, motion_data.caption(stage, clip), motion_data.render(stage, clip)))
    return examples
