"""Clips for the small video model: an emoji that moves, bounces, hops, turns or stands still, as its caption says.

Everything is aligned with the cells of the codec, so that what moves keeps its codes: a glyph starts in a cell's corner
and moves one cell in the time of one frame of codes; backgrounds change colour only where cells meet.

    python -m training.motion_data --emojibase package/en/data.json --out build-video/sprites.npz

The font and the names are those of `emoji_data`. Written are the sprites: every glyph at every angle it is shown at.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import emoji_data

SIZE, FRAMES = 64, 17
CELL, CHUNK = (
    8,
    4,
)  # pixels along a side of a code's cell; frames of a code, but for the first frame, which stands alone
SPEED = CELL // CHUNK  # pixels a frame
GLYPH, SPRITE = 32, 48  # pixels: a glyph at rest has GLYPH, a turning one may take SPRITE
BOX = 30  # pixels, longest side of the drawn glyph
LAST_CELL = (SIZE - GLYPH) // CELL  # cells that a glyph can be away from the left or the top
STEPS = (FRAMES - 1) // CHUNK  # frames of codes after the first
TURN = 180 / (FRAMES - 1)  # degrees a frame
HELD_OUT = 0.04  # share of the clips that only measure

EMOJI = "😀😎😡👽👻🤖🎃💀🐶🐱🦊🐼🐸🐷🦋🐢🍎🍌🍓🍉🍔🍩⚽🏀🚗🚀🚂⭐🌞🔥🌵🎈"
# Names as people say them, where the data's are long.
SHORT = {
    "grinning face": "smiley", "smiling face with sunglasses": "cool face", "enraged face": "angry face",
    "soccer ball": "football", "automobile": "car", "locomotive": "train", "sun with face": "sun",
}  # fmt: skip
THING = "thing"  # stands for whatever has no name; the tokenizer does not know the word, so it teaches what that means
WHITE, SKY, NIGHT, GRASS = (255, 255, 255), (150, 205, 245), (40, 45, 90), (105, 180, 80)
BACKGROUNDS = ((WHITE, WHITE), (SKY, SKY), (NIGHT, NIGHT), (SKY, GRASS))  # above and below the horizon
HORIZON = 48  # pixels

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
# Verbs of every kind of motion, and how often the kind is drawn.
VERBS = {
    "moves": ("moves", "goes", "slides"),
    "bounces": ("bounces",),
    "turns": ("turns", "rotates", "spins"),
    "hops": ("hops", "jumps"),
    "stands": ("stands", "stays"),
}
SHARES = {"moves": 0.32, "bounces": 0.25, "turns": 0.25, "hops": 0.1, "stands": 0.08}


@dataclass(frozen=True)
class Clip:
    """One clip: a glyph's number, its motion, the cell it starts in, and the background's number."""

    glyph: int
    kind: str
    direction: str  # "" where the kind has none
    column: int
    row: int
    background: int

    def held_out(self, seed: int) -> bool:
        digest = hashlib.sha256(f"{seed}:{astuple(self)}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64


def starts(kind: str, direction: str) -> list[tuple[int, int]]:
    """Cells (column, row) where a motion may start: it never leaves the picture, and what bounces does meet a wall."""
    anywhere, inner = range(LAST_CELL + 1), range(1, LAST_CELL)
    if kind == "hops":
        return [(column, row) for column in anywhere for row in anywhere[1:]]
    if kind == "moves":
        along = [0] if sum(DIRECTIONS[direction]) > 0 else [LAST_CELL]
    elif kind == "bounces":
        along = inner
    else:
        return [(column, row) for column in anywhere for row in anywhere]
    horizontal = DIRECTIONS[direction][0] != 0
    return [(a, b) if horizontal else (b, a) for a in along for b in anywhere]


def motions() -> list[tuple[str, str]]:
    """Every (kind, direction)."""
    ways = {"moves": list(DIRECTIONS), "bounces": list(DIRECTIONS), "turns": ["left", "right"]}
    return [(kind, direction) for kind in VERBS for direction in ways.get(kind, [""])]


def all_clips(glyphs: int) -> list[Clip]:
    return [
        Clip(glyph, kind, direction, column, row, background)
        for glyph in range(glyphs)
        for kind, direction in motions()
        for column, row in starts(kind, direction)
        for background in range(len(BACKGROUNDS))
    ]


def path(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Left upper corner in pixels [FRAMES, 2] (x, y) and angle in frames of turning [FRAMES], left being positive."""
    place, step = np.array([clip.column, clip.row]), np.array(DIRECTIONS.get(clip.direction, (0, 0)))
    corners, angle = [place * CELL], np.zeros(FRAMES, int)
    if clip.kind == "hops":
        step = np.array(DIRECTIONS["up"])
    if clip.kind == "turns":
        angle = np.arange(FRAMES) * (1 if clip.direction == "left" else -1)
    for _ in range(STEPS):
        if clip.kind in ("turns", "stands"):
            step = np.zeros(2, int)
        elif ((place + step < 0) | (place + step > LAST_CELL)).any():
            step = -step
        corners += [place * CELL + step * SPEED * (frame + 1) for frame in range(CHUNK)]
        place = place + step
        if clip.kind == "hops":
            step = -step
    return np.stack(corners), angle


