"""Recoloured copies of glyphs: the one dominant colour of a glyph moved to another that has a word of its own."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# Median hue (degrees), saturation and value (0..1) of what people call by the word.
COLOURS = {
    "red": (0, 0.85, 0.85),
    "orange": (30, 0.92, 0.98),
    "yellow": (52, 0.80, 0.98),
    "green": (125, 0.65, 0.65),
    "blue": (215, 0.80, 0.88),
    "purple": (278, 0.65, 0.68),
    "pink": (335, 0.42, 0.98),
    "brown": (22, 0.65, 0.45),
}
HUE_WINDOW = 25  # degrees either side that still count as the same hue
DOMINANT_OF_SATURATED = 0.45  # share of one hue; below, the glyph is many-coloured
DOMINANT_OF_GLYPH = 0.35  # share of one hue; below, it is a grey or pale thing with a coloured detail


def to_hsv(art: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value in 0..1, each float64 [H, W]."""
    hsv = np.asarray(art.convert("RGB").convert("HSV")) / 255.0
    return hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3]; the inverse of to_hsv."""
    hsv = np.stack([hue % 360 / 360, saturation.clip(0, 1), value.clip(0, 1)], -1)
    return np.asarray(Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"))


def hue_difference(hue, other):
    """Signed angle from `other` to `hue` in degrees, -180..180."""
    return (hue - other + 180) % 360 - 180


def dominant_colour(art: Image.Image) -> tuple[float, float, float] | None:
    """Hue, saturation, value (medians) of the one hue that most of the glyph has, or None if there is no such hue."""
    hue, saturation, value = to_hsv(art)
    visible = np.asarray(art.getchannel("A")) > 128
    saturated = visible & (saturation > 0.35) & (value > 0.2)
    centres = np.arange(0, 360, 5)
    near = np.abs(hue_difference(hue[saturated], centres[:, None])) <= HUE_WINDOW  # [72, P]
    best = near.sum(1).argmax()
    chosen, centre = near[best], centres[best]
    if chosen.sum() <= max(DOMINANT_OF_SATURATED * saturated.sum(), DOMINANT_OF_GLYPH * visible.sum()):
        return None
    offset = np.median(hue_difference(hue[saturated][chosen], centre))
    medians = (np.median(channel[saturated][chosen]) for channel in (saturation, value))
    return (centre + offset) % 360, *medians


def colour_distance(colour: tuple, other: tuple) -> float:
    """0 is equal; above about 1 people use another word. The units are what one word spans: 25 degrees, 0.4, 0.35."""
    hue = hue_difference(colour[0], other[0])
    return math.hypot(hue / 25, (colour[1] - other[1]) / 0.4, (colour[2] - other[2]) / 0.35)


def nearest_colour(colour: tuple) -> str:
    return min(COLOURS, key=lambda word: colour_distance(COLOURS[word], colour))


def move_median(values: np.ndarray, median: float, target: float) -> np.ndarray:
    """Values in 0..1 moved so that the median becomes the target: scaled down, or bent up with 0 and 1 fixed, so that
    neither shadows nor highlights clip."""
    if target <= median:
        return values * (target / median)
    return values ** (math.log(target) / math.log(median))


def recolour(art: Image.Image, dominant: tuple[float, float, float], word: str) -> Image.Image:
    """The RGBA art with its dominant colour moved to the named one; other hues stay."""
    hue, saturation, value = to_hsv(art)
    offset = hue_difference(hue, dominant[0])
    target = COLOURS[word]
    # Half the hue spread: a yellow's orange shadows would become a blue's green ones.
    new_hue = target[0] + 0.5 * offset
    moved = from_hsv(
        new_hue, move_median(saturation, dominant[1], target[1]), move_median(value, dominant[2], target[2])
    )
    # Fading out over 20 degrees and over pale pixels leaves no hard seams; greys have no hue to move.
    weight = ((HUE_WINDOW + 20 - np.abs(offset)) / 20).clip(0, 1) * (saturation / 0.2).clip(0, 1)
    rgb = np.asarray(art.convert("RGB"))
    mixed = Image.fromarray((rgb + weight[..., None] * (moved.astype(float) - rgb)).round().astype(np.uint8))
    mixed.putalpha(art.getchannel("A"))
    return mixed
