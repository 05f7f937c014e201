"""Draw the sheets that show what the embedded model can and cannot do.

    python -m training.sheets --out docs

`quality.png`: 24 prompts x 4 seeds; `combinations.png`: 8 prompts that join a colour and a thing, most of which no emoji
shows. Settings are the checkpoint's own, the coupling is `maximal`; nothing is picked by hand. `--window` changes the time
it takes and the draws, not the law that they follow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load, pictures, sample
from mcsjd_core.pipeline.image_files import to_image

QUALITY = (
    "red apple", "smiling face with sunglasses", "rocket", "cat face", "flag of japan", "grinning face",
    "red heart", "sunflower", "house", "umbrella", "automobile", "soccer ball",
    "dog face", "pizza", "thumbs up", "evergreen tree", "crying face", "crescent moon",
    "flag of france", "locked", "penguin", "woman firefighter", "hamburger", "check mark button",
)  # fmt: skip
COMBINATIONS = (
    "green heart", "blue book", "purple apple", "pink automobile", "blue cat face", "red house", "green dog face",
    "purple sunflower",
)  # fmt: skip
SEEDS, TILE, LABEL = 4, 96, 18


def draw_rows(model, prompts: tuple[str, ...], columns: int, window: int) -> Image.Image:
    """Every prompt's SEEDS pictures side by side under its text, `columns` prompts in a row."""
    width, height = SEEDS * TILE + 12, TILE + LABEL + 8
    sheet = Image.new("RGB", (columns * width, -(-len(prompts) // columns) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    settings = DecodeSettings("maximal", window, model.defaults.law)
    for number, prompt in enumerate(prompts):
        x, y = number % columns * width, number // columns * height
        pen.text((x + 4, y + 1), prompt, "black", font)
        tokens = sample(model, [prompt] * SEEDS, settings).tokens
        for seed, picture in enumerate(pictures(model, tokens)):
            sheet.paste(to_image(picture).resize((TILE, TILE), Image.Resampling.LANCZOS), (x + seed * TILE, y + LABEL))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--window", type=int, help="positions per forward; the checkpoint's own by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = load(arguments.model)
    window = arguments.window or model.defaults.window
    draw_rows(model, QUALITY, 3, window).save(arguments.out / "quality.png")
    draw_rows(model, COMBINATIONS, 2, window).save(arguments.out / "combinations.png")