def caption(clip: Clip, names: list[str], rng: np.random.Generator) -> str:
    """A caption: half name the glyph, some of these as a mere thing, and one in twenty leaves open which way it goes."""
    name = THING if rng.random() < 0.1 else names[clip.glyph]
    words = [f"the {name}"] if rng.random() < 0.5 else []
    words.append(str(rng.choice(VERBS[clip.kind])))
    if clip.direction and rng.random() >= 0.05:
        words.append(clip.direction)
    if clip.kind == "stands":
        words.append("still")
    return " ".join(words)


@dataclass(frozen=True)
class Sprites:
    """names [G], and art uint8 [G, 2 FRAMES - 1, SPRITE, SPRITE, 4]: RGBA at angles -FRAMES + 1 .. FRAMES - 1, in frames."""

    names: list[str]
    art: np.ndarray

    def save(self, path: Path) -> None:
        np.savez_compressed(path, names=np.array(self.names), art=self.art)

    @classmethod
    def load(cls, path: Path) -> Sprites:
        with np.load(emoji_data.require(path, "the sprites; run training.motion_data"), allow_pickle=False) as stored:
            return cls(stored["names"].tolist(), stored["art"])


def draw_sprites(font: Path, emojibase: Path, seed: int = 0) -> Sprites:
    glyphs, pngs, _ = emoji_data.collect_glyphs(emoji_data.ColourFont(font), emojibase, seed)
    known = {glyph["emoji"].rstrip("\ufe0f"): number for number, glyph in enumerate(glyphs)}
    chosen = [known[sign] for sign in EMOJI]
    names = [SHORT.get(glyphs[number]["name"], glyphs[number]["name"]) for number in chosen]
    arts = [emoji_data.open_art(pngs[number]) for number in chosen]
    angles = range(1 - FRAMES, FRAMES)
    return Sprites(names, np.stack([[turned(art, angle * TURN) for angle in angles] for art in arts]))


def turned(art: Image.Image, degrees: float) -> np.ndarray:
    """uint8 [SPRITE, SPRITE, 4]: the art fitted into BOX and turned to the left."""
    factor = BOX / max(art.size)
    side = round(SPRITE / factor)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(art, ((side - art.width) // 2, (side - art.height) // 2))
    canvas = canvas.convert("RGBa")  # premultiplied: what is invisible must not bleed into the edges
    canvas = canvas.rotate(degrees, Image.Resampling.BICUBIC).resize((SPRITE, SPRITE), Image.Resampling.BOX)
    return np.asarray(canvas.convert("RGBA"))


def render(sprites: Sprites, clip: Clip) -> np.ndarray:
    """Frames uint8 [FRAMES, SIZE, SIZE, 3]."""
    margin = (SPRITE - GLYPH) // 2
    above, below = BACKGROUNDS[clip.background]
    frames = np.empty((FRAMES, SIZE + 2 * margin, SIZE + 2 * margin, 3), np.uint8)
    frames[:, : HORIZON + margin], frames[:, HORIZON + margin :] = above, below
    for frame, (x, y), angle in zip(frames, *path(clip), strict=True):
        art = sprites.art[clip.glyph, angle + FRAMES - 1].astype(np.uint16)
        part, alpha = frame[y : y + SPRITE, x : x + SPRITE], art[..., 3:]
        part[...] = (art[..., :3] * alpha + part * (255 - alpha) + 127) // 255
    return frames[:, margin:-margin, margin:-margin]


class Drawer:
    """Draws clips at random: a kind of motion by its share, then evenly among its clips that are not held out."""

    def __init__(self, glyphs: int, seed: int):
        clips = all_clips(glyphs)
        self.held_out = [clip for clip in clips if clip.held_out(seed)]
        self.train = [clip for clip in clips if not clip.held_out(seed)]
        counts = {kind: sum(clip.kind == kind for clip in self.train) for kind in SHARES}
        self.cumulative = np.cumsum([SHARES[clip.kind] / counts[clip.kind] for clip in self.train])

    def draw(self, count: int, rng: np.random.Generator) -> list[Clip]:
        picks = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1])
        return [self.train[pick] for pick in picks]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", type=Path, default=emoji_data.DEFAULT_FONT, help="CBDT colour font")
    parser.add_argument("--emojibase", type=Path, required=True, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    sprites, rng = draw_sprites(a.font, a.emojibase, a.seed), np.random.default_rng(a.seed)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    sprites.save(a.out)
    clips = Drawer(len(sprites.names), a.seed).draw(16, rng)
    captions = [caption(clip, sprites.names, rng) for clip in clips]
    contact_sheet([render(sprites, clip) for clip in clips], captions).save(a.out.with_suffix(".png"))
    print(f"{len(sprites.names)} glyphs, {len(all_clips(len(sprites.names)))} clips")


if __name__ == "__main__":
    main()
