"""Draft initialisers: what each guesses, only from tokens that are known, for rows at different positions."""

from __future__ import annotations

import pytest
import torch

from mcsjd_core import COUPLINGS, INITIALISERS, DecodeSettings, Grid
from mcsjd_core.decoding.drafts import NO_GUESS, DraftInputs
from mcsjd_core.decoding.recall import NEVER, WINDOWS, Recall


def inputs(grid: Grid, known: list[int], window: int, committed: list[int] | None = None, earlier=None) -> DraftInputs:
    """Rows whose token at position i of row b is 1000 b + i; what is not known yet is -99."""
    total = grid.num_tokens + window
    sequence = torch.arange(total) + 1000 * torch.arange(len(known))[:, None]
    known = torch.tensor(known)
    sequence = torch.where(torch.arange(total) < known[:, None], sequence, -99)
    positions = (known if committed is None else torch.tensor(committed))[:, None] + torch.arange(window)
    return DraftInputs(sequence, known, positions, grid, earlier)


def naive_guess(name: str, position: int, known: int, grid: Grid) -> int:
    """The position whose token is guessed for `position`, -1 for none: step back until something known is met."""
    if name == "left":
        return known - 1
    distance = {"above": grid.stride, "previous_frame": grid.stride * grid.rows}[name]
    back = position - distance
    while back >= known:
        back -= distance
    if back >= 0:
        return back
    return naive_guess({"above": "left", "previous_frame": "above"}[name], position, known, grid)


@pytest.mark.parametrize("name", ["left", "above", "previous_frame"])
@pytest.mark.parametrize(
    "grid", [Grid(3, 4), Grid(3, 4, row_end=70), Grid(2, 3, frames=3), Grid(1, 7), Grid(5, 1)], ids=str
)
@pytest.mark.parametrize("window", [1, 5, 30])
def test_guesses_step_back_to_the_nearest_known_token(name, grid, window):
    known = list(range(grid.num_tokens))
    guesses = INITIALISERS[name](inputs(grid, known, window))
    for row, count in enumerate(known):
        for offset, guess in enumerate(guesses[row].tolist()):
            source = naive_guess(name, count + offset, count, grid)
            assert guess == (NO_GUESS if source < 0 else 1000 * row + source)


@pytest.mark.parametrize("name", INITIALISERS)
def test_no_guess_uses_a_token_that_is_not_known(name):
    grid = Grid(3, 4)
    guesses = INITIALISERS[name](inputs(grid, [0, 3, 8], 6, earlier=torch.arange(12).expand(3, -1)))
    assert (guesses != -99).all() and guesses.shape == (3, 6)


def test_survivors_count_as_known_for_the_guesses_after_them():
    grid = Grid(3, 4)
    state = inputs(grid, known=[5], window=6, committed=[2])
    assert INITIALISERS["left"](state)[0, 3:].tolist() == [4, 4, 4]
    assert INITIALISERS["above"](state)[0, 3:].tolist() == [1, 2, 3]


def test_random_leaves_the_choice_to_the_noise():
    assert (INITIALISERS["random"](inputs(Grid(3, 4), [2], 4)) == NO_GUESS).all()


def test_warm_repeats_the_earlier_result_at_its_place():
    earlier = torch.arange(12)[None] + 100 * torch.arange(2)[:, None]
    guesses = INITIALISERS["warm"](inputs(Grid(3, 4), [3, 9], 4, earlier=earlier))
    assert guesses[0].tolist() == [3, 4, 5, 6]
    assert guesses[1, :3].tolist() == [109, 110, 111]


def naive_entry(
    recall: Recall, grid: Grid, seen: dict, sequence: list[int], position: int, newest: int, later: bool
) -> int:
    """The entry whose law's surroundings fit best: the position itself above all, then more and nearer neighbours, then age.

    `seen` has the whole sequence that stood there when an entry was made.
    """
    best, found = None, NEVER
    for entry in range(WINDOWS * recall.window):
        at = int(recall.positions[0, entry])
        if at == NEVER or (at > position and not later):
            continue

        def same(back: int, at=at, entry=entry) -> bool:
            theirs = seen[entry][at - back] if at >= back else NEVER
            return theirs == (sequence[position - back] if position >= back else NEVER)

        if not same(1):
            continue
        neighbours = [same(grid.stride), grid.frames > 1 and same(grid.frame_tokens), same(2), same(grid.stride - 1)]
        rank = [at == position, *neighbours, -((newest - entry // recall.window) % WINDOWS)]
        if best is None or rank > best:
            best, found = rank, entry
    return found


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("grid", [Grid(4, 5), Grid(3, 4, row_end=70), Grid(2, 4, frames=3)], ids=str)
def test_a_law_is_recalled_by_what_surrounds_it(grid, later):
    generator, window, found, seen = torch.Generator().manual_seed(1), 5, [], {}
    recall = Recall(1, window, grid, "cpu")
    for step in range(3 * WINDOWS):
        block = step % WINDOWS
        sequence = torch.randint(9, (1, grid.num_tokens + window), generator=generator)
        start = int(torch.randint(1, grid.num_tokens - window, (1,), generator=generator))
        width = window - step % 3  # a narrower window leaves nothing of a wider one behind
        positions = torch.arange(start, start + width)[None]
        # Laws at other positions are as if they had never been.
        is_drawn = torch.rand(1, width, generator=generator) < 0.9
        recall.remember(sequence, positions, torch.tensor([block]), is_drawn)
        seen |= {block * window + i: sequence[0].tolist() for i in range(window)}
        asked = torch.randint(9, (1, grid.num_tokens + window), generator=generator)
        for position in range(1, grid.num_tokens):
            entry = recall.best_entry(asked, torch.tensor([[position]]), torch.tensor([block]), later)
            found.append(int(entry))
            assert found[-1] == naive_entry(recall, grid, seen, asked[0].tolist(), position, block, later)
    assert NEVER in found and len(set(found)) > 10


def test_nothing_is_recalled_by_a_position_s_own_token():
    """On grids so narrow that a neighbour's distance would be 0."""
    for grid in (Grid(4, 1), Grid(2, 1, frames=3)):
        assert (Recall(1, 4, grid, "cpu").back > 0).all()


def test_plain_ar_keeps_no_laws_to_recall():
    """It has no drafts; its time is what the others are measured against."""
    assert not DecodeSettings("autoregressive", initialiser="recall").recalls
    assert all(DecodeSettings(coupling, initialiser="recall").recalls for coupling in COUPLINGS)
