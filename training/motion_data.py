"""Clips for the small video model: a thing over a photograph, and what it or the camera does, as the caption says.

Things and camera move one cell of the codec in the time of one frame of codes, and a thing starts in a cell's corner. So
what moves keeps its codes, as in the published models nearly everything can be told from the frame before; ground that
comes into view, or was behind the thing, cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mcsjd_core.whole_files import replace_whole

SIZE, FRAMES = 64, 17
CELL = 8  # pixels along a side of a code's cell
CHUNK = 4  # frames of a code, but for the first frame, which stands alone
SPEED = CELL // CHUNK  # pixels a frame
THING = 32  # pixels, side of a thing's square
LAST_CELL = (SIZE - THING) // CELL  # cells that a thing can be away from the left or the top
STEPS = (FRAMES - 1) // CHUNK  # frames of codes after the first
TRAVEL = SPEED * (FRAMES - 1)  # pixels that a thing or the camera goes in a clip
GROUND = SIZE + TRAVEL  # pixels, side of the piece of a photograph that a clip is filmed on

NAMELESS = "thing"  # stands for whatever has no name
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
# What a caption says of every kind of motion, and how often the kind is drawn.
PHRASES = {
    "moves": ("the {thing} moves {direction}", "the {thing} goes {direction}"),
    "follows": ("the camera follows the {thing} {direction}",),
    "pans": ("the camera pans {direction} past the {thing}", "the camera pans {direction}"),
    "hops": ("the {thing} hops", "the {thing} jumps"),
    "stands": ("the {thing} stands still", "the {thing} stays still"),
}
SHARES = {"moves": 0.4, "follows": 0.2, "pans": 0.28, "hops": 0.07, "stands": 0.05}


def motions() -> list[tuple[str, str]]:
    """Every (kind, direction); "" where the kind has none."""
    ways = {"moves": list(DIRECTIONS), "follows": ["right", "left"], "pans": list(DIRECTIONS)}
    return [(kind, direction) for kind in PHRASES for direction in ways.get(kind, [""])]


@dataclass(frozen=True)
class Clip:
    """One clip: which picture of a thing, its motion, the cell it starts in, and the piece of a photograph behind it."""

    thing: int
    kind: str
    direction: str
    column: int
    row: int
    photo: int
    left: int  # of the piece in the photograph, in pixels
    top: int
    mirrored: bool  # the piece is


@dataclass(frozen=True)
class Stage:
    """What clips are made of.

    names [T] and art uint8 [T, THING, THING, 4] RGBA of the things' pictures (a name may have several); photographs uint8
    [h, w, 3], no side below GROUND, and which of them only measure.
    """

    names: list[str]
    art: np.ndarray
    photos: list[np.ndarray]
    held_out: list[bool]

    def save(self, path: Path) -> None:
        parts = {"names": np.array(self.names), "art": self.art, "held_out": np.array(self.held_out)}
        parts |= {f"photo_{number:03}": photo for number, photo in enumerate(self.photos)}
        replace_whole(path, lambda part: np.savez_compressed(part, **parts))

    @classmethod
    def load(cls, path: Path) -> Stage:
        with np.load(path, allow_pickle=False) as stored:
            photos = [stored[f"photo_{number:03}"] for number in range(len(stored["held_out"]))]
            return cls(stored["names"].tolist(), stored["art"], photos, stored["held_out"].tolist())


def starts(kind: str, direction: str) -> list[tuple[int, int]]:
    """Cells (column, row) where a thing may start; it never leaves the picture of a camera that stands."""
    anywhere = range(LAST_CELL + 1)
    if kind == "hops":
        return [(column, row) for column in anywhere for row in anywhere[1:]]
    if kind not in ("moves", "pans"):
        return [(column, row) for column in anywhere for row in anywhere]
    # Seen from the camera, a thing that it pans past goes the other way, and half of it may leave the picture.
    forward = (sum(DIRECTIONS[direction]) > 0) == (kind == "moves")
    slack = range(1 if kind == "moves" else 3)
    along = [cell if forward else LAST_CELL - cell for cell in slack]
    horizontal = DIRECTIONS[direction][0] != 0
    return [(a, b) if horizontal else (b, a) for a in along for b in anywhere]


def paths(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Left upper corners in pixels [FRAMES, 2] (x, y): of the thing on the ground, and of what the camera sees of it."""
    time = np.arange(FRAMES)[:, None]
    way = np.array(DIRECTIONS.get(clip.direction, (0, 0)))
    camera = np.zeros((FRAMES, 2), int)
    if clip.kind in ("pans", "follows"):
        camera += SPEED * time * way + TRAVEL * (way < 0)
    thing = camera[0] + CELL * np.array([clip.column, clip.row]) + np.zeros((FRAMES, 1), int)
    if clip.kind in ("moves", "follows"):
        thing += SPEED * time * way
    if clip.kind == "hops":
        phase = time % (2 * CHUNK)  # up for one frame of codes, down for the next
        thing -= SPEED * np.minimum(phase, 2 * CHUNK - phase) * np.array([0, 1])
    return thing, camera


