"""A day with a GPU: is everything right there, and how fast is it. Rehearsed on a CPU with tiny shapes.

A part is a function `part(day)` that gives plain data for JSON. It keeps to its time: what does not fit is named in `left_out`.
"""

from __future__ import annotations

import time

from ..machine import describe
from . import fast, right
from .day import Day

__all__ = ["PARTS", "Day", "run"]

PARTS = {"right": right.measure, "fast": fast.measure}


def run(day: Day, names: tuple[str, ...] = tuple(PARTS)) -> dict:
    """The parts in `names`, each within `day.seconds`; ready for JSON."""
    result: dict = {"machine": describe(day.device, day.dtype), "rehearsal": not day.on_gpu}
    result["model"] = {"name": day.model_name, "dtype": str(day.model.token_model.compute_dtype).removeprefix("torch.")}
    for name in names:
        day.tell(f"part {name}")
        day.begin()
        began = time.perf_counter()
        result[name] = PARTS[name](day) | {"left_out": list(day.left_out), "part_seconds": time.perf_counter() - began}
    return result
