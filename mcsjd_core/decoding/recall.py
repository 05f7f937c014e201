"""Drafts from laws that the model gave before: in the same surroundings it mostly gives nearly the same law again.

Where a draft was refused, another token than it was committed, and the drafts after that follow laws that the model gave
after the wrong one. A law that it gave lately after the same token, and below the same one, predicts better. It was known before
the draft is drawn, and is what the draft is verified against, so nothing is lost (docs/algorithm.md, E5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws.law import Law
from .grid import Grid

WINDOWS = 4  # windows of laws that are kept: what is older was hardly missed
STEPS = 2  # positions after the last commit that may be drafted anew
SURE = 0.7  # how likely a law's likeliest code has to be beyond the first of them: a wrong guess spoils what stands after it
NEVER = -1  # in place of a position: nothing is kept there

# What a neighbour that is the same counts for, beside the token to the left, without which nothing is recalled. The position
# itself counts most: there the whole prompt and picture are the same.
SAME_POSITION, ABOVE, FRAME_BEFORE, SECOND_LEFT, ABOVE_RIGHT = 16, 8, 4, 2, 1


class Recall:
    """What surrounded the positions of the laws that a state keeps: E entries a row [R], in WINDOWS blocks of `window` each.

    positions [R, E] are those that the laws were given for, NEVER where an entry is empty; tokens [R, E, N] stood to the left of
    them, above them and so on.
    """

    def __init__(self, rows: int, window: int, grid: Grid, device):
        distances = {1: 0, grid.stride - 1: ABOVE_RIGHT, 2: SECOND_LEFT, grid.stride: ABOVE}
        if grid.frames > 1:
            distances[grid.frame_tokens] = FRAME_BEFORE
        distances = {back: worth for back, worth in distances.items() if back > 0}  # never the position itself
        self.window = window
        self.back = torch.tensor(list(distances), device=device)
        self.worth = torch.tensor(list(distances.values()), device=device)
        self.tokens = torch.full((rows, WINDOWS * window, len(distances)), NEVER, device=device)
        self.positions = torch.full((rows, WINDOWS * window), NEVER, device=device)

    def surroundings(self, sequence: Tensor, positions: Tensor) -> Tensor:
        """Tokens [A, L, N] around positions [A, L] of sequences [A, T], NEVER before the first one."""
        index = positions[..., None] - self.back
        tokens = sequence[:, None].expand(-1, positions.shape[1], -1).gather(2, index.clamp_min(0))
        return torch.where(index >= 0, tokens, NEVER)

    def remember(self, sequence: Tensor, positions: Tensor, block: Tensor, is_drawn: Tensor) -> None:
        """Fill each row's `block` [A] with those positions [A, L] that are drawn, a mask [A, L]; their laws were given for what
        stands in sequences [A, T]."""
        rows, window = positions.shape
        lane = torch.arange(rows, device=positions.device)
        of_block = self.positions.unflatten(1, (WINDOWS, self.window))
        kept_at = positions.masked_fill(~is_drawn, NEVER)
        of_block[lane, block] = torch.nn.functional.pad(kept_at, (0, self.window - window), value=NEVER)
        self.tokens.unflatten(1, (WINDOWS, self.window))[lane, block, :window] = self.surroundings(sequence, positions)

    def best_entry(self, sequence: Tensor, positions: Tensor, newest: Tensor, later: bool) -> Tensor:
        """Entry [A, 1] whose law fits positions [A, 1] of sequences [A, T] best, the latest of equal ones; NEVER if none fits.

        `newest` [A] is the block that was filled last. Laws of later positions are left out unless `later`.
        """
        rows = len(positions)
        kept_at, same = self.positions[:rows], self.tokens[:rows] == self.surroundings(sequence, positions)
        worth = (same * self.worth).sum(-1) + SAME_POSITION * (kept_at == positions)
        age = (newest[:, None] - torch.arange(WINDOWS, device=positions.device)) % WINDOWS
        order = WINDOWS * worth + (WINDOWS - 1 - age).repeat_interleave(self.window, 1)
        fits = same[..., 0] & (kept_at != NEVER)
        if not later:
            fits &= kept_at <= positions
        best, entry = torch.where(fits, order, NEVER).max(-1, keepdim=True)
        return torch.where(best == NEVER, NEVER, entry)


def is_sure(law: Law) -> Tensor:
    """Whether a law's likeliest code is likely enough, [A, L]."""
    return law.probs.amax(-1) >= SURE
