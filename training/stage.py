"""The things and grounds of the small video model's clips, from the sprites and places of the picture model.

    python -m training.stage --sprites build/sprites.npz --places build/places.npz --root / --out build-video/stage.npz

Beside the places it takes a photographed meadow, and whole panoramas, long enough for a camera to pan over. The right end of
every wide picture is held out: ground of the same kind that no training shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from . import places
from .motion_data import GROUND, THING, Stage
from .places import BLENDER, LOMIRI, Part, Places
from .sprites import Sprites

THINGS = (
    "red apple", "pear", "lemon", "strawberry", "pineapple", "mushroom", "hamburger", "doughnut", "cupcake", "cat", "fox",
    "panda", "frog", "penguin", "ladybug", "octopus", "sunflower", "cactus", "car", "rocket", "robot", "ghost", "pumpkin",
    "basketball",
)  # fmt: skip
STYLES = ("twemoji", "fluent flat")  # shading is more than codes of 8 px can hold
COLOUR = "red"  # of things that come in several
BOX = 30  # pixels, longest side of a drawn thing
# Beginnings of places that a camera has nothing to show of, or whose photograph stands below.
LEFT_OUT = ("plain", "cork", "brick", "pebbles", "meadow", "autumn trees")
SHORT_SIDE = 128  # pixels that pictures are scaled to
HELD_OUT = 128  # pixels at the right end of pictures of at least three times that
PHOTOGRAPHS = (
    Part("", f"{LOMIRI}/seeding_by_Clements_Engelhardt.jpg", scale=0.09),
    *(part for part in places.PARTS if part.place == "autumn trees"),
    *(Part("", f"{BLENDER}/{name}.exr", top=0.3, bottom=0.72) for name in ("courtyard", "sunrise", "night", "sunset")),
)


def things(sprites: Sprites) -> tuple[list[str], np.ndarray]:
    """Names [T] and art uint8 [T, THING, THING, 4]."""
    rows = zip(sprites.things, sprites.colours, sprites.styles, sprites.images, strict=True)
    chosen = [(name, small(image)) for name, colour, style, image in rows
              if name in THINGS and style in STYLES and colour in ("", COLOUR)]  # fmt: skip
    names, art = zip(*chosen, strict=True)
    return list(names), np.stack(art)


def small(image: np.ndarray) -> np.ndarray:
    """A sprite fitted into BOX, in the middle of a thing's square."""
    premultiplied = Image.fromarray(image).convert("RGBa")  # what is invisible must not bleed into the edges
    margin = (THING - BOX) // 2
    fitted = np.asarray(premultiplied.resize((BOX, BOX), Image.Resampling.BOX).convert("RGBA"))
    return np.pad(fitted, ((margin, margin), (margin, margin), (0, 0)))


def scaled(picture: np.ndarray) -> np.ndarray:
    factor = SHORT_SIDE / min(picture.shape[:2])
    size = [round(side * factor) for side in picture.shape[1::-1]]
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def build(sprites: Sprites, grounds: Places, root: Path) -> Stage:
    names, art = things(sprites)
    pictures = [
        picture for place, all_ in grounds.pictures.items() if not place.startswith(LEFT_OUT) for picture in all_
    ]
    pictures += [places.cut(part, root) for part in PHOTOGRAPHS]
    photos, held_out = [], []
    for picture in map(scaled, pictures):
        end = picture.shape[1] - HELD_OUT if picture.shape[1] >= 3 * HELD_OUT else picture.shape[1]
        for part, measures in ((picture[:, :end], False), (picture[:, end:], True)):
            if part.shape[1] >= GROUND:
                photos.append(part)
                held_out.append(measures)
    return Stage(names, art, photos, held_out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True, help="file written by training.sprites")
    parser.add_argument("--places", type=Path, required=True, help="file written by training.places")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    stage = build(Sprites.load(a.sprites), Places.load(a.places), a.root)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    stage.save(a.out)
    print(f"{len(stage.names)} pictures of {len(set(stage.names))} things")
    print(f"{len(stage.photos)} pieces of ground, {sum(stage.held_out)} of them held out")
