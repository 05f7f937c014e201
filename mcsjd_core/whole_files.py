"""Files that are there whole or not at all: written beside their place, then moved to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def part_of(path: Path) -> Path:
    """Where a file is written before it is moved to `path`: hidden, in the same folder, of the same kind."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and put it in its place; whatever it raises, nothing of it is left."""
    part = part_of(path)
    try:
        write(part)
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file written to its disk: if the power goes after it was moved, the name must not be there without the bytes."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
