"""The window `auto`: what it learns from time and counts, how near it comes to the best fixed window, that it stays exact.

Time is a fake clock throughout: nothing here depends on the machine.
"""

from __future__ import annotations

import math
import random
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.iteration import Iteration, Shape
from mcsjd_core.decoding.runners import Eager
from mcsjd_core.decoding.window_policy import LADDER, AutoWindow, CommitModel, ForwardTimes
from mcsjd_core.laws.coupling import Maximal
from mcsjd_core.laws.noise import Noise
from sequence_law import CODES, SAMPLES, SHARPNESS, TOKENS, is_rejected, p_value, table_law
from tiny import TableModel, prompt, run, transformer

LEVEL = 1e-3 / 4  # four G-tests of a correct core below, family-wise error 1e-3


class Model:
    """Something that times can be remembered for."""


@pytest.fixture(autouse=True)
def nothing_remembered():
    ForwardTimes.forget()
    yield
    ForwardTimes.forget()


# -- time ----------------------------------------------------------------------------------------------------------------


def measured(shapes: dict[tuple[int, int], list[float]], model=None) -> ForwardTimes:
    times = ForwardTimes(model or Model(), "kind")
    for (rows, window), seconds in shapes.items():
        for value in seconds:
            times.add(rows, window, value)
    return times


def test_the_first_call_of_a_shape_is_not_counted():
    times = measured({(1, 8): [9.0]})
    assert not times.known(1, 8)
    times.add(1, 8, 2.0)
    assert times.known(1, 8) and times.seconds(1, 8) == 2.0


def test_times_are_medians_of_the_latest():
    times = measured({(1, 8): [9.0, 5.0, 5.0, 5.0, 1.0, 2.0, 30.0, 3.0, 2.0]})
    assert times.seconds(1, 8) == 2.0


def test_widths_between_and_beyond_the_measured_lie_on_lines():
    times = measured({(1, 1): [9, 1.0], (1, 8): [9, 1.0], (1, 16): [9, 3.0]})
    assert times.seconds(1, 4) == 1.0 and times.seconds(1, 12) == 2.0 and times.seconds(1, 32) == 7.0


def test_other_numbers_of_rows_are_told_by_their_positions():
    times = measured({(4, 1): [9, 1.0], (4, 8): [9, 8.0]})
    assert times.seconds(2, 16) == 8.0 and times.seconds(2, 2) == 1.0


def test_a_model_s_times_are_remembered_for_its_next_run_and_go_with_it():
    model = Model()
    measured({(1, 8): [9.0, 2.0, 4.0, 4.0]}, model)
    again = ForwardTimes(model, "kind")
    assert again.known(1, 8) and again.seconds(1, 8) == 4.0
    assert not ForwardTimes(model, "other kind").known(1, 8) and not ForwardTimes(Model(), "kind").known(1, 8)
    count = len(ForwardTimes._remembered)
    del model, again
    assert len(ForwardTimes._remembered) < count


def test_a_busier_machine_is_busier_at_every_width():
    model = Model()
    measured({(1, 8): [9.0, 2.0], (1, 16): [9.0, 3.0]}, model)
    times = measured({(1, 8): [4.0, 4.0]}, model)
    assert times.seconds(1, 16) == 6.0


def test_a_forward_of_unknown_time_still_teaches_counts():
    policy = AutoWindow(ForwardTimes(Model(), "kind"), 256)
    for _ in range(3):
        policy.observe(8, [8], None)
    assert not policy.times.known(1, 8) and policy.commits.level > CommitModel().level


# -- counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "count"), [(8, 1.1), (8, 4.0), (16, 2.0), (64, 6.0), (64, 12.0)])
def test_the_model_of_counts_comes_to_what_is_seen(window, count):
    model = CommitModel()
    for _ in range(150):
        model.observe(window, count, rows=1)
    assert model.expected(window) == pytest.approx(count, rel=0.1)


def test_counts_are_never_more_than_the_window_or_less_than_one():
    model = CommitModel()
    for _ in range(100):
        model.observe(16, 16.0, rows=4)
    assert all(1 <= model.expected(w) <= model.promised(w) <= w for w in LADDER)


def test_a_window_of_one_teaches_nothing():
    model = CommitModel()
    before = model.promised(32)
    model.observe(1, 1.0, rows=8)
    assert model.promised(32) == before


# -- the choice: a decode in which counts and times are drawn --------------------------------------------------------------


@cache
def mean_count(window: int, level: float) -> float:
    """A law of counts that is not the policy's own."""
    return min(1 + level * 2.6 * (1 - math.exp(-math.log2(max(window, 1)) / 3)), window)


def decode_seconds(next_window, observe, rows: int, seconds, level: float, seed: int) -> float:
    """What a decode of 256 tokens in every row takes, if a forward takes seconds(positions)."""
    generator, total, done, window = random.Random(seed), 0.0, [0] * rows, 0
    refined = [[] for _ in done]
    while done:
        window, counts = min(next_window(len(done)), 256 - min(done)), []
        for front in refined:
            del front[window:]
            front += [min(position, window) for position in range(len(front) + 1, window + 1)]
            count, stop = 1, 1 / mean_count(front[0], level)
            while count < window and generator.random() > stop:
                count += 1
            counts.append(count)
            del front[:count]
        counts = [min(count, 256 - before) for count, before in zip(counts, done, strict=True)]
        took = seconds(len(done) * window) * generator.lognormvariate(0, 0.05)
        observe(window, counts, took)
        total += took
        done = [before + count for before, count in zip(done, counts, strict=True)]
        refined = [front for front, end in zip(refined, done, strict=True) if end < 256]
        done = [end for end in done if end < 256]
    return total


DEVICES = {
    "grows from the start": lambda positions: 6.5 + 0.46 * positions,
    "flat": lambda positions: 10 + 0.005 * positions,
    "flat, then a knee": lambda positions: 10 + 0.1 * max(0, positions - 32),
    "windows never pay": lambda positions: 1.0 * positions,
    "one position is cheap": lambda positions: 5.0 if positions == 1 else 10 + 0.1 * positions,
}


@pytest.mark.parametrize("level", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("device", DEVICES)
def test_auto_is_near_the_best_fixed_window_and_no_slower_than_plain_ar(device, rows, level):
    seconds, runs = DEVICES[device], 5

    def fixed(window: int) -> float:
        return sum(
            decode_seconds(lambda rows: window, lambda *_: None, rows, seconds, level, seed) for seed in range(runs)
        )

    def auto(model: Model, seed: int) -> float:
        policy = AutoWindow(ForwardTimes(model, "kind"), 256)
        return decode_seconds(policy.next, policy.observe, rows, seconds, level, seed)

    model, costs = Model(), {window: fixed(window) for window in LADDER}
    cold = sum(auto(Model(), seed) for seed in range(runs))
    warm = sum(auto(model, seed) for seed in range(runs + 1)) * runs / (runs + 1)
    assert warm <= 1.13 * min(costs.values()) and warm <= 1.07 * costs[1]
    assert cold <= 1.15 * min(costs.values())  # nothing known: each probe is taken twice


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
