"""Rotary angles and absolute embeddings in a video's grid against formulas in float64 that are written here."""

from __future__ import annotations

import math

import pytest
import torch

from mcsjd_core.nn.grid_positions import GridPositions, Yarn

GRIDS = {  # rows, columns, first, channels of a head, width, YaRN
    "published 4B": GridPositions(40, 64, 0, 128, 4096),
    "published 5B": GridPositions(40, 64, 1, 128, 4096),
    "published 12B": GridPositions(40, 64, 0, 128, 5120, yarn=Yarn((3, 40, 64))),
    "small": GridPositions(2, 3, 1, 16, 40, theta=1000.0),
    "small, YaRN": GridPositions(2, 3, 0, 16, 40, theta=1000.0, yarn=Yarn((2, 4, 9), 0.3, 0.05, 3.0)),
}
AXES = {128: (44, 42, 42), 16: (8, 4, 4), 4096: (1368, 1364, 1364), 5120: (1708, 1706, 1706), 40: (16, 12, 12)}

POSITIONS = (0, 1, 2, 5, 13, 29, 64, 65, 2560, 2561, 5119, 12799)


def place_of(position: int, grid: GridPositions) -> tuple[int, int, int]:
    """Counted out by walking, not by division."""
    frame = row = column = 0
    for _ in range(position - grid.first):
        column += 1
        if column == grid.columns:
            row, column = row + 1, 0
        if row == grid.rows:
            frame, row = frame + 1, 0
    return frame, row, column


def expected_angles(position: int, grid: GridPositions) -> list[float]:
    angles = []
    for axis, (place, width) in enumerate(zip(place_of(position, grid), AXES[grid.head_dim], strict=True)):
        for j in range(width // 2):
            turn = grid.theta ** (-2 * j / width)
            if grid.yarn:
                y, length = grid.yarn, grid.yarn.original[(0, 1, 1)[axis]]
                wavelengths = turn * length / (2 * math.pi)  # turns over the original length
                kept = min(max((wavelengths - y.beta_slow) / (y.beta_fast - y.beta_slow), 0), 1)
                turn = kept * turn + (1 - kept) * turn / y.scale
            angles.append(place * turn)
    return angles


@pytest.mark.parametrize("name", GRIDS)
def test_angles_equal_the_formula(name):
    grid = GRIDS[name]
    positions = [position for position in POSITIONS if position < 5 * grid.rows * grid.columns]
    cos, sin = grid.angles(torch.tensor([positions, positions[::-1]]))
    assert cos.shape == sin.shape == (2, 1, len(positions), grid.head_dim // 2) and cos.dtype == torch.float32
    for place, position in enumerate(positions):
        angles = torch.tensor(expected_angles(position, grid), dtype=torch.float64)
        for row, at in ((0, place), (1, -1 - place)):
            assert (cos[row, 0, at] - angles.cos()).abs().max() < 2e-5
            assert (sin[row, 0, at] - angles.sin()).abs().max() < 2e-5


@pytest.mark.parametrize("name", GRIDS)
def test_absolute_embeddings_equal_the_formula(name):
    grid = GRIDS[name]
    positions = [position for position in POSITIONS if grid.first <= position < 5 * grid.rows * grid.columns]
    found = grid.embeddings(torch.tensor([positions]))
    assert found.shape == (1, len(positions), grid.dim)
    for at, position in enumerate(positions):
        expected = []
        for place, width in zip(place_of(position, grid), AXES[grid.dim], strict=True):
            turns = [place * 10000 ** (-j / (width / 2)) for j in range(width // 2)]
            expected += [math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns]
        assert (found[0, at] - torch.tensor(expected, dtype=torch.float64)).abs().max() < 2e-5


def test_the_begin_of_a_video_turns_like_the_first_place_and_has_no_absolute_embedding():
    grid = GRIDS["published 5B"]
    cos, sin = grid.angles(torch.tensor([[0, 1]]))
    assert (cos == 1).all() and (sin == 0).all()
    embeddings = grid.embeddings(torch.tensor([[0, 1]]))[0]
    assert (embeddings[0] == 0).all() and (embeddings[1] != 0).any()


def test_published_frequencies():
    """Golden values of NVIDIA's code."""
    cos, sin = GRIDS["published 4B"].angles(torch.tensor([[2560, 64, 1]]))  # frame 1; row 1; column 1
    turns = torch.atan2(sin, cos)[0, 0]
    assert torch.allclose(turns[0, :4], torch.tensor([1, 0.550752, 0.303328, 0.167058]), atol=1e-6)
    for at, first in ((1, 22), (2, 43)):
        assert torch.allclose(turns[at, first : first + 4], torch.tensor([1, 0.535329, 0.286577, 0.153413]), atol=1e-6)
        assert turns[at, :22].abs().max() == 0
    cos, sin = GRIDS["published 12B"].angles(torch.tensor([[2560, 64, 1]]))
    slowed = torch.atan2(sin, cos)[0, 0]
    assert torch.allclose(slowed[0, :22], turns[0, :22] / 2)
    for at, first in ((1, 22), (2, 43)):
        ratio = slowed[at, first : first + 21] / turns[at, first : first + 21]
        assert torch.allclose(ratio, torch.tensor([1, 0.9013, 0.6374] + [0.5] * 18), atol=1e-4)
