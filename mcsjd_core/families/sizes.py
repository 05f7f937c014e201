"""Picture sizes by name: `512x768` is 512 pixels wide and 768 high."""

from __future__ import annotations

import re

from ..errors import InputError


def size_name(width: int, height: int) -> str:
    return f"{width}x{height}"


def choose_size(size: str | None, sizes: tuple[str, ...]) -> str:
    """`size` if it is one of `sizes`, the first of them for None; raises InputError that lists them otherwise.

    `512 x 768`, `512*768` and the like are `512x768`.
    """
    if size is None:
        return sizes[0]
    name = re.sub(r"\s*[x×X*]\s*", "x", size.strip())
    if name not in sizes:
        raise InputError(f"This model draws no pictures of size {size!r}; its sizes are {', '.join(sizes)}.")
    return name


def side_lengths(size: str) -> tuple[int, int]:
    """(width, height) in pixels of a size name."""
    width, height = map(int, size.split("x"))
    return width, height


def sizes_of_equal_area(side: int, block: int, longest: float) -> tuple[str, ...]:
    """Sizes of about `side` x `side` pixels, the square first, then from wide to high.

    Both sides are multiples of `block`, at most `longest` to one; they are the steps of the staircase below the hyperbola
    of equal area, as in Lumina-mGPT's training data (arXiv 2408.02657, `generate_crop_size_list` of its code).
    """
    blocks = (side // block) ** 2
    columns, rows, found = blocks, 1, []
    while columns > 0:
        if max(columns, rows) <= longest * min(columns, rows):
            found.append(size_name(columns * block, rows * block))
        if columns * (rows + 1) <= blocks:
            rows += 1
        else:
            columns -= 1
    square = size_name(side, side)
    return (square, *(name for name in found if name != square))
