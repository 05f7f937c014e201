"""Pictures of a decode that still runs, and how often they may be made without slowing it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.loop import Step
from ..families.interface import Family

BLANK = 0.15  # grey of a cell that holds nothing yet
DRAFT_OPACITY = 0.4


def drafted_rows(step: Step, grid: Grid, count: int) -> int:
    """Token rows from the top that hold a draft or a committed token, in any of the first `count` pictures."""
    return min(math.ceil(max(max(step.drafted[:count]) - grid.start, 0) / grid.stride), grid.rows)


@torch.no_grad()
def unfinished_pictures(model: Family, grid: Grid, step: Step, count: int, rows: int) -> Tensor:
    """The first `count` pictures [count, 3, H, W] in 0..1: committed tokens decoded, drafts dimmed, the rest blank.

    Only the upper `rows` rows of tokens are decoded, so that early pictures are cheap. A grid of one frame is needed.
    """
    device = model.codec.input_device
    codes = grid.codes(step.tokens[:count])[:, :rows].to(device)
    opacity = grid.codes(_opacity(step, grid, count))[:, :rows].to(device)
    pixels = model.codec.decode_clips(codes[:, None])[:, 0].float()
    factor = pixels.shape[-1] // grid.columns
    opacity = opacity.repeat_interleave(factor, 1).repeat_interleave(factor, 2)[:, None]
    canvas = pixels.new_full((count, 3, grid.rows * factor, grid.columns * factor), BLANK)
    canvas[:, :, : rows * factor] = BLANK + (pixels - BLANK) * opacity
    return canvas


def drafted_code_frames(step: Step, grid: Grid, count: int) -> int:
    """Code frames that hold a draft or a committed token, in any of the first `count` videos."""
    return min(math.ceil(max(step.drafted[:count]) / grid.frame_tokens), grid.frames)


@torch.no_grad()
def unfinished_frames(model: Family, grid: Grid, step: Step, count: int, now: int) -> Tensor:
    """The newest frame of the first `count` videos [count, 3, H, W] in 0..1: committed tokens decoded, drafts dimmed.

    It is the last frame of the code frame `now`, counted from 1. The codec is causal, so the code frames up to there are
    enough; where nothing is drafted yet the picture is blank.
    """
    shape = (count, grid.frames, grid.rows, -1)
    codes = grid.codes(step.tokens[:count]).view(shape)[:, :now].to(model.codec.input_device, copy=True)
    opacity = grid.codes(_opacity(step, grid, count)).view(shape)[:, now - 1].to(model.codec.input_device)
    if now > 1:  # what nobody sees shows through at the edge of what is seen: the frame before is the best guess
        codes[:, -1] = torch.where(opacity > 0, codes[:, -1], codes[:, -2])
    pixels = torch.cat([model.codec.decode_clips(one)[:, -1].float() for one in codes.split(1)])
    factor = pixels.shape[-1] // grid.columns
    opacity = opacity.repeat_interleave(factor, 1).repeat_interleave(factor, 2)[:, None]
    return BLANK + (pixels - BLANK) * opacity


def step_of_rows(step: Step, rows: Sequence[int]) -> Step:
    """What `step` says of some rows of its batch."""
    done, drafted = ([ends[row] for row in rows] for ends in (step.done, step.drafted))
    return Step(step.iteration, step.tokens[list(rows)], done, drafted)


def _opacity(step: Step, grid: Grid, count: int) -> Tensor:
    """[count, num_tokens] on the CPU: 1 where a token is committed, less where it is a draft, 0 where there is none."""
    position = torch.arange(grid.num_tokens)
    done, drafted = (torch.tensor(ends[:count])[:, None] for ends in (step.done, step.drafted))
    return torch.where(position < done, 1.0, torch.where(position < drafted, DRAFT_OPACITY, 0.0))


class Budget:
    """Keeps previews to a few a second and to a small share of the run time, by their own measured cost.

    The cost of a preview is taken to grow with its rows. The costliest of the last few previews tells what a row costs, so that
    one that was held up is forgotten in time. As nothing is known at first, single rows are drawn for a trial; the quickest
    counts, since the first is cold and any may be held up.
    """

    TRIALS, REMEMBERED = 2, 3

    def __init__(self, share: float = 0.048, interval: float = 0.4, clock: Callable[[], float] = time.perf_counter):
        self.share, self.interval, self.clock = share, interval, clock
        self.started = self.last = clock()
        self.spent = 0.0
        self.trials: list[float] = []  # seconds a row
        self.recent: deque[float] = deque(maxlen=self.REMEMBERED)  # seconds a row of previews after the trials

    @property
    def seconds_a_row(self) -> float:
        return max(self.recent) if self.recent else min(self.trials)

    def rows(self, wanted: int) -> int:
        """How many of `wanted` rows may be drawn now: all, a single one for a trial, or none."""
        now = self.clock()
        if now - self.last < self.interval:
            return 0
        allowed = self.share * (now - self.started)
        if len(self.trials) < self.TRIALS:
            return int(self.spent <= allowed)  # the trial before has to be paid for
        return wanted if self.spent + wanted * self.seconds_a_row <= allowed else 0

    @contextmanager
    def spend(self, rows: int) -> Iterator[None]:
        """Around the drawing of `rows` rows."""
        started, is_trial = self.clock(), len(self.trials) < self.TRIALS
        try:
            yield
        finally:
            now = self.clock()
            self.spent += now - started
            (self.trials if is_trial else self.recent).append((now - started) / rows)
            if not is_trial:
                self.last = now
