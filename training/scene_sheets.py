"""Draw the sheets by which the embedded image model is judged.

    python -m training.scene_sheets --sprites build/sprites.npz --places build/places.npz --out docs

`quality.webp`: 24 prompts x 4 seeds; `unseen_pairs.webp`: 8 prompts whose thing never stood in that place in training. Settings
are the checkpoint's own, the coupling is `maximal`, seeds 0 to 3; nothing is picked by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load, pictures, sample, to_image

from .prompts import QUALITY, unseen_pairs
from .scenes import SIZE, Scenes

SEEDS, TILE, LABEL = 4, SIZE, 20


def draw_rows(model, prompts: tuple[str, ...], columns: int) -> Image.Image:
    """Every prompt's SEEDS pictures side by side under its text, `columns` prompts in a row."""
    width, height = SEEDS * TILE + 12, TILE + LABEL + 8
    sheet = Image.new("RGB", (columns * width, -(-len(prompts) // columns) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    settings = DecodeSettings("maximal", model.defaults.window, model.defaults.law)
    for number, prompt in enumerate(prompts):
        x, y = number % columns * width, number // columns * height
        pen.text((x + 4, y + 1), prompt, "black", font)
        tokens = sample(model, [prompt] * SEEDS, settings).tokens
        for seed, picture in enumerate(pictures(model, tokens)):
            sheet.paste(to_image(picture), (x + seed * TILE, y + LABEL))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    for name in ("sprites", "places", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    model = load(a.model)
    draw_rows(model, QUALITY, 3).save(a.out / "quality.webp", quality=90)
    draw_rows(model, unseen_pairs(Scenes.load(a.sprites, a.places)), 2).save(a.out / "unseen_pairs.webp", quality=90)
