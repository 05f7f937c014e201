"""Files that a command writes: completely or not at all, and each of them is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import InputError
from ..whole_files import replace_whole


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, rename it to `path`, and say so, or that it replaced a file.

    Raises InputError that names the file if the disk is full, say; then no part of it is left, and the old file stays.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():  # a device such as /dev/null
        write(path)
        print(f"wrote {path}")
        return
    verb = "replaced" if target.exists() else "wrote"
    try:
        replace_whole(target, write)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written ({reason}); make room or name a file elsewhere.") from None
    print(f"{verb} {path}")


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, see `write_whole`."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def kept_as_json(path: Path | None) -> Iterator[Callable[[dict], None]]:
    """Gives a function that keeps a result; the last one kept is written to `path` (None: nowhere) at the end.

    That is also done where Ctrl-C or an error is the end, unless the file of a run that was complete would be replaced.
    """
    kept: list[dict] = []
    complete = False
    try:
        yield kept.append
        complete = True
    finally:
        if path and kept and (complete or not path.exists()):
            write_text(path, json.dumps(kept[-1], indent=1) + "\n")
