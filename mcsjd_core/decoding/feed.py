"""More prompts than rows: where a picture is complete, the next prompt takes its row at the next iteration.

Rows of a batch end at different times. A batch that is decoded as a whole grows thin towards its end; one that is fed stays
full until no prompt waits. The tokens of every prompt are those of its single run: its noise is keyed by its own seed and its
own iterations, and no row sees another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from .grid import Grid
from .interface import Prompt, TokenModel
from .iteration import Iteration
from .ledger import Ledger
from .loop import Decoded, DecodeSettings, advance, drop_finished, prepare
from .runners import runner
from .settings import OWN


@torch.no_grad()
def decode_feed(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings,
    rows: int,
    *,
    on_row: Callable[[int, Tensor], None] | None = None,
) -> Decoded:
    """As `decode` for every picture of the prompt, with at most `rows` of them at a time.

    Picture b has seed `settings.seed + b`, as in a batch. on_row(b, tokens [num_tokens]) is called when picture b is complete;
    it may raise to cancel. Prefills after the first are part of `seconds`, not of `prefill_seconds`.
    """
    if rows < 1:
        raise InputError(f"A feed needs at least one row, got {rows}.")
    if settings.initialiser == "warm" or settings.trace_detail:
        raise InputError("A feed takes no earlier tokens and records no details: decode such pictures in batches.")
    if settings.row_seeds == OWN:
        raise InputError("A feed counts the seeds of its pictures: leave row_seeds at counted, or decode batches.")
    started = time.perf_counter()
    rows = min(rows, prompt.batch)
    run = runner(settings.execution, prompt.embeddings.device)
    schedule, iteration, _ = prepare(model, prompt.of_pictures(0, rows), grid, settings)
    ledger, prefilled = Ledger(prompt.batch, 0, grid.num_tokens), time.perf_counter()
    ledger.active = ledger.active[:rows]
    tokens = torch.zeros(prompt.batch, grid.num_tokens, dtype=torch.long, device=prompt.embeddings.device)
    waiting, reported = rows, set()
    while not ledger.is_complete:
        advance(ledger, schedule, iteration, run, prefilled)
        for lane, row in enumerate(ledger.active.tolist()):
            if ledger.done[row] == ledger.total and row not in reported:
                reported.add(row)
                tokens[row] = iteration.state.sequence[lane * iteration.state.chains, : grid.num_tokens]
                if on_row is not None:
                    on_row(row, tokens[row])
        for lane, row in ledger.replace_finished(waiting):
            begin(model, iteration, lane, prompt.of_pictures(row, row + 1), row)
            waiting += 1
        if waiting == prompt.batch:
            drop_finished(ledger, iteration, run)
    finished = time.perf_counter()
    return Decoded(tokens, ledger.traces(), prefilled - started, finished - started, ledger.iteration)


def begin(model: TokenModel, iteration: Iteration, lane: int, prompt: Prompt, row: int) -> None:
    """Begin with picture number `row`, whose prompt this is, in a lane of the state and the cache."""
    settings = replace(iteration.settings, seed=(iteration.settings.seed + row) % 2**64)
    _, single, _ = prepare(model, prompt, iteration.grid, settings)
    iteration.state.put(lane, single.state)
    iteration.cache.put_rows(lane * iteration.state.start.shape[1], single.cache)
