"""Live previews: what they show of an unfinished picture, and that they keep to their share of the time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from mcsjd_core import Grid, Step, load
from mcsjd_core.pipeline.preview import BLANK, DRAFT_OPACITY, Budget, drafted_rows, unfinished_pictures


@pytest.fixture(scope="module")
def family(tiny_checkpoint):
    return load(tiny_checkpoint)


def step(grid: Grid, done: list[int], drafted: list[int]) -> Step:
    return Step(
        1, torch.randint(24, (len(done), grid.num_tokens), generator=torch.Generator().manual_seed(1)), done, drafted
    )


def cell(picture: torch.Tensor, grid: Grid, position: int) -> torch.Tensor:
    """Pixels [3, f, f] of a position."""
    factor = picture.shape[-1] // grid.columns
    y, x = position // grid.columns * factor, position % grid.columns * factor
    return picture[:, y : y + factor, x : x + factor]


def test_committed_is_clear_drafts_are_dimmed_the_rest_is_blank(family):
    grid = family.grid()  # 4 x 6
    now = step(grid, [8, 3], [14, 9])
    pictures = unfinished_pictures(family, grid, now, 2, rows=3)
    decoded = family.codec.decode(grid.codes(now.tokens)[:, :3])
    for row in (0, 1):
        for position in range(grid.num_tokens):
            shown = cell(pictures[row], grid, position)
            if position >= now.drafted[row]:
                assert (shown == BLANK).all()
                continue
            opacity = 1.0 if position < now.done[row] else DRAFT_OPACITY
            expected = BLANK + (cell(decoded[row], grid, position) - BLANK) * opacity
            torch.testing.assert_close(shown, expected)


def test_a_finished_picture_is_the_decoded_one(family):
    grid = family.grid()
    now = step(grid, [24], [24])
    shown = unfinished_pictures(family, grid, now, 1, rows=4)
    torch.testing.assert_close(shown, family.codec.decode(grid.codes(now.tokens)))


def test_rows_are_those_that_any_of_the_pictures_has_reached():
    grid = Grid(4, 6, row_end=99)
    assert drafted_rows(step(grid, [0, 0], [7, 8]), grid, 1) == 1
    assert drafted_rows(step(grid, [0, 0], [7, 8]), grid, 2) == 2
    assert drafted_rows(step(Grid(4, 6, end=(99,)), [0], [25]), Grid(4, 6, end=(99,)), 1) == 4


class Clock:
    """Time as the test tells it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    seconds: float, seconds_a_row: float | Callable[[int], float], step_seconds: float = 0.05, rows: int = 16
) -> tuple[Budget, list[float]]:
    """A run that offers a preview after every step; gives the budget and when whole previews were drawn.

    `seconds_a_row` may depend on how often something was drawn before.
    """
    clock, drawn, costs, row_seconds = Clock(), [], [], seconds_a_row
    budget = Budget(clock=clock)
    while clock.now < seconds:
        clock.now += step_seconds
        allowed = budget.rows(rows)
        if allowed:
            costs.append(row_seconds(len(costs)) if callable(row_seconds) else row_seconds)
            with budget.spend(allowed):
                clock.now += allowed * costs[-1]
            if allowed == rows:
                drawn.append(clock.now)
    return budget, drawn


def test_cheap_previews_come_a_few_times_a_second():
    _, drawn = run(10, seconds_a_row=0.0001)
    assert 15 <= len(drawn) <= 25
    assert min(later - earlier for earlier, later in pairwise(drawn)) >= 0.4


@pytest.mark.parametrize("seconds_a_row", [0.002, 0.01, 0.1])
def test_dear_previews_come_as_often_as_their_share_allows(seconds_a_row):
    budget, drawn = run(60, seconds_a_row)
    assert budget.spent <= 0.05 * 60
    assert budget.spent > budget.share * 60 - 2 * 16 * seconds_a_row  # and what may be spent is spent
    assert drawn


def test_a_cold_trial_does_not_make_previews_look_dear():
    _, drawn = run(10, lambda before: 0.2 if before == 0 else 0.002)
    assert drawn[0] < 6 and len(drawn) > 5


@pytest.mark.parametrize("seconds", [1, 2, 5, 20])
def test_short_runs_overspend_by_one_trial_at_the_most(seconds):
    budget, _ = run(seconds, lambda before: 0.04 if before == 0 else 0.02)
    assert budget.spent <= 0.04 + budget.share * seconds


def test_a_preview_that_was_held_up_is_forgotten():
    """It takes as long as 25 others; once it is paid for, what may be spent is spent again."""
    budget, _ = run(120, lambda before: 0.05 if before == 5 else 0.002)
    assert budget.share * 120 - 2 * 16 * 0.002 < budget.spent <= budget.share * 120


def test_a_preview_that_would_cost_too_much_is_never_drawn():
    budget, drawn = run(10, seconds_a_row=1.0)
    assert drawn == [] and budget.spent == 1  # a single trial: it is never paid for


def fail_after(clock: Clock, budget: Budget) -> None:
    with budget.spend(1):
        clock.now += 2
        raise RuntimeError


def test_time_is_counted_when_a_preview_fails():
    clock = Clock()
    budget = Budget(clock=clock)
    with pytest.raises(RuntimeError):
        fail_after(clock, budget)
    assert budget.spent == 2
