"""Who may write to a folder: one run at a time, and one of its processes at a time.

    DIR/.lock    held by the process that leads a run, for as long as it lives
    DIR/.turn    names the run whose processes may write; held while one of them does

Workers outlive a leader that was stopped, on other machines for minutes. What they still bring is refused: the folder names no
run by then, or another one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import InputError
from ..file_lock import locked

NO_RUN = ""


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """The folder is this process's. Raises InputError if another one has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise InputError(f"Another run is writing to {folder}; wait for it, or name another --out.") from None
        yield


@contextmanager
def begun_run(folder: Path) -> Iterator[str]:
    """Gives the name of a run whose processes may write to the folder until the end, and those of no other run."""
    run = secrets.token_hex(8)
    _name(folder, run)
    try:
        yield run
    finally:
        _name(folder, NO_RUN)


@contextmanager
def turn(folder: Path, run: str) -> Iterator[None]:
    """Inside, no other process writes to the folder. Raises InputError if it is not, or no longer, that run's."""
    with locked(folder / ".turn") as stream:
        stream.seek(0)
        if stream.read() != run:
            raise InputError(f"The run that this process drew for has ended; nothing is written to {folder} any more.")
        yield


def _name(folder: Path, run: str) -> None:
    with locked(folder / ".turn") as stream:
        stream.truncate(0)
        stream.write(run)
