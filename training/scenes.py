"""Scenes of the embedded image model: things over grounds, drawn anew for every sequence, and captions that say some of it.

A scene has one thing, or now and then two of different kinds, at a random size and near the middle's height, over a random crop
of one of a place's pictures. Corners of things lie on the codec's grid of 8 px, so that a thing looks the same to the codec
wherever it is, and at least a code from the edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .places import PHRASES, Places
from .sprites import Sprites
from .textures import DRAWN

SIZE, CELL = 192, 8  # pixels a side of a scene, of a code
COLUMNS = SIZE // CELL  # and rows of codes
# Least pixels a side of a crop where a place has photographs alone; SIZE is the most. Photographs are few: crops of one size
# would be known by heart. Drawn grounds are many, and drawn at the size that they are meant to have.
LEAST_CROP = 112
SIZES = {"small": 48, "": 72, "large": 96}  # pixels of a thing's longer side, by the word for it
SIZE_SHARES = (0.1, 0.6, 0.3)
# Pixels between things and the edges: a model that is wrong by a column or a row then cuts nothing off, and nothing runs over
# the end of one row into the beginning of the next.
MARGIN = CELL
# Things stand near the middle's height, as in photographs; one alone moves sideways in steps of two codes. If it could stand
# anywhere, each of hundreds of places would hold its first code so rarely that cutting the law's tail (top-k, min-p) would leave
# it out.
UP_AND_DOWN, STEP = 3 * CELL, 2 * CELL
TWO_THINGS = 0.06  # share of the scenes
MIRRORED = 0.0  # a mirrored thing is another shape to learn
# How often a caption says what it could leave open.
SAY_PLACE, SAY_SIZE, SAY_SIDE, SAY_COLOUR, SAY_ARTICLE = 0.85, 0.3, 0.3, 0.75, 0.7
HELD_OUT_EVERY = 16  # of all pairs of thing and place, one in so many is never trained on


@dataclass(frozen=True)
class Thing:
    sprite: int  # row of Sprites
    size: int  # pixels of its square
    left: int  # of the square's corner
    top: int
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    place: str
    picture: int  # which of the place's pictures
    crop: tuple[int, int, int]  # left, top and side of the square crop
    flipped: bool  # the ground
    light: float  # factor on the ground


def held_out(thing: int, place: int) -> bool:
    """Whether the pair of the thing and the place with these numbers is kept from training.

    A lattice, so that every thing misses one or two of the 24 places and every place the same share of the things.
    """
    return (7 * thing + 5 * place) % HELD_OUT_EVERY == 14


class Scenes:
    """Draws scenes, their pictures and their captions."""

    def __init__(self, sprites: Sprites, places: Places, thing_weights: Mapping[str, float] | None = None):
        """thing_weights: how often each thing comes, relative to the others; all alike if None."""
        self.sprites, self.places = sprites, places
        self.things, self.place_names = sprites.names, places.names
        weighted = thing_weights is not None
        self.thing_weights = np.array([thing_weights[name] for name in self.things]) if weighted else None
        numbers = {name: i for i, name in enumerate(self.things)}
        self.rows_of = [[] for _ in self.things]
        for row, name in enumerate(sprites.things):
            self.rows_of[numbers[name]].append(row)
        # Plain grounds are easy and alike: together they come as often as two other places.
        plain = [name.startswith("plain ") for name in self.place_names]
        weights = np.where(plain, 0.25, 1.0)
        self.place_weights = weights / weights.sum()
        self.photographed = {name for name, bare in zip(self.place_names, plain, strict=True) if not bare} - set(DRAWN)
        self.scaled = {size: premultiplied(sprites.images, size) for size in SIZES.values()}

    @classmethod
    def load(cls, sprites: Path, places: Path) -> Scenes:
        scenes = cls(Sprites.load(sprites).of_scenes(), Places.load(places))
        for place, pictures in scenes.places.pictures.items():
            least = LEAST_CROP if place in scenes.photographed else SIZE
            if min(min(picture.shape[:2]) for picture in pictures) < least:
                raise SystemExit(
                    f"{places} has a picture of {place} with a side below {least} px: write it anew by training.places."
                )
        return scenes

    def draw(self, rng: np.random.Generator, unseen: bool = False) -> Scene:
        """A scene whose pairs of thing and place are all trained on, or with `unseen` one thing in a held-out place."""
        place = rng.choice(len(self.place_names), p=self.place_weights)
        allowed = [thing for thing in range(len(self.things)) if held_out(thing, place) == unseen]
        two = not unseen and rng.random() < TWO_THINGS
        things = self.draw_two(rng, allowed) if two else (self.draw_one(rng, allowed),)
        return self.on_ground(rng, things, self.place_names[place])

    def draw_one(self, rng: np.random.Generator, allowed: list[int]) -> Thing:
        size = int(rng.choice(list(SIZES.values()), p=SIZE_SHARES))
        left = MARGIN + STEP * rng.integers((SIZE - 2 * MARGIN - size) // STEP + 1)
        return self.thing(rng, allowed, size, left, top_of(rng, size))

    def draw_two(self, rng: np.random.Generator, allowed: list[int]) -> tuple[Thing, Thing]:
        """Two things side by side, both of the middle size."""
        size = SIZES[""]
        lefts = (MARGIN + CELL * rng.integers(0, 2), SIZE // 2 + CELL * rng.integers(0, 2))
        first, second = (self.thing(rng, allowed, size, left, top_of(rng, size)) for left in lefts)
        return first, second

    def thing(self, rng: np.random.Generator, allowed: list[int], size: int, left: int, top: int) -> Thing:
        weights = None if self.thing_weights is None else self.thing_weights[allowed]
        thing = rng.choice(allowed, p=weights if weights is None else weights / weights.sum())
        row = rng.choice(self.rows_of[thing])
        return Thing(int(row), int(size), int(left), int(top), bool(rng.random() < MIRRORED))

    def on_ground(self, rng: np.random.Generator, things: tuple[Thing, ...], place: str) -> Scene:
        picture = int(rng.integers(len(self.places.pictures[place])))
        height, width = self.places.pictures[place][picture].shape[:2]
        side = int(rng.integers(LEAST_CROP, min(SIZE, height, width) + 1)) if place in self.photographed else SIZE
        crop = (int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side)
        return Scene(things, place, picture, crop, bool(rng.random() < 0.5), float(rng.uniform(0.85, 1.1)))

    def render(self, scene: Scene) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]."""
        left, top, side = scene.crop
        ground = self.places.pictures[scene.place][scene.picture][top : top + side, left : left + side]
        if side != SIZE:
            ground = np.asarray(Image.fromarray(ground).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        canvas = (ground[:, ::-1] if scene.flipped else ground).astype(np.float32) * scene.light
        for thing in scene.things:
            sprite = self.scaled[thing.size][thing.sprite].astype(np.float32)
            sprite = sprite[:, ::-1] if thing.mirrored else sprite
            window = canvas[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
            window *= 1 - sprite[..., 3:] / 255
            window += sprite[..., :3]
        return canvas.clip(0, 255).astype(np.uint8)

    def covered(self, scene: Scene) -> np.ndarray:
        """Whether a code shows some of a thing: bool [COLUMNS, COLUMNS]."""
        alpha = np.zeros((SIZE, SIZE), np.uint8)
        for thing in scene.things:
            sprite = self.scaled[thing.size][thing.sprite][..., 3]
            alpha[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size] |= (
                sprite[:, ::-1] if thing.mirrored else sprite
            )
        return alpha.reshape(COLUMNS, CELL, COLUMNS, CELL).max((1, 3)) > 32

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """What a user might write for the scene; the rest stays open."""
        article = rng.random() < SAY_ARTICLE
        words = " and ".join(self.words(thing, rng, article, len(scene.things) == 1) for thing in scene.things)
        if rng.random() < SAY_PLACE:
            words += " " + PHRASES[scene.place]
        if len(scene.things) == 1 and rng.random() < SAY_SIDE:
            words += side(scene.things[0])
        return words

    def words(self, thing: Thing, rng: np.random.Generator, article: bool, alone: bool) -> str:
        name, colour = self.sprites.things[thing.sprite], self.sprites.colours[thing.sprite]
        size = next(word for word, pixels in SIZES.items() if pixels == thing.size)
        said = (size if alone and rng.random() < SAY_SIZE else "", colour if rng.random() < SAY_COLOUR else "", name)
        words = " ".join(filter(None, said))
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}" if article else words


def top_of(rng: np.random.Generator, size: int) -> int:
    """Pixels above a thing's square, within UP_AND_DOWN of the middle, which is rounded to the grid."""
    middle = (SIZE - size) // 2 // CELL * CELL
    return middle - UP_AND_DOWN + CELL * int(rng.integers(2 * UP_AND_DOWN // CELL + 1))


def side(thing: Thing) -> str:
    """` on the left`, ` on the right`, ` in the middle`, or nothing where no word is clear."""
    offset = thing.left + thing.size / 2 - SIZE / 2
    if abs(offset) <= CELL:
        return " in the middle"
    if abs(offset) < 2 * CELL:
        return ""
    return " on the left" if offset < 0 else " on the right"


def premultiplied(images: np.ndarray, size: int) -> np.ndarray:
    """Sprites [S, size, size, 4] uint8, colours multiplied by alpha, so that resizing leaves no dark seams."""
    alpha = images[..., 3:].astype(np.uint16)
    colour = (images[..., :3] * alpha // 255).astype(np.uint8)
    whole = np.concatenate((colour, images[..., 3:]), -1)
    bands = (
        [Image.fromarray(s[..., c]).resize((size, size), Image.Resampling.LANCZOS) for c in range(4)] for s in whole
    )
    scaled = np.stack([np.stack([np.asarray(band) for band in four], -1) for four in bands])
    return np.minimum(scaled, scaled[..., 3:] | np.array((0, 0, 0, 255), np.uint8))
