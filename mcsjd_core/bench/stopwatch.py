"""Seconds of things that are compared: taken in turn, so that a machine that grows slower is slower for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median, quantiles
from typing import TypeVar

from ..decoding.runners import finish


def seconds_of(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock seconds of one call, the device's work included."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began


Name = TypeVar("Name", bound=Hashable)


def interleaved(
    works: Mapping[Name, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[Name, list[float]]:
    """Seconds of `repeats` calls of each, after one that does not count. Every round begins with another one."""
    for work in works.values():
        work()
    seconds = {name: [] for name in works}
    names = list(works)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(works[name], device))
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the quartiles around it."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median(values), "low": low, "high": high}
