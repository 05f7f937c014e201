"""Picture sizes by name: `512x768` is 512 pixels wide and 768 high."""

from __future__ import annotations

from .errors import InputError


def size_name(width: int, height: int) -> str:
    return f"{width}x{height}"


def choose_size(size: str | None, sizes: tuple[str, ...]) -> str:
    """`size` if it is one of `sizes`, the first of them for None; raises InputError that lists them otherwise."""
    if size is None:
        return sizes[0]
    if size not in sizes:
        raise InputError(f"This model draws no pictures of size {size!r}; its sizes are {', '.join(sizes)}.")
    return size


def side_lengths(size: str) -> tuple[int, int]:
    """(width, height) in pixels of a size name."""
    width, height = map(int, size.split("x"))
    return width, height
