"""Positions as cells of a video's grid: rotary angles and absolute embeddings by frame, row and column.

As in NVIDIA's Cosmos (arXiv 2501.03575). A cell is three whole numbers; the channels are divided among the axes, time
first. Everything is computed anew for the positions asked for, so there is no table as long as the sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071) for a model that was extended from a smaller grid: low frequencies are divided by `scale`.

    `original` is the length of every axis before, (frames, rows, columns). Pairs of channels that rotate more often than
    `beta_fast` times over that length stay as they are, those that rotate less than `beta_slow` times are divided by `scale`;
    linear in between.
    Attention is not made sharper.
    """

    original: tuple[int, int, int]
    beta_fast: float = 4.0
    beta_slow: float = 1.0
    scale: float = 2.0

    def slowed(self, frequencies: Tensor, length: int) -> Tensor:
        low, high = (2 * math.pi * beta / length for beta in (self.beta_slow, self.beta_fast))
        kept = ((frequencies - low) / (high - low)).clamp(0, 1)
        return frequencies * ((1 - kept) / self.scale + kept)


@dataclass(frozen=True)
class GridPositions:
    """Position ids to cells of a grid of `rows` x `columns` a frame; position `first` is the grid's first cell.

    Positions before `first` rotate like the first cell, and have no absolute embedding.
    """

    rows: int
    columns: int
    first: int
    head_dim: int
    dim: int
    theta: float = 500_000.0
    yarn: Yarn | None = None

    def cells(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, row and column, each [...], of position ids [...]."""
        index = (positions - self.first).clamp_min(0)
        frame, rest = index // (self.rows * self.columns), index % (self.rows * self.columns)
        return frame, rest // self.columns, rest % self.columns

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [rows, 1, L, head_dim / 2] float32 of position ids [rows, L]; time, height, width in order."""
        angles = [
            coordinate[..., None] * self._frequencies(axis, positions.device)
            for axis, coordinate in enumerate(self.cells(positions))
        ]
        joined = torch.cat(angles, -1)[:, None]
        return joined.cos(), joined.sin()

    def _frequencies(self, axis: int, device) -> Tensor:
        width = _shares(self.head_dim)[axis]
        frequencies = self.theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
        # The published models take the number of rows for that of the columns, too.
        return self.yarn.slowed(frequencies, self.yarn.original[min(axis, 1)]) if self.yarn else frequencies

    def embeddings(self, positions: Tensor) -> Tensor:
        """Absolute embeddings [rows, L, dim] float32 of position ids [rows, L]: sines, then cosines, for every axis."""
        parts = []
        for width, coordinate in zip(_shares(self.dim), self.cells(positions), strict=True):
            half = width // 2
            frequencies = 10_000.0 ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
            angles = coordinate[..., None] * frequencies
            parts += [angles.sin(), angles.cos()]
        return torch.cat(parts, -1) * (positions >= self.first)[..., None]


def _shares(channels: int) -> tuple[int, int, int]:
    """Channels of time, height and width: whole pairs, a third each, and what is left over goes to time."""
    third = channels // 6 * 2
    return channels - 2 * third, third, third
