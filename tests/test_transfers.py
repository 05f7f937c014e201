"""Nothing waits for the device: one transfer an iteration, no operation whose result's shape depends on data, no loop
over positions, rows or codes."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcsjd_core import INITIALISERS, METHODS, DecodeSettings, Grid, LawSettings, decode
from mcsjd_core.decoding.iteration import Iteration
from tiny import prompt, run, transformer

# Operations that read a value back, or whose output's shape does: each makes the host wait for the device.
WAITS = {
    "_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "masked_select", "is_nonzero", "equal", "_unique", "_unique2",
    "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount", "repeat_interleave", "where", "_assert_async",
}  # fmt: skip
READERS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")


def waits(function, args) -> bool:
    """Whether an operation makes the host wait. Two names depend on the overload: a mask as index, a tensor of repeats."""
    name = function.__name__.split(".")[0]
    if name in ("where", "repeat_interleave"):
        return (name == "where" and len(args) == 1) or (
            name == "repeat_interleave" and function._overloadname == "Tensor"
        )
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return (
        name in WAITS
        or torch.Tag.data_dependent_output in function.tags
        or torch.Tag.dynamic_output_shape in function.tags
    )


class Watch(TorchDispatchMode):
    """Counts operations, and lists those that wait."""

    def __init__(self):
        super().__init__()
        self.count, self.waiting = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if waits(function, args):
            self.waiting.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: bool(x.any()),
        lambda x: int(x.max()),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: torch.where(x > 0),
        lambda x: x.__setitem__(x > 0, torch.zeros(2)),
    ],
)
def test_the_watch_sees_what_waits(wait):
    with Watch() as watch:
        wait(torch.tensor([0.0, 1.0, 2.0]))
    assert watch.waiting


def test_the_watch_passes_what_does_not_wait():
    x = torch.arange(6).view(2, 3)
    with Watch() as watch:
        x[torch.arange(2)[:, None], x.clamp_max(2)].repeat_interleave(2, 0)
        torch.where(x > 2, x, 0).gather(1, x.clamp_max(2)).masked_fill(x > 3, 1)
        torch.searchsorted(x, x)
    assert not watch.waiting and watch.count > 5


MODEL = transformer(16, layers=1)
GRID = Grid(3, 3, forbidden=torch.eye(16)[:2] > 0, forbidden_row=torch.arange(9) % 3 - 1)
LAW = LawSettings(cfg_scale=2.0, top_k=8, top_p=0.95, temperature=0.9)


COLD = [name for name in INITIALISERS if name != "warm"]
CASES = [(coupling, 1, initialiser) for coupling in METHODS for initialiser in COLD]
CASES += [
    ("gumbel_exact", count, initialiser) for count, initialiser in ((1, "warm"), *((4, name) for name in INITIALISERS))
]
CASES += [
    ("maximal", 3, "random"),
    ("gumbel", 3, "left_law"),
    ("independent", 2, "above_law"),
    ("maximal", 1, "left_law"),
]


@pytest.mark.parametrize(("coupling", "trajectories", "initialiser"), CASES)
def test_an_iteration_reads_from_the_device_once(coupling, trajectories, initialiser, monkeypatch):
    reads, on_purpose = Counter(), []
    read = Iteration.read

    def counted_read(self, shape):
        on_purpose.append(shape)
        return read(self, shape)

    def counted(name):
        original = getattr(torch.Tensor, name)

        def reader(self, *args, **kwargs):
            reads[name] += 1
            return original(self, *args, **kwargs)

        return reader

    settings = DecodeSettings(coupling, 5, LAW, initialiser, trace_detail=trajectories == 1, trajectories=trajectories)
    earlier = torch.zeros(1, GRID.num_tokens, dtype=torch.long)
    arguments = (MODEL, prompt(MODEL, 3, True), GRID, settings)
    per_step = []
    monkeypatch.setattr(Iteration, "read", counted_read)
    for name in READERS:
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    with Watch() as watch:
        result = decode(*arguments, earlier_tokens=earlier, on_step=lambda step: per_step.append(len(on_purpose)))
    assert watch.waiting == []
    assert per_step == list(range(1, result.nfe + 1)) and len(on_purpose) == result.nfe
    # Those transfers, and the trace's details once at the end.
    assert reads["numpy"] == result.nfe and reads["cpu"] <= result.nfe + 1
    assert set(reads) == {"cpu", "numpy"}


class Enough(Exception):
    """Ends a run that has shown what it is watched for."""


def operations_per_iteration(coupling: str, window: int, codes: int, batch: int) -> int:
    """The usual number of operations from one iteration's callback to the next, rows all at work."""
    counts, grid, model, watch = [], Grid(8, 8), transformer(codes), Watch()

    def on_step(step):
        if max(step.done) == grid.num_tokens or len(counts) == 8:
            raise Enough
        counts.append(watch.count)

    with watch, pytest.raises(Enough):
        run(model, grid, batch, True, coupling=coupling, window=window, law=LAW, on_step=on_step)
    gaps = [after - before for before, after in itertools.pairwise(counts)]
    return Counter(gaps).most_common(1)[0][0]


@pytest.mark.parametrize("coupling", METHODS)
def test_the_number_of_operations_depends_on_neither_window_nor_codebook_nor_batch(coupling):
    reference = operations_per_iteration(coupling, 4, 16, 1)
    for window, codes, batch in ((40, 16, 1), (4, 300, 1), (4, 16, 5)):
        # A batch of one is contiguous in more ways, and saves or costs a copy.
        assert abs(operations_per_iteration(coupling, window, codes, batch) - reference) <= 4
    assert reference < 1000


def test_dropping_finished_rows_costs_a_fixed_number_of_operations():
    def most(batch):
        watch, counts = Watch(), []
        with watch:
            settings = {"coupling": "maximal", "window": 6, "law": LAW}
            run(MODEL, Grid(3, 3), batch, True, on_step=lambda step: counts.append(watch.count), **settings)
        return max(b - a for a, b in itertools.pairwise(counts))

    assert abs(most(120) - most(20)) <= 4
