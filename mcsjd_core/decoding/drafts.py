"""Draft initialisers: the first guess for a position that enters the window.

Any rule is legal that does not look at the position's own noise: its draft law is then the point mass on the guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .grid import Grid

NO_GUESS = -1


@dataclass(frozen=True)
class Places:
    """The places of the window, and what stands before them.

    sequence [B, T] holds the committed tokens and surviving drafts; the first `known` [B] of each row are valid. positions
    [B, L] are grid indices; guesses for those below `known` are not used. `earlier` [B, num_tokens] is a previous result.
    """

    sequence: Tensor
    known: Tensor
    positions: Tensor
    grid: Grid
    earlier: Tensor | None

    def tokens_at(self, index: Tensor) -> Tensor:
        """Tokens [B, L] of the sequence at index [B, L], NO_GUESS where nothing is known there."""
        tokens = self.sequence.gather(1, index.clamp(0, self.sequence.shape[1] - 1))
        return torch.where((index >= 0) & (index < self.known[:, None]), tokens, NO_GUESS)

    def back_by(self, distance: int | Tensor) -> Tensor:
        """Tokens [B, L] a multiple of `distance` places back, the nearest that is known."""
        missing = self.positions - self.known[:, None]
        multiples = torch.div(missing, distance, rounding_mode="floor").clamp_min(0) + 1
        return self.tokens_at(self.positions - multiples * distance)


def random(places: Places) -> Tensor:
    """Uniform over the codebook (the caller's noise decides)."""
    return torch.full_like(places.positions, NO_GUESS)


def left(places: Places) -> Tensor:
    """The token before."""
    return places.tokens_at((places.known - 1)[:, None].expand_as(places.positions))


def above(places: Places) -> Tensor:
    """The token one row up; in the first row, the token before."""
    grid, distance = places.grid, places.grid.stride
    if grid.preview is not None:
        distance = torch.where(places.positions < grid.start, grid.preview[1], distance)
    return _else(places.back_by(distance), left(places))


def previous_frame(places: Places) -> Tensor:
    """The token at the same place of the frame before; in the first frame, the token above."""
    return _else(places.back_by(places.grid.frame_tokens), above(places))


def warm(places: Places) -> Tensor:
    """The token of an earlier result at the same place."""
    assert places.earlier is not None  # see `arguments.check_earlier_tokens`
    return places.earlier.gather(1, places.positions.clamp_max(places.earlier.shape[1] - 1))


def _else(guess: Tensor, fallback: Tensor) -> Tensor:
    return torch.where(guess == NO_GUESS, fallback, guess)


INITIALISERS = {f.__name__: f for f in (random, left, above, previous_frame, warm)}
READS_TOKENS = ("left", "above", "previous_frame")  # the others know every guess before the run begins
