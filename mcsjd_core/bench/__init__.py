"""The bench: what this pack costs and saves on the machine at hand, in one run.

A section is a module with `NAME`, `TITLE`, `measure(bench)`, which gives plain data for JSON, `headline(data)`, the figures of
it that stand at the top of the JSON, and `tables(data)`, what people read.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from ..reporting.tables import Table
from . import automatic, breakdown, couplings, forward, machine, memory, peer, trajectories, transfers
from .drawing import check_drawable
from .plan import FULL, QUICK, Bench, Plan

__all__ = ["FULL", "QUICK", "SECTIONS", "Bench", "Plan", "Table", "check_drawable", "run", "tables"]

# Memory comes first: the most that the process held is still that of the small model.
SECTIONS = (memory, couplings, automatic, trajectories, transfers, breakdown, forward, peer)


def run(bench: Bench, names: tuple[str, ...] | None = None) -> dict:
    """Measure the sections in `names` (None: all); the result is ready for JSON, its figures of interest at the top."""
    sections, figures = {}, {}
    for section in SECTIONS:
        if names is None or section.NAME in names:
            bench.tell(f"{section.TITLE} ...")
            began = time.perf_counter()
            data = section.measure(bench)
            sections[section.NAME] = data | {"section_seconds": time.perf_counter() - began}
            figures |= section.headline(data)
    about = {"machine": machine.describe(bench.device, bench.dtype), "plan": asdict(bench.plan)}
    peak = {"peak_bytes": machine.peak_bytes(bench.device)}
    return about | figures | peak | {"sections": sections}


def tables(result: dict) -> list[Table]:
    """Every table of a result, in the order of the sections."""
    measured = result["sections"]
    return [
        table for section in SECTIONS if section.NAME in measured for table in section.tables(measured[section.NAME])
    ]
