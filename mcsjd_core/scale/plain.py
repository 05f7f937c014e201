"""The engine of one process: rows in the file's order, on one model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from .drawer import Drawer, chunks
from .job import Job
from .output import Output, Record

# Rows whose prompts are read together: a text encoder may be as large as the model, and is read anew for every call.
AHEAD = 32


def run(job: Job, prompts: Path, output: Output, on_record: Callable[[Record], None]) -> None:
    """Draw every row of the file that is not done; on_record is told of each, and may raise to stop."""
    waiting = chunks(output.waiting(prompts), max(AHEAD, job.chunk))
    first = next(waiting, None)
    if first is None:  # no model is loaded for nothing
        return
    drawer = Drawer(job.load(), job, output, on_record)
    for rows in chain([first], waiting):
        drawer.read_ahead(rows)
        for chunk in chunks(rows, job.chunk):
            drawer.draw(chunk)
