"""Grounds to put things on: parts of freely licensed photographs, and drawn textures.

    apt-get install lomiri-wallpapers-16.04 mypaint-data-extras blender-data
    pip install scikit-image OpenEXR scipy
    python -m training.places --out build/places.npz

Authors and licences of the photographs stand in `sources.csv`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mcsjd_core.whole_files import replace_whole

from . import textures

DRAWN_SIZE, DRAWN_COUNT, PLAIN_COUNT = 256, 24, 4  # pixels a side of a drawn ground, how many of each place
LOMIRI = "usr/share/backgrounds"
BLENDER = "usr/share/blender/datafiles/studiolights/world"
MYPAINT = "usr/share/mypaint/backgrounds/ramon"


@dataclass(frozen=True)
class Part:
    """A rectangle of a photograph, in shares of its sides, that is then `scale` times as large, and may be turned on its side."""

    place: str
    file: str  # below the system's root; "skimage/..." is in that package's data folder
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    scale: float = 1.0
    tint: tuple[float, float, float] | None = None  # for grey photographs: the colour of its middle grey
    turned: bool = False


PARTS = (
    Part("grass", "skimage/grass.png", scale=1.0, tint=(0.42, 0.62, 0.20)),
    Part("grass", "skimage/grass.png", scale=0.7, tint=(0.36, 0.58, 0.22)),
    Part("grass", f"{LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg", top=0.66, scale=0.28),
    Part("pebbles", "skimage/gravel.png", scale=1.3, tint=(0.56, 0.54, 0.50)),
    Part("pebbles", "skimage/gravel.png", scale=0.9, tint=(0.60, 0.56, 0.50)),
    Part("brick wall", "skimage/brick.png", scale=0.8, tint=(0.66, 0.33, 0.24), turned=True),
    Part("brick wall", "skimage/brick.png", scale=0.6, tint=(0.60, 0.36, 0.28), turned=True),
    Part("starry sky", "skimage/hubble_deep_field.jpg", scale=0.7),
    Part("cloudy sky", f"{LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg", right=0.55, bottom=0.25, scale=0.32),
    Part("forest", f"{BLENDER}/forest.exr", top=0.30, bottom=0.72, scale=0.8),
    Part("forest", f"{LOMIRI}/life_by_Aitzol_Berasategi.jpg", bottom=0.36, scale=0.20),
    Part("autumn trees", f"{LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg", top=0.32, right=0.72, bottom=0.62, scale=0.32),
    Part("mountains", f"{LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg", bottom=0.60, scale=0.14),
    Part("mountains", f"{LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg", top=0.08, bottom=0.80, scale=0.12),
    Part("sunset", f"{LOMIRI}/sunset_by_Aitzol_Berasategi.jpg", bottom=0.85, scale=0.09),
    Part("rocks", f"{LOMIRI}/life_by_Aitzol_Berasategi.jpg", top=0.40, scale=0.22),
    Part("city", f"{BLENDER}/city.exr", top=0.34, bottom=0.66, scale=0.9),
    Part("cork", f"{MYPAINT}/HR_Cork.png", scale=1.2),
)
# How a caption says where the thing is.
PHRASES = {
    "grass": "on grass", "pebbles": "on pebbles", "brick wall": "in front of a brick wall",
    "starry sky": "in a starry sky", "cloudy sky": "in a cloudy sky", "forest": "in a forest",
    "autumn trees": "in front of autumn trees", "mountains": "in the mountains", "sunset": "at sunset",
    "meadow": "in a meadow", "rocks": "on rocks", "city": "in a city", "cork": "on a cork board", "sand": "on sand",
    "water": "on water", "wood": "on wood",
} | {f"plain {colour}": f"on a {colour} background" for colour in textures.PLAIN_COLOURS}  # fmt: skip


@dataclass
class Places:
    """Pictures of every place, each at least `scenes.SIZE` px a side; where a place has photographs alone, `LEAST_CROP`."""

    pictures: dict[str, list[np.ndarray]]  # uint8 [H, W, 3]

    @classmethod
    def load(cls, path: Path) -> Places:
        data, pictures = np.load(path), {}
        for key in data.files:
            pictures.setdefault(key.rsplit("/", 1)[0], []).append(data[key])
        return cls(pictures)

    def save(self, path: Path) -> None:
        numbered = {f"{place}/{i}": p for place, all_ in self.pictures.items() for i, p in enumerate(all_)}
        replace_whole(path, lambda part: np.savez_compressed(part, **numbered))

    @property
    def names(self) -> list[str]:
        return list(self.pictures)


def read(root: Path, file: str) -> Image.Image:
    """A photograph as 8-bit RGB; high-dynamic-range ones get a median of 0.2 and soft highlights."""
    if file.startswith("skimage/"):
        import skimage

        return Image.open(Path(skimage.__file__).parent / "data" / file.removeprefix("skimage/")).convert("RGB")
    if not file.endswith(".exr"):
        return Image.open(root / file).convert("RGB")
    import OpenEXR

    with OpenEXR.File(str(root / file)) as exr:
        light = np.nan_to_num(exr.channels()["RGB"].pixels.astype(np.float32)[..., :3]).clip(0)
    light = (light / (np.median(light.mean(-1)) / 0.2)) ** (1 / 2.2)
    light /= 1 + (light - 0.8).clip(0)
    return Image.fromarray((light.clip(0, 1) * 255).astype(np.uint8))


def tinted(picture: Image.Image, colour: tuple[float, float, float]) -> Image.Image:
    """A grey photograph in shades of one colour."""
    grey = np.asarray(picture, dtype=np.float32)[..., :1] / 255
    grey = (0.5 + 0.8 * (grey - grey.mean())).clip(0, 1)
    colour = np.asarray(colour)
    shades = np.where(grey < 0.5, 2 * grey * colour, colour + (2 * grey - 1) * (1 - colour) * 0.7)
    return Image.fromarray((shades.clip(0, 1) * 255).astype(np.uint8))


def cut(part: Part, root: Path) -> np.ndarray:
    """The part of its photograph as uint8 [H, W, 3]."""
    picture = read(root, part.file)
    width, height = picture.size
    box = tuple(
        round(s * n) for s, n in zip((part.left, part.top, part.right, part.bottom), (width, height) * 2, strict=True)
    )
    picture = picture.crop(box)
    picture = picture.resize([round(side * part.scale) for side in picture.size], Image.Resampling.LANCZOS)
    if part.turned:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    return np.asarray(tinted(picture, part.tint) if part.tint else picture)


def build(root: Path, seed: int) -> Places:
    rng = np.random.default_rng((seed, 1))
    pictures: dict[str, list[np.ndarray]] = {place: [] for place in PHRASES}
    for part in PARTS:
        pictures[part.place].append(cut(part, root))
    drawn = {name: [draw] * DRAWN_COUNT for name, draw in textures.DRAWN.items()}
    for name, draws in drawn.items():
        pictures[name] += [to_bytes(draw(rng, DRAWN_SIZE)) for draw in draws]
    for colour in textures.PLAIN_COLOURS:
        pictures[f"plain {colour}"] = [to_bytes(textures.plain(rng, DRAWN_SIZE, colour)) for _ in range(PLAIN_COUNT)]
    return Places(pictures)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    made = build(a.root, a.seed)
    made.save(a.out)
    print(f"{sum(map(len, made.pictures.values()))} pictures of {len(made.names)} places written to {a.out}")
