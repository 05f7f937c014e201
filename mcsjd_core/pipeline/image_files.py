"""Between pictures in files and pixels: one reader and one way of rounding for the whole project, ComfyUI's."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from ..errors import InputError, first_line

# What Pillow raises for damaged files; the fields of EXIF and TIFF can make it stumble nearly anywhere.
DAMAGED = (
    OSError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, SyntaxError, EOFError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


def read_frames(path: Path) -> list[Image.Image]:
    """The RGB frames of a picture's file, several of an animation, as ComfyUI's Load Image reads them.

    They are turned as EXIF says, and 16-bit grey is scaled to 8 bits. What is transparent lies on white, where Load Image
    hands on the colours below and leaves the mask to the graph. Raises InputError for what is no picture.
    """
    return list(frames_of(path))


def frames_of(path: Path) -> Iterator[Image.Image]:
    """The same, one after the other."""
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield _rgb(ImageOps.exif_transpose(frame))
    except DAMAGED as error:
        reason = first_line(error)
        raise InputError(f"{path} cannot be read as a picture ({reason}); give a PNG, JPEG or WebP file.") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # by its version, Pillow calls 16-bit grey I, I;16 or I;16B
        image = image.convert("I").point(lambda value: value * (1 / 255))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """Pixels [3, H, W] in 0..1 of an RGB image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).movedim(-1, 0).float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """An RGB image of pixels [3, H, W] in 0..1; fractions are cut off, as ComfyUI's Save Image and the models' samplers do."""
    return Image.fromarray((pixels * 255).clamp(0, 255).byte().movedim(0, -1).cpu().numpy())


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Numbers in names count as numbers: frame2 comes before frame10."""
    return sorted(paths, key=_natural)


def _natural(path: Path) -> tuple:
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((int(part), part) if part.isdecimal() else (-1, part) for part in parts), path.name
