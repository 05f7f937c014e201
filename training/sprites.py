"""Cut-out pictures of the things in `things.csv`, in up to four depictions each.

    apt-get install fonts-noto-color-emoji
    npm install --prefix build/npm fluentui-emoji@1.3.0 @lobehub/fluent-emoji-3d@1.1.0 @twemoji/svg@15.0.0
    pip install fonttools resvg-py
    python -m training.sprites --npm build/npm/node_modules --out build/sprites.npz

Authors and licences stand in `sources.csv`.
"""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mcsjd_core.whole_files import replace_whole

from .recolour import dominant_colour, nearest_colour, recolour

SIZE = 128  # pixels of a stored sprite: a square that its longer side fills
THINGS = Path(__file__).with_name("things.csv")
NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STYLES = ("noto", "twemoji", "fluent flat", "fluent 3d")
# What the things marked `coloured` are there in. Brown is left out: on wood and sand it is no colour.
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
# What the image model learns: few enough shapes that each is seen hundreds of times in two hours of two CPU cores.
SCENE_STYLES = ("twemoji", "fluent flat")
SCENE_COLOURS = ("", "red", "yellow", "green", "blue", "purple")


@dataclass
class Sprites:
    """Pictures with alpha, and what each shows. `colours` holds "" where the caption should name none."""

    images: np.ndarray  # [S, SIZE, SIZE, 4] uint8
    things: list[str]  # name of each sprite's thing
    colours: list[str]
    styles: list[str]

    @classmethod
    def load(cls, path: Path) -> Sprites:
        data = np.load(path)
        return cls(data["images"], *(data[name].tolist() for name in ("things", "colours", "styles")))

    def save(self, path: Path) -> None:
        parts = vars(self)
        replace_whole(path, lambda part: np.savez_compressed(part, **parts))

    def of_scenes(self) -> Sprites:
        """Those that the image model learns; the others are the video model's alone."""
        with THINGS.open() as file:
            chosen = {row["name"] for row in csv.DictReader(file) if row["scenes"]}
        rows = [
            row
            for row, (name, colour, style) in enumerate(zip(self.things, self.colours, self.styles, strict=True))
            if name in chosen and colour in SCENE_COLOURS and style in SCENE_STYLES
        ]
        return Sprites(
            self.images[rows], *([all_[r] for r in rows] for all_ in (self.things, self.colours, self.styles))
        )

    @property
    def names(self) -> list[str]:
        """The things' names, in the order of `things.csv`."""
        return list(dict.fromkeys(self.things))


class NotoFont:
    """Colour bitmaps of single characters from a CBDT font."""

    def __init__(self, path: Path):
        from fontTools.ttLib import TTFont  # only needed here: training itself loads the finished sprites

        font = TTFont(path)
        self.cmap, self.strikes = font.getBestCmap(), font["CBDT"].strikeData[0]

    def picture(self, codepoint: int) -> Image.Image:
        return Image.open(io.BytesIO(self.strikes[self.cmap[codepoint]].imageData)).convert("RGBA")


def from_svg(path: Path) -> Image.Image:
    """An SVG drawn at twice the size of a sprite."""
    import resvg_py

    picture = resvg_py.svg_to_bytes(svg_string=path.read_text(), width=2 * SIZE, height=2 * SIZE)
    return Image.open(io.BytesIO(bytes(picture))).convert("RGBA")


def fitted(picture: Image.Image) -> Image.Image:
    """The visible part, scaled to fill a SIZE x SIZE square with its longer side, in the middle of it."""
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
    scale = SIZE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((SIZE - width) // 2, (SIZE - height) // 2))
    return square


def depictions(row: dict, noto: NotoFont, npm: Path) -> dict[str, Image.Image]:
    """The pictures of one thing by style; a style that does not have it is missing."""
    code = row["codepoint"]
    found = {"noto": fitted(noto.picture(int(code, 16)))}
    svgs = {
        "twemoji": npm / "@twemoji/svg" / f"{code}.svg",
        "fluent flat": npm / "fluentui-emoji/icons/flat" / f"{row['fluent']}.svg",
    }
    found |= {style: fitted(from_svg(path)) for style, path in svgs.items() if path.is_file()}
    for name in (f"{code}.webp", f"{code}-fe0f.webp"):
        path = npm / "@lobehub/fluent-emoji-3d/assets" / name
        if path.is_file():
            found["fluent 3d"] = fitted(Image.open(path).convert("RGBA"))
    return found


def coloured(picture: Image.Image) -> dict[str, Image.Image]:
    """The picture in every one of COLOURS, its own included; nothing if no one colour rules it."""
    dominant = dominant_colour(picture)
    if dominant is None:
        return {}
    own = nearest_colour(dominant)
    return {word: picture if word == own else recolour(picture, dominant, word) for word in COLOURS}


def build(npm: Path, noto: Path) -> Sprites:
    font, sprites = NotoFont(noto), []
    with THINGS.open() as file:
        for row in csv.DictReader(file):
            for style, picture in depictions(row, font, npm).items():
                by_colour = (coloured(picture) if row["coloured"] else {}) or {"": picture}
                sprites += [(np.asarray(image), row["name"], colour, style) for colour, image in by_colour.items()]
    images, things, colours, styles = zip(*sprites, strict=True)
    return Sprites(np.stack(images), list(things), list(colours), list(styles))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm", type=Path, required=True, help="node_modules folder with the three packages")
    parser.add_argument("--noto", type=Path, default=NOTO)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    made = build(a.npm, a.noto)
    made.save(a.out)
    print(f"{len(made.images)} sprites of {len(made.names)} things written to {a.out}")
