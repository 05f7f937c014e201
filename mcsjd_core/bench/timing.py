"""Where an iteration's time goes: forward, target law, coupling, bookkeeping, transfer."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ..decoding.grid import Grid
from ..decoding.interface import Prompt, TokenModel
from ..decoding.iteration import Iteration
from ..decoding.loop import DecodeSettings, drop_finished, next_shape, prepare, to_host
from ..decoding.runners import Eager

PARTS = ("forward", "law", "coupling", "bookkeeping", "transfer")
_METHODS = {"forward": "forward", "target": "law", "couple": "coupling"}  # the rest of an iteration keeps books


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

    A device is waited for between the parts, which decoding itself does not do. `clock` may be time.thread_time where
    other work shares the processor; it then counts one thread.
    """
    schedule, iteration, ledger = prepare(model, prompt, grid, settings, None, None)
    run, seconds = Eager(), dict.fromkeys(PARTS, 0.0)
    _clock_methods(iteration, seconds, clock)
    whole, counted = 0.0, 0
    while not ledger.is_complete and (iterations is None or counted < iterations):
        if ledger.iteration == warm_up:
            seconds.update(dict.fromkeys(PARTS, 0.0))
            whole, counted = 0.0, 0
        began = clock()
        shape = next_shape(ledger, schedule.next(len(ledger.active)), iteration, run)
        run(iteration, shape)
        _wait(iteration)
        asked = clock()
        _, *moved = to_host(iteration.state.report[: shape.rows + 1])
        seconds["transfer"] += clock() - asked
        ledger.add(shape.window, moved, 0.0, None)
        drop_finished(ledger, iteration, run)
        whole, counted = whole + clock() - began, counted + 1
    seconds["bookkeeping"] = whole - sum(seconds.values())
    return {name: value / counted for name, value in seconds.items()}


def overhead_share(seconds: dict[str, float]) -> float:
    """Share of an iteration that is not the forward."""
    return 1 - seconds["forward"] / sum(seconds.values())


def _clock_methods(iteration: Iteration, seconds: dict[str, float], clock: Callable[[], float]) -> None:
    def clocked(method: Callable, part: str) -> Callable:
        def run(*args):
            _wait(iteration)
            began = clock()
            result = method(*args)
            _wait(iteration)
            seconds[part] += clock() - began
            return result

        return run

    for name, part in _METHODS.items():
        setattr(iteration, name, clocked(getattr(iteration, name), part))


def _wait(iteration: Iteration) -> None:
    if iteration.state.sequence.is_cuda:
        torch.cuda.synchronize()
