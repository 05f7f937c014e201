"""Compiled and captured iterations: one graph a shape, no values looked at, nothing moved, the same tokens.

What a CUDA graph asks of an iteration is shown without a GPU: it runs to its end on tensors that have no values, meets none
of another device, and the addresses of all it works on stay the same.
"""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mcsjd_core import COUPLINGS, INITIALISERS, METHODS, DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.cli.options import add_model_arguments
from mcsjd_core.decoding import loop, runners
from mcsjd_core.decoding.drafts import RECALL
from mcsjd_core.decoding.interface import Prompt
from mcsjd_core.decoding.iteration import Iteration, Shape
from mcsjd_core.decoding.ledger import Ledger
from mcsjd_core.decoding.loop import advance, decode, drop_finished, next_shape, prepare
from mcsjd_core.decoding.runners import Compiled, Eager
from tiny import TableModel, prompt, run, transformer

CODES = 16
MODEL = transformer(CODES, layers=1)  # tracing a layer takes a second
GRID = Grid(4, 6, row_end=CODES, forbidden=torch.eye(CODES)[:2] > 0, forbidden_row=torch.arange(28) % 3 - 1)
LAW = LawSettings(cfg_scale=2.0, temperature=0.9, top_k=8, top_p=0.95)
EARLIER = torch.zeros(1, GRID.num_tokens, dtype=torch.long)


CASES = [(c, i) for c in COUPLINGS for i in (*INITIALISERS, RECALL) if i != "warm" or c == "gumbel_exact"]


def settings_of(coupling="maximal", law=LAW, initialiser="random", **more) -> DecodeSettings:
    return DecodeSettings(coupling, 5, law, initialiser, **more)


def prepared(settings: DecodeSettings, batch: int = 3, model=MODEL, given: Prompt | None = None):
    earlier = EARLIER if settings.initialiser == "warm" else None
    return prepare(model, given or prompt(model, batch, settings.law.guided), GRID, settings, None, earlier)


# -- compiled ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(monkeypatch):
    """A runner whose graphs are counted and run as they are; torch.compile raises where a graph would break."""
    from torch._dynamo.testing import CompileCounterWithBackend  # seconds, and for tests that compile alone

    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    compiled = Compiled(backend)
    monkeypatch.setattr(loop, "runner", lambda name, device: compiled if name == "compiled" else Eager())
    yield backend
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("coupling", "trajectories"), [*((name, 1) for name in METHODS), ("gumbel_exact", 3), ("maximal", 2)]
)
def test_a_run_of_one_shape_compiles_one_graph_and_the_next_run_none(coupling, trajectories, counting):
    how = {"coupling": coupling, "trajectories": trajectories, "window": 5, "law": LAW}
    eager = run(MODEL, GRID, 1, True, seed=1, **how)
    compiled = run(MODEL, GRID, 1, True, seed=1, execution="compiled", **how)
    assert counting.frame_count == 1
    assert torch.equal(compiled.tokens, eager.tokens)
    assert compiled.traces[0].committed == eager.traces[0].committed
    run(MODEL, GRID, 1, True, seed=2, execution="compiled", **how)
    assert counting.frame_count == 1


