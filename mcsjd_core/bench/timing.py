"""Where an iteration's time goes: forward, target law, coupling, bookkeeping, transfer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..decoding.grid import Grid
from ..decoding.interface import Prompt, TokenModel
from ..decoding.iteration import Iteration
from ..decoding.loop import DecodeSettings, advance, drop_finished, prepare
from ..decoding.runners import Eager
from .stopwatch import finish

PARTS: tuple[str, ...] = (
    "forward",
    "law",
    "coupling",
    "bookkeeping",
    "transfer",
)  # bookkeeping is whatever the others are not


class ClockedIteration(Iteration):
    """An iteration whose parts are clocked. A device is waited for between them, which decoding itself does not do."""

    def start_clock(self, clock: Callable[[], float]) -> None:
        """Forget the seconds so far; from now on time is read off `clock`."""
        self.clock = clock
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def clocked(self, part: str) -> Iterator[None]:
        self.wait()
        began = self.clock()
        yield
        self.wait()
        self.seconds[part] += self.clock() - began

    def wait(self) -> None:
        finish(str(self.state.sequence.device))

    def forward(self, tokens, positions, extent, cache):
        with self.clocked("forward"):
            return super().forward(tokens, positions, extent, cache)

    def target(self, logits, positions):
        with self.clocked("law"):
            return super().target(logits, positions)

    def couple(self, p, drafts, source, positions):
        with self.clocked("coupling"):
            return super().couple(p, drafts, source, positions)

    def read(self, shape):
        with self.clocked("transfer"):
            return super().read(shape)


@torch.no_grad()
def part_seconds(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings,
    *,
    iterations: int | None = None,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Mean seconds of each of PARTS over the `iterations` of a decode that follow `warm_up` ones (None: all to its end).

    `clock` may be time.thread_time where other work shares the processor; it then counts one thread. Settings are those of
    one trajectory.
    """
    schedule, iteration, ledger = prepare(model, prompt, grid, settings, kind=ClockedIteration)
    assert isinstance(iteration, ClockedIteration)
    iteration.start_clock(clock)
    run, began, counted = Eager(), clock(), 0
    while not ledger.is_complete and (iterations is None or ledger.iteration < warm_up + iterations):
        if ledger.iteration == warm_up:
            iteration.start_clock(clock)
            began, counted = clock(), 0
        advance(ledger, schedule, iteration, run)
        drop_finished(ledger, iteration, run)
        counted += 1
    seconds = iteration.seconds
    seconds["bookkeeping"] = clock() - began - sum(seconds.values())
    return {name: value / counted for name, value in seconds.items()}


def overhead_share(seconds: dict[str, float]) -> float:
    """Share of an iteration that is not the forward."""
    return 1 - seconds["forward"] / sum(seconds.values())
