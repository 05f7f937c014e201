"""The window `auto`: what it learns from time and counts, and how near it comes to the best fixed window.

Times and counts are drawn: nothing here depends on the machine. Whole runs are in `test_auto_runs`.
"""

from __future__ import annotations

import math
import random
from functools import cache

import pytest

from mcsjd_core.decoding.window_policy import LADDER, AutoWindow, CommitModel, ForwardTimes


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


@cache
def forwards(window: int, rows: int, level: float, seed: int) -> list[tuple[int, float]]:
    """Of a decode with a fixed window, which is the same on every device: positions, and by what factor their time is off."""
    found = []

    def observe(window, counts, off):
        found.append((len(counts) * window, off))

    decode_seconds(lambda rows: window, observe, rows, lambda positions: 1.0, level, seed)
    return found


@pytest.mark.parametrize("level", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("device", DEVICES)
def test_auto_is_near_the_best_fixed_window_and_no_slower_than_plain_ar(device, rows, level):
    seconds, runs = DEVICES[device], 5

    def fixed(window: int) -> float:
        return sum(
            seconds(positions) * off for seed in range(runs) for positions, off in forwards(window, rows, level, seed)
        )

    def auto(model: Model, seed: int) -> float:
        policy = AutoWindow(ForwardTimes(model, "kind"), 256)
        return decode_seconds(policy.next, policy.observe, rows, seconds, level, seed)

    model, costs = Model(), {window: fixed(window) for window in LADDER}
    cold = sum(auto(Model(), seed) for seed in range(runs))
    warm = sum(auto(model, seed) for seed in range(runs + 1)) * runs / (runs + 1)
    assert warm <= 1.13 * min(costs.values()) and warm <= 1.07 * costs[1]
    assert cold <= 1.15 * min(costs.values())  # nothing known: each probe is taken twice