def ground(stage: Stage, clip: Clip) -> np.ndarray:
    """uint8 [GROUND, GROUND, 3]."""
    piece = stage.photos[clip.photo][clip.top : clip.top + GROUND, clip.left : clip.left + GROUND]
    return piece[:, ::-1] if clip.mirrored else piece


def render(stage: Stage, clip: Clip) -> np.ndarray:
    """Frames uint8 [FRAMES, SIZE, SIZE, 3]."""
    art = stage.art[clip.thing].astype(np.uint16)
    colour, alpha = art[..., :3] * art[..., 3:], 255 - art[..., 3:]
    # A margin as wide as a thing: one that leaves the ground needs no case of its own.
    whole = np.pad(ground(stage, clip), ((THING, THING), (THING, THING), (0, 0)), "edge")
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    for frame, (x, y), (left, top) in zip(frames, *paths(clip), strict=True):
        scene = whole.copy()
        part = scene[y + THING : y + 2 * THING, x + THING : x + 2 * THING]
        part[...] = (colour + part * alpha + 127) // 255
        frame[...] = scene[top + THING : top + THING + SIZE, left + THING : left + THING + SIZE]
    return frames


def silhouette(stage: Stage, clip: Clip) -> np.ndarray:
    """Where frames show the thing, bool [FRAMES, SIZE, SIZE]."""
    white = stage.art[clip.thing : clip.thing + 1].copy()
    white[..., :3] = 255
    black = replace(stage, art=white, photos=[np.zeros_like(stage.photos[clip.photo])])
    return render(black, replace(clip, thing=0, photo=0))[..., 0] > 0


def draw_clip(stage: Stage, rng: np.random.Generator, motion: tuple[str, str] | None = None,
              held_out: bool = False, thing: int | None = None) -> Clip:  # fmt: skip
    """A clip at random: a kind of motion by its share if none is given, then everything evenly."""
    if motion is None:
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        fitting = [motion for motion in motions() if motion[0] == kind]
        motion = fitting[rng.integers(len(fitting))]
    places = starts(*motion)
    column, row = places[rng.integers(len(places))]
    photos = [number for number, measures in enumerate(stage.held_out) if measures == held_out]
    photo = photos[rng.integers(len(photos))]
    height, width = stage.photos[photo].shape[:2]
    left, top = (int(rng.integers(side - GROUND + 1)) for side in (width, height))
    thing = int(rng.integers(len(stage.names))) if thing is None else thing
    return Clip(thing, *motion, column, row, photo, left, top, bool(rng.integers(2)))


def caption(stage: Stage, clip: Clip, rng: np.random.Generator | None = None) -> str:
    """A caption; without `rng` it says everything, with it one in ten things is nameless."""
    phrases, name = PHRASES[clip.kind], stage.names[clip.thing]
    phrase = phrases[0] if rng is None else phrases[rng.integers(len(phrases))]
    name = NAMELESS if rng is not None and rng.random() < 0.1 else name
    return phrase.format(thing=name, direction=clip.direction)


def contact_sheet(videos: list[np.ndarray], captions: list[str], every: int = 2, scale: int = 1) -> Image.Image:
    """One row a video [FRAMES, SIZE, SIZE, 3]: its caption over every `every`-th of its frames."""
    side, label = SIZE * scale, 16
    columns = len(range(0, FRAMES, every))
    sheet = Image.new("RGB", (columns * (side + 2), len(videos) * (side + label + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (video, text) in enumerate(zip(videos, captions, strict=True)):
        y = row * (side + label + 4)
        draw.text((2, y), text, "black", font)
        for column, frame in enumerate(video[::every]):
            picture = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * (side + 2), y + label))
    return sheet
