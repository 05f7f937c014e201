"""Where an iteration's time goes: every part is counted once, and the clock is the caller's."""

from __future__ import annotations

import itertools

import pytest

from mcsjd_core import METHODS, DecodeSettings, Grid, LawSettings
from mcsjd_core.bench.timing import PARTS, overhead_share, part_seconds
from tiny import prompt, transformer

MODEL = transformer(16)


@pytest.mark.parametrize("coupling", METHODS)
def test_parts_add_up_to_what_the_clock_showed(coupling):
    ticks = itertools.count()
    settings = DecodeSettings(coupling, 7, LawSettings(cfg_scale=2.0))
    clock = ticks.__next__  # every look at the clock takes a second
    seconds = part_seconds(MODEL, prompt(MODEL, 2, True), Grid(6, 6), settings, iterations=5, warm_up=2, clock=clock)
    assert tuple(seconds) == PARTS
    assert seconds["forward"] == seconds["law"] == seconds["coupling"] == seconds["transfer"] == 1
    assert sum(seconds.values()) == pytest.approx((5 * 4 * 2 + 1) / 5)  # two looks a part, and one at the end
    assert overhead_share(seconds) == pytest.approx(1 - 5 / 41)


def test_a_run_may_end_before_the_iterations_asked_for():
    seconds = part_seconds(MODEL, prompt(MODEL), Grid(2, 2), DecodeSettings("maximal", 4), iterations=50, warm_up=1)
    assert min(seconds.values()) >= 0 and sum(seconds.values()) > 0


@pytest.mark.parametrize("warm_up", [0, 3, 5])
def test_what_is_counted_comes_after_the_warm_up(warm_up):
    """Also where fewer iterations are asked for than warm it up."""
    ticks = itertools.count()
    seconds = part_seconds(
        MODEL,
        prompt(MODEL, 1),
        Grid(6, 6),
        DecodeSettings("independent", 2),
        iterations=2,
        warm_up=warm_up,
        clock=ticks.__next__,
    )
    assert sum(seconds.values()) == pytest.approx((2 * 4 * 2 + 1) / 2)
    assert next(ticks) > 2 * (warm_up + 2) * 4
