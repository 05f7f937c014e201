"""A lock that a process holds by an open file: a killed process leaves none behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[TextIO]:
    """The file, made if it is not there, open to read and append to, and no other's inside the block.

    Raises BlockingIOError if another has it, unless told to wait. On Windows nothing is locked.
    """
    with file.open("a+", encoding="utf-8") as stream:
        try:
            import fcntl
        except ImportError:  # Windows
            yield stream
            return
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield stream
