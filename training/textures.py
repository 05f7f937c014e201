"""Drawn grounds for places of which there is no freely licensed photograph that fits, or too few: sky, stars, sand, water,
planks, a meadow, trees in autumn, plain colours.

Every function gives one picture [size, size, 3] in 0..1 from a random generator; no two calls give the same.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from .recolour import COLOURS


def fractal_noise(rng: np.random.Generator, size: int, coarsest: int, stretch: float = 1.0) -> np.ndarray:
    """Noise [size, size] of mean 0 and deviation 1: octaves from `coarsest` cells a side up, each half as strong.

    `stretch` above 1 makes its features that many times wider than high.
    """
    total, strength, cells = np.zeros((size, size)), 1.0, coarsest
    while cells <= size // 2:
        columns = max(2, round(cells / stretch))
        grid = rng.normal(size=(cells + 1, columns + 1))
        total += strength * zoom(grid, (size / (cells + 1), size / (columns + 1)), order=1)[:size, :size]
        strength, cells = strength / 2, cells * 2
    return (total - total.mean()) / total.std()


def mixed(low, high, share: np.ndarray) -> np.ndarray:
    """From colour `low` to colour `high` by a share [H, W] in 0..1."""
    share = share[..., None].clip(0, 1)
    return np.asarray(low) * (1 - share) + np.asarray(high) * share


def cloudy_sky(rng: np.random.Generator, size: int) -> np.ndarray:
    height = np.linspace(0, 1, size)[:, None] * np.ones(size)
    blue = mixed((0.22, 0.48, 0.82), (0.55, 0.75, 0.95), height + rng.uniform(-0.3, 0.3))
    cover = fractal_noise(rng, size, 4, 2.0) * 0.5 + rng.uniform(0.0, 0.3)
    shade = mixed((0.85, 0.88, 0.93), (1, 1, 1), 0.5 + 0.4 * fractal_noise(rng, size, 8, 2.0))
    return mixed(np.zeros(3), np.ones(3), cover) * shade + (1 - cover[..., None].clip(0, 1)) * blue


def starry_sky(rng: np.random.Generator, size: int) -> np.ndarray:
    haze = (0.5 + 0.35 * fractal_noise(rng, size, 3)).clip(0, 1)
    tint = np.array(((0.10, 0.10, 0.28), (0.20, 0.08, 0.30), (0.05, 0.16, 0.28))[rng.integers(3)])
    picture = mixed((0.01, 0.01, 0.05), tint, haze)
    # Codes show the larger two kinds; single pixels alone, as many as there are, leave the sky empty.
    for brightness, count, blur in (
        (1.5, size * size // 260, 0.5),
        (16.0, size * size // 700, 1.0),
        (40.0, size * size // 2000, 1.5),
    ):
        picture += gaussian_filter(scattered(rng, size, count), blur)[..., None] * brightness * (1.0, 0.97, 0.9)
    return picture


def scattered(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` single pixels of 0.5 to 1.6 on 0: [size, size]."""
    points = np.zeros((size, size))
    points[rng.integers(size, size=count), rng.integers(size, size=count)] = rng.uniform(0.5, 1.6, count)
    return points


