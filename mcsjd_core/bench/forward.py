"""Section: seconds of a forward against the window, for the shapes of public models, and what follows for the speed-up."""

from __future__ import annotations

import math
from itertools import pairwise

from ..decoding.loop import DecodeSettings
from ..reporting.tables import Table, milliseconds
from .plan import Bench
from .shapes import SHAPES, ShapedModel

NAME, TITLE = "forward", "forward time against the window"
COMPRESSIONS = (2, 3, 4)
TRAJECTORIES = (2, 4, 8)


def measure(bench: Bench) -> dict:
    return {"rows": 2, "shapes": {name: _measure_shape(bench, name) for name in SHAPES}}


def _measure_shape(bench: Bench, name: str) -> dict:
    bench.tell(name)
    plan, shape = bench.plan, SHAPES[name]
    windows = plan.forward_windows
    model = ShapedModel(shape, shape.timed_layers * plan.timed_layers, max(windows), bench.device, bench.dtype)
    seconds = model.forward_seconds(windows, plan.forward_repeats)
    return {
        "layers": shape.config.layers,
        "timed_layers": model.layers,
        "prefix": model.prefix,
        "seconds": {str(window): found["forward"] for window, found in seconds.items()},
    }


def seconds_at(found: dict, width: int) -> float:
    """Median seconds of a forward; between two measured widths on a line from one to the other, beyond the last none."""
    measured = sorted((int(window), spread["median"]) for window, spread in found["seconds"].items())
    for (left, before), (right, after) in pairwise(measured):
        if left <= width <= right:
            return before + (after - before) * (width - left) / (right - left)
    return math.nan


def cost(found: dict, window: int | str) -> float:
    """How many forwards of one token a forward of the window costs."""
    return seconds_at(found, int(window)) / seconds_at(found, 1)


def trajectory_cost(found: dict, window: int, count: int) -> float:
    """How much costlier than with one trajectory a forward with `count` is: the factor that step compression has to grow by."""
    settings = DecodeSettings("gumbel_exact", window, trajectories=count)
    return seconds_at(found, window + settings.side_slots(window)) / seconds_at(found, window)


def predicted_speedup(found: dict, window: int | str, compression: float) -> float:
    """Over plain AR, if the loop cost nothing: tokens per forward, over what such a forward costs."""
    return compression / cost(found, window)


def headline(data: dict) -> dict:
    """Cost of a window in forwards of plain AR: the step compression from which it pays."""
    return {
        "forward_cost": {
            name: {window: cost(found, window) for window in found["seconds"]} for name, found in data["shapes"].items()
        }
    }


def tables(data: dict) -> list[Table]:
    return [_times(data), _trajectories(data)]


def _times(data: dict) -> Table:
    header = ["shape", "W", "ms", "cost in AR forwards", *(f"speed-up at compression {c}" for c in COMPRESSIONS)]
    rows = [
        [
            name,
            window,
            milliseconds(seconds),
            f"{cost(found, window):.2f}",
            *("-" if window == "1" else f"{predicted_speedup(found, window, c):.2f}" for c in COMPRESSIONS),
        ]
        for name, found in data["shapes"].items()
        for window, seconds in found["seconds"].items()
    ]
    scaled = "; ".join(
        f"{name}: {found['timed_layers']} of {found['layers']} layers after {found['prefix']} cached tokens"
        for name, found in data["shapes"].items()
    )
    note = (
        f"One picture with guidance, random weights. Timed with fewer layers, and scaled to all of them ({scaled}). "
        "The speed-up is predicted: compression over cost, the loop's own time left out."
    )
    return Table("Forward against the window, in the shapes of public models", header, rows, note)


def _trajectories(data: dict) -> Table:
    rows = []
    for name, found in data["shapes"].items():
        for window in (window for window in found["seconds"] if int(window) > 1):
            factors = [trajectory_cost(found, int(window), count) for count in TRAJECTORIES]
            if not math.isnan(factors[0]):
                rows.append([name, window, *("-" if math.isnan(factor) else f"{factor:.2f}" for factor in factors)])
    note = (
        "M trajectories pay where they raise step compression by more than this factor: the time of a forward of M windows over "
        "that of one."
    )
    header = ["shape", "W", *(f"M = {count} pays above" for count in TRAJECTORIES)]
    return Table("Where parallel trajectories would pay", header, rows, note)
