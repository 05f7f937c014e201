"""A stage for clips, of noise: enough to see what is where."""

from __future__ import annotations

import numpy as np

from training.motion_data import THING, Stage

NAMES = ["red apple", "fox", "star", *(f"thing {number}" for number in range(11))]


def stage() -> Stage:
    """Opaque things inside their squares, and pieces of ground that are all different, the last one held out."""
    rng = np.random.default_rng(0)
    art = rng.integers(256, size=(len(NAMES), THING, THING, 4)).astype(np.uint8)
    art[..., 3] = 255
    photos = [rng.integers(256, size=(100 + 9 * i, 130 - 9 * i, 3)).astype(np.uint8) for i in range(3)]
    return Stage(NAMES, art, photos, [False, False, True])