def meadow(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grass with flowers of three colours, each some 6 px wide, so that a code can show one."""
    blades = fractal_noise(rng, size, 32, 0.25) * 0.5 + fractal_noise(rng, size, 4) * 0.5
    picture = mixed((0.22, 0.42, 0.10), (0.55, 0.74, 0.26), 0.5 + 0.3 * blades)
    for colour in ((0.98, 0.97, 0.95), (0.98, 0.85, 0.20), rng.choice(((0.86, 0.25, 0.30), (0.70, 0.40, 0.80)))):
        petals = gaussian_filter(scattered(rng, size, size * size // 600), 1.8) * 40
        picture = mixed(0, 1, petals) * colour + picture * (1 - petals.clip(0, 1))[..., None]
    return picture


def sand(rng: np.random.Generator, size: int) -> np.ndarray:
    rows = np.arange(size)[:, None] + 5 * fractal_noise(rng, size, 4, 2.0)
    ripples = np.sin(rows * rng.uniform(0.3, 0.55)) * rng.uniform(0.02, 0.08)
    light = ripples + 0.035 * rng.normal(size=(size, size)) + 0.04 * fractal_noise(rng, size, 4)
    return np.array((0.87, 0.75, 0.55)) + light[..., None] * (1, 0.95, 0.85)


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    waves = fractal_noise(rng, size, 10, 4.0)
    glitter = (np.abs(fractal_noise(rng, size, 14, 3.5)) < 0.12) * 0.5
    base = mixed((0.05, 0.28, 0.45), (0.25, 0.60, 0.75), 0.5 + 0.25 * waves)
    return base + gaussian_filter(glitter, 0.6)[..., None] * 0.5


def wooden_planks(rng: np.random.Generator, size: int) -> np.ndarray:
    picture, top = np.zeros((size, size, 3)), 0
    brown = np.array(((0.60, 0.40, 0.23), (0.48, 0.30, 0.17), (0.70, 0.52, 0.33))[rng.integers(3)])
    while top < size:
        height = min(int(rng.integers(24, 40)), size - top)
        grain = fractal_noise(rng, size, 24, 12.0)[:height] * 0.06 + rng.uniform(-0.06, 0.06)
        picture[top : top + height] = brown * (1 + grain[..., None] * 1.6)
        picture[top : top + 2] *= 0.45
        top += height
    return picture


def autumn_trees(rng: np.random.Generator, size: int) -> np.ndarray:
    """Crowns of red, orange and yellow leaves, each some 10 px wide, darker lower down and between the crowns."""
    shade = fractal_noise(rng, size, 5) * 0.06 + np.linspace(0.05, -0.05, size)[:, None]
    picture = mixed((0.30, 0.18, 0.10), (0.55, 0.32, 0.12), 0.5 + 4 * shade)
    hue = rng.uniform(-0.03, 0.03)
    for colour in ((0.62, 0.20, 0.10), (0.80, 0.40, 0.10), (0.72, 0.30, 0.12), (0.90, 0.64, 0.18), (0.45, 0.42, 0.14)):
        leaves = gaussian_filter(scattered(rng, size, size * size // 130), 2.4) * 46
        painted = np.asarray(colour) + np.array((0.0, hue, 0.0)) + shade[..., None]
        picture = mixed(0, 1, leaves) * painted + picture * (1 - leaves.clip(0, 1))[..., None]
    return picture


def plain(rng: np.random.Generator, size: int, colour: str) -> np.ndarray:
    """One colour, sometimes running from light to dark."""
    hue = np.array({"white": (0.97, 0.97, 0.97), "black": (0.08, 0.08, 0.09)}.get(colour) or rgb(colour))
    angle = rng.uniform(0, 2 * np.pi)
    down, right = np.meshgrid(*(np.linspace(-1, 1, size),) * 2, indexing="ij")
    slope = (np.cos(angle) * down + np.sin(angle) * right) * rng.choice((0.0, 0.12, 0.22))
    return (hue + rng.uniform(-0.04, 0.04, 3)) * np.ones((size, size, 1)) + slope[..., None]


def rgb(colour: str) -> tuple[float, float, float]:
    """A named colour of recolour.COLOURS, a little paler, so that things of that colour still show."""
    import colorsys

    hue, saturation, value = COLOURS[colour]
    return colorsys.hsv_to_rgb(hue / 360, saturation * 0.7, min(1.0, value * 1.05))


DRAWN = {
    "cloudy sky": cloudy_sky, "starry sky": starry_sky, "sand": sand, "water": water, "wood": wooden_planks,
    "meadow": meadow, "autumn trees": autumn_trees,
}  # fmt: skip
PLAIN_COLOURS = ("white", "black", "red", "yellow", "green", "blue", "purple", "pink")
