"""The bench: what this pack costs and saves on the machine at hand, in one run.

A section is a module with `NAME`, `TITLE`, `measure(bench)`, which gives plain data for JSON, `headline(data)`, the figures of
it that stand at the top of the JSON, and `tables(data)`, what people read. One that fails does not stop the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType

from ..reporting.tables import Table
from . import automatic, breakdown, couplings, forward, machine, memory, peer, trajectories, transfers
from .drawing import check_drawable
from .failures import not_measured, why
from .plan import FULL, QUICK, Bench, Plan

__all__ = [
    "FULL",
    "QUICK",
    "SECTIONS",
    "Bench",
    "Plan",
    "Table",
    "check_drawable",
    "failed",
    "run",
    "tables",
    "tables_of",
]

# Memory comes first: the most that the process held is still that of the small model.
SECTIONS = (memory, couplings, automatic, trajectories, transfers, breakdown, forward, peer)


def run(bench: Bench, names: tuple[str, ...] | None = None, keep: Callable[[dict], None] = lambda result: None) -> dict:
    """Measure the sections in `names` (None: all); the result is ready for JSON, its figures of interest at the top.

    A section that fails gives its reason as `why_not`, in place of figures. `keep` is given the result after every section.
    """
    about = {"machine": machine.describe(bench.device, bench.dtype), "plan": asdict(bench.plan)}
    sections, figures = {}, {}

    def result() -> dict:
        return about | figures | {"peak_bytes": machine.peak_bytes(bench.device), "sections": sections}

    for section in SECTIONS:
        if names is None or section.NAME in names:
            sections[section.NAME], found = _measured(section, bench)
            figures.update(found)
            keep(result())
    return result()


def _measured(section: ModuleType, bench: Bench) -> tuple[dict, dict]:
    """A section's data and its figures of interest."""
    bench.tell(f"{section.TITLE} ...")
    began = time.perf_counter()
    try:
        data = section.measure(bench)
        figures = section.headline(data)
    except Exception as error:
        data, figures = {"why_not": why(error)}, {}
        bench.tell(f"not measured: {data['why_not']}")
    return data | {"section_seconds": time.perf_counter() - began}, figures


def failed(result: dict) -> list[str]:
    """Names of the sections that failed."""
    return [name for name, data in result["sections"].items() if "why_not" in data]


def tables(result: dict) -> list[Table]:
    """Every table of a result, in the order of the sections."""
    measured = result["sections"]
    return [
        table
        for section in SECTIONS
        if section.NAME in measured
        for table in tables_of(section, measured[section.NAME])
    ]


def tables_of(section: ModuleType, data: dict) -> list[Table]:
    """A section's tables, or why there are none."""
    return [not_measured(section.TITLE, data["why_not"])] if "why_not" in data else section.tables(data)
