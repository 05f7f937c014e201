"""More prompts than rows: where a picture is complete, the next prompt takes its row at the next iteration.

Rows of a batch end at different times. A batch that is decoded as a whole grows thin towards its end; one that is fed stays
full until no prompt waits. The tokens of every prompt are those of its single run: its noise is keyed by its own seed and its
own iterations, and no row sees another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..laws.noise import row_seeds
from .grid import Grid
from .interface import Prompt, TokenModel
from .iteration import Iteration
from .ledger import Ledger
from .loop import Decoded, DecodeSettings, advance, drop_finished, prepare
from .runners import finish, runner
from .settings import OWN


class Finished(NamedTuple):
    """A picture that is complete: its number, tokens [num_tokens], forwards that it took part in, seconds since it began."""

    row: int
    tokens: Tensor
    nfe: int
    seconds: float


@torch.no_grad()
def decode_feed(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings,
    rows: int,
    *,
    seeds: Sequence[int] | None = None,
    on_row: Callable[[Finished], None] | None = None,
) -> Decoded:
    """As `decode` for every picture of the prompt, with at most `rows` of them at a time.

    Picture b has seed seeds[b], without seeds `settings.seed + b`, as in a batch. on_row is called when a picture is complete;
    it may raise to cancel. Prefills after the first are part of `seconds`, not of `prefill_seconds`.
    """
    _check(prompt, settings, rows, seeds)
    seeds = [(settings.seed + row) % 2**64 for row in range(prompt.batch)] if seeds is None else seeds
    started = time.perf_counter()
    rows, device = min(rows, prompt.batch), prompt.embeddings.device
    run = runner(settings.execution, device)
    prompt = run.prompt(prompt, model.counts_padding)
    first = torch.cat([row_seeds(seed, 1, device) for seed in seeds[:rows]])
    schedule, iteration, _ = prepare(model, prompt.of_pictures(0, rows), grid, settings, seeds=first)
    finish(device)
    ledger, prefilled = Ledger([0] * prompt.batch, grid.num_tokens), time.perf_counter()
    ledger.active = ledger.active[:rows]
    tokens = torch.zeros(prompt.batch, grid.num_tokens, dtype=torch.long, device=device)
    waiting, reported, began = rows, np.zeros(prompt.batch, dtype=bool), np.full(prompt.batch, started)
    while not ledger.is_complete:
        advance(ledger, schedule, iteration, run, prefilled)
        for row, drawn in _completed(ledger, iteration, reported):
            tokens[row] = drawn
            if on_row is not None:
                on_row(Finished(row, tokens[row], int(ledger.forwards[row]), time.perf_counter() - float(began[row])))
        for lane, row in ledger.replace_finished(waiting):
            began[row] = time.perf_counter()
            begin(model, iteration, lane, prompt.of_pictures(row, row + 1), seeds[row])
            waiting += 1
        if waiting == prompt.batch:
            drop_finished(ledger, iteration, run)
    finished = time.perf_counter()
    return Decoded(tokens, ledger.traces(), prefilled - started, finished - started, ledger.iteration)


def _completed(ledger: Ledger, iteration: Iteration, reported: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Pictures that are complete and not yet `reported` [B], where they are marked, with their tokens."""
    active = ledger.active
    (lanes,) = ((ledger.done[active] == ledger.total) & ~reported[active]).nonzero()
    reported[active[lanes]] = True
    for lane, row in zip(lanes.tolist(), active[lanes].tolist(), strict=True):
        yield row, iteration.state.sequence[lane * iteration.state.chains, : ledger.total]


def _check(prompt: Prompt, settings: DecodeSettings, rows: int, seeds: Sequence[int] | None) -> None:
    if rows < 1:
        raise InputError(f"A feed needs at least one row, got {rows}.")
    if settings.initialiser == "warm" or settings.trace_detail:
        raise InputError("A feed takes no earlier tokens and records no details: decode such pictures in batches.")
    if settings.row_seeds == OWN and seeds is None:
        raise InputError(
            "A feed gives its pictures consecutive seeds: leave row_seeds at 'counted', or decode in batches."
        )
    if seeds is not None and len(seeds) != prompt.batch:
        raise InputError(f"There are {len(seeds)} seeds for {prompt.batch} pictures; give one for each.")


def begin(model: TokenModel, iteration: Iteration, lane: int, prompt: Prompt, seed: int) -> None:
    """Begin with a picture, whose prompt and seed these are, in a lane of the state and the cache."""
    _, single, _ = prepare(model, prompt, iteration.grid, replace(iteration.settings, seed=seed))
    iteration.state.put(lane, single.state)
    iteration.cache.put_rows(lane * iteration.state.start.shape[1], single.cache)