def test_a_prompt_of_another_length_needs_no_other_graph(counting):
    settings = DecodeSettings("maximal", 5, LawSettings(2.0), seed=1)
    for words in (2, 3, 60):
        ids = [[0, *range(2, 2 + words % 5), *[4] * (words // 5), 1], [0, 1]]
        given = Prompt.of_ids(ids, MODEL.embed_ids, True, "cpu")
        eager, compiled = (
            decode(MODEL, given, GRID, replace(settings, execution=how)) for how in ("eager", "compiled")
        )
        assert torch.equal(eager.tokens, compiled.tokens)
    assert counting.frame_count == 1


def test_prompts_whose_padding_counts_are_left_as_they_are():
    given, planes = prompt(MODEL, 1, True), torch.zeros(28, 2)
    padded = Compiled("eager").prompt(given, counts_padding=False)
    assert padded.embeddings.shape[1] == 64 and padded.padding.tolist() == [60, 62]
    for left, counts_padding in ((given, True), (replace(given, planes=planes), False)):
        assert Compiled("eager").prompt(left, counts_padding) is left


def test_seconds_of_an_unusual_call_are_not_told_to_the_schedule():
    """Such as of one that is recorded: what it takes says nothing of later ones."""
    told = []

    class Recording(Eager):
        def __call__(self, iteration: Iteration, shape: Shape) -> bool:
            super().__call__(iteration, shape)
            return len(told) >= 2

    class Watched:
        largest = 5

        def next(self, rows: int) -> int:
            return 5

        def observe(self, window: int, committed: list[int], seconds: float | None) -> None:
            told.append(seconds)

    _, iteration, ledger = prepared(settings_of())
    with torch.no_grad():
        for _ in range(4):
            advance(ledger, Watched(), iteration, Recording())
    assert told[:2] == [None, None] and all(told[2:])


def test_a_call_that_compiles_is_told_from_later_ones(counting):
    """Also where the window and the rows are those of a graph that is there, and a prompt's length is not."""
    usual = []
    for length in (4, 4, 70):
        given = Prompt(torch.zeros(2, length, 16), torch.zeros(2, dtype=torch.long), True)
        _, iteration, ledger = prepared(settings_of(execution="compiled"), given=given)
        padded = loop.runner("compiled", "cpu")
        with torch.no_grad():
            usual += [padded(iteration, next_shape(ledger, 5, iteration, padded)) for _ in range(2)]
    assert usual == [False, True, True, True, False, True]


def test_what_a_compiler_raises_is_one_sentence(monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("No working C++ compiler found in c++\nand a long story")

    torch._dynamo.reset()
    monkeypatch.setattr(loop, "runner", lambda name, device: Compiled(no_compiler))
    sentence = "Iterations cannot be compiled here (No working C++ compiler found in c++); run them eager."
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        run(MODEL, GRID, 1, window=5, execution="compiled")
    torch._dynamo.reset()


def test_as_many_graphs_as_shapes_and_rows_that_end_change_nothing(counting, monkeypatch):
    monkeypatch.setattr(runners, "SMALLEST_EXTENT", 32)
    monkeypatch.setattr(runners, "PROMPT_STEP", 1)
    shapes = []
    monkeypatch.setattr(loop, "next_shape", lambda *args: shapes.append(next_shape(*args)) or shapes[-1])
    arguments = {"coupling": "maximal", "window": 5, "law": LAW, "trace_detail": True}
    compiled = run(MODEL, GRID, 2, True, execution="compiled", **arguments)
    assert counting.frame_count == len(set(shapes))
    assert {shape.window for shape in shapes} == {5} and {shape.extent for shape in shapes} == {32, 37}
    assert len({shape.rows for shape in shapes}) > 1
    eager = run(MODEL, GRID, 2, True, **arguments)
    assert torch.equal(compiled.tokens, eager.tokens) and compiled.nfe == eager.nfe
    for ours, theirs in zip(compiled.traces, eager.traces, strict=True):
        assert ours.committed == theirs.committed and ours.starts == theirs.starts
        assert [len(v) for v in ours.details["tv"]] == [min(5, GRID.num_tokens - start) for start in ours.starts]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_what_torch_compiles_draws_the_same_tokens(monkeypatch):
    """Its compiler reorders writes to the state; where it errs, drafts are verified against laws of other positions."""
    model, settings = TableModel(5, 6, seed=1), DecodeSettings("maximal", 4, LawSettings(2.0, 0.9, 3), seed=3)
    arguments = (model, model.prompt(16, True), Grid(1, 6))
    monkeypatch.setattr(Compiled, "rows", lambda self, at_work: 16)  # one shape
    eager, compiled = (decode(*arguments, replace(settings, execution=how)) for how in ("eager", "compiled"))
    assert torch.equal(eager.tokens, compiled.tokens)
    assert [trace.committed for trace in eager.traces] == [trace.committed for trace in compiled.traces]


def test_few_shapes_serve_a_long_run():
    compiled = Compiled("eager")
    assert {compiled.extent(needed, 4200) for needed in range(1, 4201)} == {256, 512, 1024, 2048, 4096, 4200}
    assert [compiled.rows(count) for count in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    assert compiled.window(64, 3) == 64


def test_complete_rows_are_carried_until_few_enough_are_left():
    ledger = Ledger([0] * 6, 10)
    for counts, order in (([10, 1, 1, 10, 1, 1], []), ([0, 9, 1, 0, 9, 1], [0, 2]), ([0, 1], [])):
        ledger.add(10, np.array(counts), 0.0, None)
        carried = ledger.drop_finished(lambda at_work: {4: 6, 2: 2}[at_work])
        assert len(carried) == len(order)
        if len(carried):
            assert sorted(ledger.active) == [2, 5]
            break
    assert [trace.nfe for trace in ledger.traces()] == [1, 2, 2, 1, 2, 2]


# -- what a capture asks for -----------------------------------------------------------------------------------------------


def addresses(iteration) -> dict[str, int]:
    state, cache = iteration.state, iteration.cache
    tensors = {name: value for name, value in vars(state).items() if isinstance(value, torch.Tensor)}
    tensors |= {f"keys {i}": t for i, t in enumerate(cache.keys)} | {
        f"values {i}": t for i, t in enumerate(cache.values)
    }
    tensors |= {"padding": cache.padding}
    if state.law is not None:
        tensors |= {"law": state.law.probs}
        if state.law.codes is not None:
            tensors |= {"law's codes": state.law.codes}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "law", [LAW, LawSettings(), LawSettings(temperature=0.0)], ids=["truncated", "whole", "greedy"]
)
@pytest.mark.parametrize("coupling", METHODS)
def test_all_state_keeps_its_address_for_the_whole_run(coupling, law):
    schedule, iteration, ledger = prepared(settings_of(coupling, law, trace_detail=True))
    before, eager = addresses(iteration), Eager()
    assert len(before) > 12
    with torch.no_grad():
        while not ledger.is_complete:
            advance(ledger, schedule, iteration, eager)
            drop_finished(ledger, iteration, eager)
            assert addresses(iteration) == before


@pytest.mark.parametrize(("coupling", "initialiser"), CASES)
def test_an_iteration_looks_at_no_value_and_moves_nothing_between_devices(coupling, initialiser):
    model = transformer(CODES, layers=1).to("meta")
    given = Prompt(torch.zeros(4, 4, 16, device="meta"), torch.zeros(4, dtype=torch.long, device="meta"), True)
    settings = settings_of(coupling, initialiser=initialiser, trace_detail=True)
    _, iteration, _ = prepared(settings, model=model, given=given)
    with Moves() as moves:
        iteration(Shape(2, 5, 20))
        iteration(Shape(2, 3, 24))
    assert moves.count > 100 and not moves.between_devices
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        iteration.read(Shape(2, 3, 24))


class Moves(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations, and lists those that join tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.count, self.between_devices = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1:
            self.between_devices.append(str(function))
        return result


def test_an_unknown_execution_and_a_capture_on_the_cpu_are_refused():
    with pytest.raises(InputError, match="execution must be one of eager, compiled, captured, got 'fast'"):
        DecodeSettings(execution="fast")
    with pytest.raises(InputError, match="captured on a CUDA device only, got cpu"):
        run(MODEL, GRID, 1, execution="captured")


@pytest.mark.parametrize(
    ("flags", "execution"), [([], "eager"), (["--compile"], "compiled"), (["--capture"], "captured")]
)
def test_the_command_line_tells_how_iterations_are_run(flags, execution):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    assert parser.parse_args(flags).execution == execution
