"""Draw the pack's icon and banner for the ComfyUI registry.

    python scripts/make_icon.py docs

A grid of tokens: committed ones dark, those that one forward accepts green, a window of drafts light.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ICON, BANNER = (400, 400), (1260, 540)  # the registry asks for a square of at most 400 pixels, and for 21 : 9
SCALE = 4  # drawn larger, so that edges are smooth
INK, GREY = "#1c1c22", "#6b6b76"
COMMITTED, ACCEPTED, DRAFT, EMPTY = "#475569", "#16a34a", "#bfdbfe", "#eef1f5"
COLUMNS, ROWS, DONE, TAKEN, DRAFTED = 5, 5, 8, 6, 17  # tokens, in reading order: committed, then accepted, then drafts


def colour_of(token: int) -> str:
    if token < DONE:
        return COMMITTED
    return ACCEPTED if token < DONE + TAKEN else DRAFT if token < DRAFTED + TAKEN else EMPTY


def draw_grid(pen: ImageDraw.ImageDraw, left: float, top: float, side: float) -> None:
    """The grid in a square with these pixels a side."""
    cell = side / COLUMNS
    for token in range(ROWS * COLUMNS):
        x, y = left + token % COLUMNS * cell, top + token // COLUMNS * cell
        gap = cell * 0.08
        box = (x + gap, y + gap, x + cell - gap, y + cell - gap)
        pen.rounded_rectangle(box, radius=cell * 0.2, fill=colour_of(token))


def canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    return image, ImageDraw.Draw(image)


def icon() -> Image.Image:
    image, pen = canvas(ICON)
    draw_grid(pen, 30 * SCALE, 30 * SCALE, 340 * SCALE)
    return image.resize(ICON, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    image, pen = canvas(BANNER)
    draw_grid(pen, 90 * SCALE, 90 * SCALE, 360 * SCALE)
    for y, text, size, colour in (
        (150, "MC-SJD", 120, INK),
        (300, "autoregressive pictures and videos", 38, GREY),
        (350, "in a fraction of the forward passes", 38, GREY),
    ):
        font = ImageFont.load_default(size * SCALE)
        pen.text((540 * SCALE, y * SCALE), text, colour, font)
    return image.resize(BANNER, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    icon().save(folder / "icon.png", optimize=True)
    banner().save(folder / "banner.png", optimize=True)
