"""Runs with the window `auto`: the tokens of plain AR, the exact law, and no way from drafts to the window (rule E2).

Time is a fake clock throughout: nothing here depends on the machine.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.iteration import Iteration, Shape
from mcsjd_core.decoding.runners import Eager
from mcsjd_core.decoding.window_policy import AutoWindow, ForwardTimes
from mcsjd_core.laws.coupling import Maximal
from mcsjd_core.laws.noise import Noise
from sequence_law import CODES, SAMPLES, SHARPNESS, TOKENS, is_rejected, p_value, table_law
from test_window_policy import DEVICES, nothing_remembered  # noqa: F401 - a fixture
from tiny import TableModel, prompt, run, transformer

LEVEL = 1e-3 / 4  # four G-tests of a correct core below, family-wise error 1e-3


# -- in the loop -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The loop's clock; `seconds` is added to by whoever plays the device."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    return clock


def timed(model, clock, cost):
    """The model, its forwards taking cost(positions) on the fake clock."""
    hidden = model.hidden

    def slow(embeddings, slots, cache, extent):
        clock.seconds += cost(embeddings.shape[0] * embeddings.shape[1])
        return hidden(embeddings, slots, cache, extent)

    object.__setattr__(model, "hidden", slow)
    return model


GRID = Grid(8, 8)


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    """Tokens of plain AR for three rows."""
    return run(transformer(16), GRID, 3, coupling="autoregressive", seed=5).tokens


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_gumbel_exact_equals_plain_ar_under_auto(batch, device, clock, plain):
    model = timed(transformer(16), clock, DEVICES[device])
    for _ in range(2):
        result = run(model, GRID, batch, coupling="gumbel_exact", window="auto", seed=5)
        assert torch.equal(result.tokens, plain[:batch])
        for trace in result.traces:
            assert all(count <= window for count, window in zip(trace.committed, trace.windows, strict=True))
            assert sum(trace.committed) == GRID.num_tokens == trace.num_tokens


def test_a_run_repeats_if_the_clock_does(clock):
    first, second = (
        run(timed(transformer(16), clock, DEVICES["flat"]), GRID, 2, coupling="maximal", window="auto", seed=7)
        for _ in range(2)
    )
    assert torch.equal(first.tokens, second.tokens) and first.traces[0].windows == second.traces[0].windows


def test_windows_widen_where_they_cost_nothing_and_stay_at_one_where_they_never_pay(clock):
    def last(device):
        model = timed(transformer(16), clock, DEVICES[device])
        return [run(model, GRID, coupling="gumbel", window="auto").traces[0].windows[:12] for _ in range(3)][-1]

    assert max(last("flat")) > 16 and min(last("windows never pay")) == 1


def test_zero_means_auto_and_plain_ar_keeps_a_window_of_one():
    assert DecodeSettings(window=0) == DecodeSettings(window="auto")
    settings = DecodeSettings("autoregressive", "auto")
    assert settings.effective_window == 1 and not settings.adapts and settings.window_name == "1"
    assert DecodeSettings(window="auto").window_name == "auto"


@pytest.mark.parametrize("window", [-1, 2.5, "automatic", None])
def test_other_windows_are_refused(window):
    with pytest.raises(InputError, match=r"window must be"):
        DecodeSettings(window=window)


# -- the law ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["independent", "maximal", "gumbel"])
def test_sequences_follow_the_exact_law_under_auto(coupling, clock):
    """All rows share a schedule that widens, narrows and depends on their counts."""
    costs = iter([1.0, 2.0, 1.5, 3.0] * 100)
    model = timed(TableModel(CODES, TOKENS, sharpness=SHARPNESS, seed=27), clock, lambda positions: next(costs))
    settings = DecodeSettings(coupling, "auto", seed=1_000_003)
    result = decode(model, model.prompt(SAMPLES, False), Grid(1, TOKENS), settings)
    assert len({window for trace in result.traces[:50] for window in trace.windows}) > 1
    assert p_value(result.tokens, table_law(model, settings.law)) > LEVEL


class CountSchedule:
    """Narrows or widens by what the last iteration committed."""

    largest = 3

    def __init__(self):
        self.committed = 1

    def next(self, rows: int) -> int:
        return 3 if self.committed == 1 else 1

    def observe(self, window: int, committed: list[int], seconds: float) -> None:
        self.committed = committed[0]


class PeekingSchedule(CountSchedule):
    """Breaks rule E2: keeps the last draft of the window only where it is code 1."""

    tokens = None  # of the last iteration, committed or not

    def __init__(self):
        PeekingSchedule.tokens = torch.ones(1, 1)

    def next(self, rows: int) -> int:
        return 3 if self.tokens[0, -1] == 1 else 1


SMALL_CHUNKS, SMALL_CHUNK = 3, 250


def small_runs(monkeypatch, schedule: type):
    """Chunks of decodes of a single row each, for a row has to have its own schedule here; and their exact law."""
    commit = Iteration.commit

    def watched(self, tokens, *rest):
        PeekingSchedule.tokens = tokens
        commit(self, tokens, *rest)

    monkeypatch.setattr(Iteration, "commit", watched)
    monkeypatch.setattr(loop, "schedule_of", lambda *_: schedule())
    monkeypatch.setattr(Noise, "random_codes", lambda self, size: torch.zeros_like(self.positions))
    model = TableModel(2, 3, seed=1)

    def tokens(seed: int) -> torch.Tensor:
        return decode(model, model.prompt(1, False), Grid(1, 3), DecodeSettings("maximal", seed=seed)).tokens

    seeds = range(SMALL_CHUNKS * SMALL_CHUNK)
    chunks = (torch.cat(list(map(tokens, seeds[i : i + SMALL_CHUNK]))) for i in range(0, len(seeds), SMALL_CHUNK))
    return chunks, table_law(model, DecodeSettings().law)


def test_a_schedule_by_counts_keeps_the_law(monkeypatch):
    chunks, law_of = small_runs(monkeypatch, CountSchedule)
    assert p_value(torch.cat(list(chunks)), law_of) > LEVEL


def test_the_g_test_rejects_a_schedule_that_looks_at_drafts(monkeypatch):
    assert is_rejected(*small_runs(monkeypatch, PeekingSchedule), LEVEL)


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Lists every operation with the shapes, strides and types of all that it reads."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        tensors = [(tuple(t.shape), t.stride(), t.dtype) for t in leaves if isinstance(t, torch.Tensor)]
        self.seen.append((str(function), tensors))
        return function(*args, **(kwargs or {}))


def operations_of(coupling: str, law: LawSettings, seed: int) -> tuple[list, torch.Tensor]:
    """What one iteration calls, two iterations into a run, and the tokens that it leaves."""
    model, settings = transformer(16), DecodeSettings(coupling, 8, law, seed=seed)
    _, iteration, _ = loop.prepare(model, prompt(model, 2, law.guided), Grid(6, 6), settings)
    with torch.no_grad():
        for _ in range(2):
            iteration(Shape(2, 8, 40))
        with Operations() as operations:
            iteration(Shape(2, 8, 40))
    return operations.seen, iteration.state.sequence.clone()


LAWS = [LawSettings(), LawSettings(cfg_scale=2.0, temperature=0.9, top_k=5, top_p=0.9)]


@pytest.mark.parametrize("law", LAWS, ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("coupling", ["independent", "maximal", "gumbel"])
def test_the_operations_of_an_iteration_do_not_depend_on_its_tokens(coupling, law):
    """The clock is the only way from drafts to the window auto: it times the same work whatever they are (E2)."""
    (first, tokens), (second, others) = (operations_of(coupling, law, seed) for seed in (0, 1))
    assert len(first) > 50 and first == second and (tokens != others).any()


def test_operations_that_look_at_tokens_are_noticed(monkeypatch):
    couple = Maximal.couple

    def shortcut(self, p, q, drafts, noise):
        tokens = couple(self, p, q, drafts, noise)
        return tokens if tokens.sum() % 2 else tokens + 0

    monkeypatch.setattr(Maximal, "couple", shortcut)
    seen = [operations_of("maximal", LAWS[0], seed)[0] for seed in range(8)]
    assert any(each != seen[0] for each in seen)


def test_a_forward_is_timed_under_the_rows_that_it_carried(monkeypatch):
    """Complete ones among them: the next forward carries them, too, and is looked up by that number."""
    asked, added = [], []

    class Carrying(Eager):
        def rows(self, at_work: int) -> int:
            return 4

    class Watched(AutoWindow):
        def next(self, rows: int) -> int:
            asked.append(rows)
            return super().next(rows)

    class Times(ForwardTimes):
        def add(self, rows: int, window: int, seconds: float) -> None:
            added.append(rows)
            super().add(rows, window, seconds)

    model = transformer(16)
    monkeypatch.setattr(loop, "runner", lambda *_: Carrying())
    monkeypatch.setattr(loop, "schedule_of", lambda *_: Watched(Times(model, ()), 8))
    result = decode(model, prompt(model, 4), Grid(6, 6), DecodeSettings("maximal", window=0))
    assert len({len(trace.committed) for trace in result.traces}) > 1, "some rows were complete before the others"
    assert asked == added and set(added) == {4}
