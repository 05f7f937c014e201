"""Fonts for texts in any script: Pillow's own, and those of the system for what it lacks."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from PIL import ImageFont

MISSING = "\U0010ffff"  # a code point that no font draws
# Where several fonts of a system have a sign, a plain face of these families comes first.
PREFERRED = (
    "NotoSansCJK",
    "NotoSansSC",
    "msyh",
    "PingFang",
    "wqy",
    "NotoEmoji",
    "Symbola",
    "seguiemj",
    "DejaVuSans.ttf",
)


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that has every sign of `text`, and the text; signs that no font of this system has stand there by name."""
    own: Any = ImageFont.load_default(size)  # with a size, a FreeTypeFont
    if all(has_sign(own, sign) for sign in text):
        return own, text
    for file in _system_fonts():
        font = _open(file, size)
        if font is not None and all(has_sign(font, sign) for sign in text):
            return font, text
    return own, "".join(sign if has_sign(own, sign) else _name(sign) for sign in text)


def _name(sign: str) -> str:
    """`[red apple]` for the emoji of that name."""
    if unicodedata.category(sign) in ("Mn", "Me", "Cf"):  # joiners and variations, which show nothing
        return ""
    return f"[{unicodedata.name(sign, f'U+{ord(sign):04X}').lower()}]"


def has_sign(font: ImageFont.FreeTypeFont, sign: str) -> bool:
    """Whether the font draws it, and not the box that stands for what is missing."""
    if sign.isspace():
        return True
    drawn: Any = font.getmask(sign)
    missing: Any = font.getmask(MISSING)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@cache
def _system_fonts() -> tuple[str, ...]:
    from matplotlib import font_manager  # heavy: only when Pillow's own font does not do

    def rank(file: str) -> tuple[int, bool, str]:
        rank = next((rank for rank, name in enumerate(PREFERRED) if name in file), len(PREFERRED))
        return rank, "Regular" not in file, file

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


@cache
def _open(file: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(file, size)
    except (OSError, ValueError):  # bitmap fonts have fixed sizes
        return None
