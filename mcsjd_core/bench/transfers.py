"""Section: how often the host reads from the device while a picture is drawn."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..decoding.loop import DecodeSettings
from ..laws.coupling import COUPLINGS
from ..reporting.tables import Table
from .drawing import checkpoint_law, draw, texts
from .plan import Bench

NAME, TITLE = "transfers", "transfers between device and host"
# Not `numpy`: it takes tensors of the host alone, which `cpu` has brought there.
READERS = {"tolist", "item", "cpu", "__bool__", "__int__", "__float__", "__index__"}
DYNAMIC = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Reads(TorchFunctionMode):
    """Counts calls that hand values of a tensor to Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in READERS
        return function(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts operations that make the host wait, because the shape of what they give depends on values. Reads do so, too,
    and are left to `Reads`."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += self._waits(function, args)
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _waits(function, args) -> bool:
        name = function.__name__.split(".")[0].strip("_")
        if name in ("index", "index_put", "index_put_impl"):  # tagged for the sake of masks
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return name != "local_scalar_dense" and any(tag in function.tags for tag in DYNAMIC)


def measure(bench: Bench) -> dict:
    """Reads between the callbacks of the first and of the last iteration of a decode, for every coupling."""
    return {"couplings": {coupling: _count(bench, coupling) for coupling in COUPLINGS}}


def _count(bench: Bench, coupling: str) -> dict:
    seen: list[tuple[int, int]] = []
    settings = DecodeSettings(coupling, bench.plan.windows[0], checkpoint_law(bench))
    with Reads() as reads, Waits() as waits:
        draw(bench, texts(0, 2), settings, rows=2, on_step=lambda step: seen.append((reads.count, waits.count)))
    (reads_before, waits_before), (reads_after, waits_after) = seen[0], seen[-1]
    return {
        "iterations": len(seen) - 1,
        "reads": reads_after - reads_before,
        "other_waits": waits_after - waits_before,
    }


def headline(data: dict) -> dict:
    """Both kinds, of the coupling that has most."""
    return {
        "transfers_per_iteration": max(
            (found["reads"] + found["other_waits"]) / found["iterations"] for found in data["couplings"].values()
        )
    }


def tables(data: dict) -> list[Table]:
    rows = [
        [name, str(found["iterations"]), str(found["reads"]), str(found["other_waits"])]
        for name, found in data["couplings"].items()
    ]
    note = "A batch of two pictures between its first iteration and its last; counted on the device of this run."
    return [
        Table("Transfers", ["coupling", "iterations", "reads by the CPU", "other operations that wait"], rows, note)
    ]
