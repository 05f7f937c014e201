"""The engine of one process: rows in the file's order, on one model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from .drawer import Drawer, chunks
from .output import Output, Record
from .plan import Plan


def run(plan: Plan, prompts: Path, output: Output, on_record: Callable[[Record], None]) -> None:
    """Draw every row of the file that is not done; on_record is told of each, and may raise to stop."""
    waiting = chunks(output.waiting(prompts), plan.chunk)
    first = next(waiting, None)
    if first is None:  # no model is loaded for nothing
        return
    drawer = Drawer(plan.load(), plan, output, on_record)
    for rows in chain([first], waiting):
        drawer.draw(rows)
