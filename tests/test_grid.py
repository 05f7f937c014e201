"""The token grid: where codes and forced tokens stand, the way there and back, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mcsjd_core import Grid, InputError
from mcsjd_core.decoding.grid import FREE

GRIDS = [
    Grid(2, 3),
    Grid(2, 3, row_end=50),
    Grid(2, 3, end=(60, 61)),
    Grid(3, 2, frames=2, row_end=50, end=(60,)),
    Grid(1, 1),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forced_tokens_stand_after_every_row_and_at_the_end(grid):
    row = [FREE] * grid.columns + ([grid.row_end] if grid.row_end is not None else [])
    expected = row * grid.rows * grid.frames + list(grid.end)
    assert grid.forced().tolist() == expected and grid.num_tokens == len(expected)
    assert grid.has_forced == any(token != FREE for token in expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_come_back_from_tokens(grid):
    codes = torch.arange(2 * grid.frames * grid.rows * grid.columns).view(2, grid.frames * grid.rows, grid.columns)
    tokens = grid.tokens(codes)
    assert tokens.shape == (2, grid.num_tokens)
    back = grid.codes(tokens)
    assert back.shape == ((2, grid.frames) if grid.frames > 1 else (2,)) + (grid.rows, grid.columns)
    assert torch.equal(back.reshape(codes.shape), codes)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_upper_rows_are_the_first_tokens_of_the_whole(rows):
    grid = Grid(3, 2, row_end=50, end=(60,))
    codes = torch.arange(6).view(1, 3, 2)
    assert torch.equal(grid.tokens(codes[:, :rows]), grid.tokens(codes)[:, : rows * 3])


FORBIDDEN = torch.tensor([[True, False], [False, False]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, r"at least one frame, row and column, got 1 x 0 x 3"),
        ({"columns": -2}, r"at least one frame, row and column, got 1 x 2 x -2"),
        ({"frames": 0}, r"at least one frame, row and column, got 0 x 2 x 3"),
        ({"forbidden": FORBIDDEN}, r"need both `forbidden` and `forbidden_row`"),
        ({"forbidden_row": torch.zeros(6)}, r"need both `forbidden` and `forbidden_row`"),
        (
            {"forbidden": FORBIDDEN, "forbidden_row": torch.zeros(5, dtype=torch.long)},
            r"one entry for each of 6 tokens, got .*5",
        ),
        ({"forbidden": FORBIDDEN, "forbidden_row": torch.full((6,), 2)}, r"names row 2 of 2"),
        (
            {"forbidden": ~FORBIDDEN, "forbidden_row": torch.zeros(6, dtype=torch.long)},
            r"cuts every code.*leave at least one",
        ),
    ],
)
def test_bad_grids_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Grid(**{"rows": 2, "columns": 3} | arguments)


@pytest.mark.parametrize("shape", [(1, 5), (6,), (1, 2, 3)])
def test_tokens_of_another_grid_are_refused(shape):
    with pytest.raises(InputError, match=rf"has 6 tokens, got tokens of shape \[{', '.join(map(str, shape))}\]"):
        Grid(2, 3).codes(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 3, 3), (1, 0, 3), (2, 3)])
def test_codes_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match=r"have shape \[B, 1 to 2, 3\], got \["):
        Grid(2, 3).tokens(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_upper_grid_reads_the_first_rows_of_the_whole(grid):
    total = grid.rows * grid.frames
    codes = torch.arange(total * grid.columns).view(1, total, grid.columns)
    tokens = grid.tokens(codes)
    for rows in range(1, total + 1):
        upper = grid.upper(rows)
        assert torch.equal(upper.codes(tokens[:, : upper.num_tokens]), codes[:, :rows])


@pytest.mark.parametrize("rows", [0, -1, 3])
def test_an_upper_grid_has_rows_of_the_whole(rows):
    with pytest.raises(InputError, match=str(rows)):
        Grid(2, 3).upper(rows)
