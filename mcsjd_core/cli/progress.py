"""What a command shows while it runs: bars over committed tokens or pictures, or lines with the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from ..decoding.loop import Step


def token_bar(total: int, quiet: bool) -> tqdm:
    """A bar over `total` tokens on stderr; a context manager."""
    return _bar(total, "tok", quiet)


def picture_bar(total: int, done: int, quiet: bool) -> tqdm:
    """A bar over the rows of a prompt file, of which `done` were drawn by earlier runs."""
    return _bar(total, "pictures", quiet, initial=done)


def _bar(total: int, unit: str, quiet: bool, initial: int = 0) -> tqdm:
    # In a log every refresh is a line of its own.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, initial=initial, unit=unit, disable=quiet, dynamic_ncols=True, mininterval=interval)


def timed_lines(quiet: bool) -> Callable[[str], None]:
    """Prints lines to stderr, each after the seconds since now; nothing if `quiet`."""
    began = time.perf_counter()

    def tell(text: str) -> None:
        if not quiet:
            print(f"{time.perf_counter() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    return tell


def advance(bar: tqdm, given: int = 0) -> Callable[[Step], None]:
    """An on_step callback for one decode: moves `bar` by what every row committed, beyond its first `given` tokens."""
    before = 0

    def on_step(step: Step) -> None:
        nonlocal before
        committed = sum(done - given for done in step.done)
        bar.update(committed - before)
        before = committed

    return on_step
