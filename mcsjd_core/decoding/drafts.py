"""Draft initialisers: the first guess for a position that enters the window.

Any rule is legal that does not look at the position's own noise. INITIALISERS choose a token: the draft law is the point mass
on it. LAW_INITIALISERS choose an earlier position, and the draft is drawn from the law stored for it: this is its law. RECALL
draws from laws that were given in the same surroundings, see `recall.py`; its first guesses are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .grid import Grid

NO_GUESS = -1  # no token, or no position


@dataclass(frozen=True)
class DraftInputs:
    """What an initialiser may look at: the positions of the window, and what stands before them.

    sequence [B, T] holds the committed tokens and surviving drafts; the first `known` [B] of each row are valid. positions
    [B, L] are grid indices; guesses for those below `known` are not used. `earlier` [B, num_tokens] is a previous result.
    Laws are stored for the positions from `law_start` [B] to `known`, if any.
    """

    sequence: Tensor
    known: Tensor
    positions: Tensor
    grid: Grid
    earlier: Tensor | None = None
    law_start: Tensor | None = None

    def tokens_at(self, index: Tensor) -> Tensor:
        """Tokens [B, L] of the sequence at index [B, L], NO_GUESS where nothing is known there."""
        tokens = self.sequence.gather(1, index.clamp(0, self.sequence.shape[1] - 1))
        return torch.where((index >= 0) & (index < self.known[:, None]), tokens, NO_GUESS)

    def back_by(self, distance: int | Tensor) -> Tensor:
        """Positions [B, L] a multiple of `distance` back, the nearest that is known; below 0 for none."""
        missing = self.positions - self.known[:, None]
        multiples = torch.div(missing, distance, rounding_mode="floor").clamp_min(0) + 1
        return self.positions - multiples * distance

    def one_row_up(self) -> Tensor:
        """Positions [B, L] one or more rows up, the nearest that is known; below 0 for none."""
        grid = self.grid
        if grid.preview is None:
            return self.back_by(grid.stride)
        return self.back_by(torch.where(self.positions < grid.start, grid.preview[1], grid.stride))

    def last(self) -> Tensor:
        """The last position [B, L] that is known."""
        return (self.known - 1)[:, None].expand_as(self.positions)

    def with_law(self, index: Tensor) -> Tensor:
        """The positions `index` [B, L], NO_GUESS where no law is stored for them."""
        assert self.law_start is not None
        return torch.where(index >= self.law_start[:, None], index, NO_GUESS)


def random(inputs: DraftInputs) -> Tensor:
    """Uniform over the codebook (the caller's noise decides)."""
    return torch.full_like(inputs.positions, NO_GUESS)


def left(inputs: DraftInputs) -> Tensor:
    """The token before."""
    return inputs.tokens_at(inputs.last())


def above(inputs: DraftInputs) -> Tensor:
    """The token one row up; in the first row, the token before."""
    return _else(inputs.tokens_at(inputs.one_row_up()), left(inputs))


def previous_frame(inputs: DraftInputs) -> Tensor:
    """The token in the same cell of the previous frame; in the first frame, the token above."""
    return _else(inputs.tokens_at(inputs.back_by(inputs.grid.frame_tokens)), above(inputs))


def warm(inputs: DraftInputs) -> Tensor:
    """The token of an earlier result at the same position."""
    assert inputs.earlier is not None  # see `arguments.check_earlier_tokens`
    return inputs.earlier.gather(1, inputs.positions.clamp_max(inputs.earlier.shape[1] - 1))


def left_law(inputs: DraftInputs) -> Tensor:
    """The position before."""
    return inputs.with_law(inputs.last())


def above_law(inputs: DraftInputs) -> Tensor:
    """The position one row up; where it has no law, the position before."""
    return _else(inputs.with_law(inputs.one_row_up()), left_law(inputs))


def previous_frame_law(inputs: DraftInputs) -> Tensor:
    """The same cell of the previous frame; where it has no law, as `above_law`."""
    return _else(inputs.with_law(inputs.back_by(inputs.grid.frame_tokens)), above_law(inputs))


def _else(guess: Tensor, fallback: Tensor) -> Tensor:
    return torch.where(guess == NO_GUESS, fallback, guess)


INITIALISERS = {f.__name__: f for f in (random, left, above, previous_frame, warm)}
LAW_INITIALISERS = {f.__name__: f for f in (left_law, above_law, previous_frame_law)}
RECALL = "recall"
READS_TOKENS = ("left", "above", "previous_frame")  # the others know every guess before the run begins
