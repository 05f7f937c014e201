"""A day with a GPU: is everything right there, and how fast is it. Rehearsed on a CPU with tiny shapes.

A part is a function `part(day)` that gives plain data for JSON. It keeps to its time: what does not fit is named in `left_out`.
What fails is named in `failed`, with the reason, and does not stop the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..machine import describe
from . import fast, right
from .day import Day

__all__ = ["PARTS", "Day", "run"]

PARTS = {"right": right.measure, "fast": fast.measure}


def run(day: Day, names: tuple[str, ...] = tuple(PARTS), keep: Callable[[dict], None] = lambda result: None) -> dict:
    """The parts in `names`, each within `day.seconds`; ready for JSON. `keep` is given the result after every part."""
    result: dict = {"machine": describe(day.device, day.dtype), "rehearsal": not day.on_gpu}
    result["model"] = {"name": day.model_name, "dtype": str(day.model.token_model.compute_dtype).removeprefix("torch.")}
    for name in names:
        day.tell(f"part {name}")
        day.begin()
        began = time.perf_counter()
        found, seconds = PARTS[name](day), time.perf_counter() - began
        result[name] = found | {"left_out": list(day.left_out), "failed": dict(day.failed), "part_seconds": seconds}
        keep(result)
    return result
