"""The decoding loop: draft a window, verify it in one forward, commit, refill (arXiv 2510.24211, algorithm 2).

It knows no model family, no host and no coupling by name. Plain autoregressive sampling is the same loop with a window of
one and the seed-exact coupling. What happens on the device is in `iteration.py`, what it works on in `state.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .arguments import check_earlier_tokens, check_first_tokens, check_forbidden, check_kept_tokens, check_prompt
from .grid import FREE, Grid
from .interface import Prompt, TokenModel
from .iteration import Iteration, Shape
from .ledger import Ledger
from .runners import Eager, finish, runner
from .schedule import Schedule, schedule_of
from .settings import AUTO, AUTOREGRESSIVE, METHODS, DecodeSettings, coupling_of
from .state import State
from .trace import RowTrace
from .trajectories import TrajectoryIteration

__all__ = ["AUTO", "AUTOREGRESSIVE", "METHODS", "DecodeSettings", "Decoded", "DecodingError", "Step", "decode"]


class DecodingError(RuntimeError):
    """The model gave nothing that a token could be drawn from."""


@dataclass(frozen=True)
class Step:
    """What a host may look at after an iteration, or while the prompt is read (iteration 0): tokens [B, num_tokens] on the
    model's device, the first `done[b]` of row b committed, the rest drafts or not yet drafted (drafts reach up to
    `drafted[b]`)."""

    iteration: int
    tokens: Tensor
    done: list[int]
    drafted: list[int]


@dataclass(frozen=True)
class Decoded:
    """tokens [B, num_tokens] int64 on the model's device; one trace a row; seconds of prefill and of the whole decode."""

    tokens: Tensor
    traces: Sequence[RowTrace]
    prefill_seconds: float
    seconds: float
    nfe: int  # forwards of the batch, rows in common
    kept: Tensor | None = None  # bool [B, num_tokens], on the CPU: counted in the traces, but kept and not drawn


@torch.no_grad()
def decode(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings = DecodeSettings(),
    *,
    first_tokens: Tensor | None = None,
    kept_tokens: Tensor | None = None,
    earlier_tokens: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decoded:
    """Draw the tokens of `grid` for every picture of the prompt's batch.

    first_tokens [B, n] continues pictures whose first n tokens are given. kept_tokens [1 or B, num_tokens] redraws parts of
    pictures: what is not FREE stays, and the rest is drawn in raster order, each token given those before it; tokens that are
    kept after a position do not influence what is drawn there. earlier_tokens [1 or B, num_tokens] feeds the `warm`
    initialiser. on_step is called after every iteration, and between the forwards that read a long prompt or many given
    tokens (with iteration 0); it may raise to cancel: nothing stays allocated.
    Raises InputError for arguments that do not fit, DecodingError if the model's logits are unusable.
    """
    started = time.perf_counter()
    run = runner(settings.execution, prompt.embeddings.device)
    prompt = run.prompt(prompt, model.counts_padding)
    schedule, iteration, ledger = prepare(
        model, prompt, grid, settings, first_tokens, earlier_tokens, kept_tokens=kept_tokens, on_step=on_step
    )
    finish(prompt.embeddings.device)  # prefill is over when the device is
    state, prefilled = iteration.state, time.perf_counter()
    while not ledger.is_complete:
        advance(ledger, schedule, iteration, run, prefilled)
        if on_step is not None:
            on_step(step_of(ledger, state.tokens(grid.num_tokens)))
        drop_finished(ledger, iteration, run)
    finished = time.perf_counter()
    tokens = state.tokens(grid.num_tokens).clone()
    times = prefilled - started, finished - started
    return Decoded(
        tokens, ledger.traces(), *times, ledger.iteration, kept_on_the_way(kept_tokens, tokens, grid, ledger)
    )


def step_of(ledger: Ledger, tokens: Tensor) -> Step:
    """The state of the run. What is kept after the last token to draw counts once that is drawn."""
    ends = (np.where(count == ledger.total, tokens.shape[1], count) for count in (ledger.done, ledger.drafted))
    return Step(ledger.iteration, tokens, *(end.tolist() for end in ends))


def kept_on_the_way(kept: Tensor | None, tokens: Tensor, grid: Grid, ledger: Ledger) -> Tensor | None:
    """Codes that forwards passed without drawing them, bool [B, num_tokens]."""
    if kept is None:
        return None
    codes = ((kept != FREE) & (grid.forced() == FREE).to(kept.device)).expand_as(tokens).cpu().clone()
    codes[torch.arange(codes.shape[1]) < torch.from_numpy(ledger.given)[:, None]] = False
    codes[:, ledger.total :] = False
    return codes


def advance(ledger: Ledger, schedule: Schedule, iteration: Iteration, run: Eager, since: float = 0.0) -> None:
    """One iteration: run it, read what it committed, and tell ledger and schedule; decoding began at time `since`."""
    shape = next_shape(ledger, schedule.next(len(ledger.active)), iteration, run)
    began = time.perf_counter()
    is_usual = run(iteration, shape)
    report = iteration.read(shape)
    ended, counts = time.perf_counter(), report[1:]
    ledger.add(shape.window, counts, ended - since, iteration.state.details)
    if not report[0]:
        raise DecodingError(
            f"The model gave NaN or infinite logits at forward {ledger.iteration}; "
            "its weights are damaged or its dtype is too narrow: load it as float32 or bfloat16."
        )
    schedule.observe(shape.window, counts.tolist(), ended - began if is_usual else None)


def prepare(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings,
    first_tokens: Tensor | None = None,
    earlier_tokens: Tensor | None = None,
    kind: type[Iteration] | None = None,
    kept_tokens: Tensor | None = None,
    seeds: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> tuple[Schedule, Iteration, Ledger]:
    """Check the arguments, lay out the run's memory and read the prompt: schedule, iteration and ledger of the run.

    `kind` is the class of the iteration, None for the one that the settings ask for; `seeds` [B] int64 are those of the rows,
    None for those that the settings say; `on_step` as in `decode`.
    """
    device = prompt.embeddings.device
    check_prompt(prompt, settings.law)
    check_forbidden(grid, model.codebook_size)
    first_tokens = check_first_tokens(first_tokens, prompt.batch, grid, model.codebook_size, device)
    warm = settings.initialiser == "warm"
    earlier = check_earlier_tokens(earlier_tokens, prompt.batch, grid, device) if warm else None
    forced = check_kept_tokens(kept_tokens, prompt.batch, grid, model.codebook_size, device)
    given, total = [first_tokens.shape[1]] * prompt.batch, grid.num_tokens
    if kept_tokens is not None:
        given, total = known_ends(forced, first_tokens)
    forced = torch.cat((first_tokens, forced[:, first_tokens.shape[1] :]), 1)
    schedule = schedule_of(settings, model, prompt, total - min(given))
    keeps_law = coupling_of(settings).uses_draft_law or settings.trace_detail or settings.reads_laws
    sizes = (model.codebook_size, schedule.largest)
    state = State(prompt, grid, settings, *sizes, given, forced, earlier, keeps_law, seeds)
    slots = cache_slots(prompt, grid, schedule.largest)
    cache = model.new_cache(prompt, slots + settings.side_slots(schedule.largest))
    ledger = Ledger(given, total)
    told = None if on_step is None else lambda: on_step(step_of(ledger, state.tokens(grid.num_tokens)))
    prefill(model, prompt, state.tokens(max(given)), cache, told)
    kind = kind or (Iteration if settings.trajectories == 1 else TrajectoryIteration)
    has_forced = grid.has_forced or kept_tokens is not None
    iteration = kind(model, cache, slots, state, prompt, grid, settings, total, has_forced)
    return schedule, iteration, ledger


def known_ends(forced: Tensor, first_tokens: Tensor) -> tuple[list[int], int]:
    """The first position [B] that each row has to draw, and the end of the last one in any row.

    A row in which nothing is drawn begins at that last one. `forced` [B, num_tokens] as `check_kept_tokens` gives it; what is
    given twice is refused.
    """
    if first_tokens.shape[1]:
        raise InputError("Tokens to keep and first tokens both say what stays of a picture; give one of them.")
    free = forced == FREE
    last = int(free.any(0).nonzero()[-1])
    return torch.where(free.any(1), free.long().argmax(1), last).tolist(), last + 1


def cache_slots(prompt: Prompt, grid: Grid, window: int) -> int:
    """Slots of the KV cache in every row: prompt, tokens, and a window that may reach past the last token."""
    return prompt.embeddings.shape[1] + grid.num_tokens + window


PREFILL = 512  # tokens that are read at once: what a forward needs does not grow with the square of what is given


def prefill(
    model: TokenModel, prompt: Prompt, tokens: Tensor, cache, between: Callable[[], None] | None = None
) -> None:
    """Cache the prompt and all `tokens` [B, n] but the last, which the first window of the row furthest ahead reads.

    Rows that begin earlier write their slots anew before they look at them. `between` is called between two forwards, when
    the device has caught up.
    """
    embeddings, given = prompt.embeddings, tokens.shape[1]
    if given:
        index = torch.arange(given, device=embeddings.device).expand(len(embeddings), -1)
        codes = tokens.repeat_interleave(len(embeddings) // prompt.batch, 0)
        embeddings = torch.cat((embeddings, model.embed(codes, index)), 1)
    length = embeddings.shape[1] - 1
    slots = torch.arange(length, device=embeddings.device).expand(len(embeddings), -1)
    for start in range(0, length, PREFILL):
        if start and between is not None:
            finish(embeddings.device)
            between()
        end = min(start + PREFILL, length)
        model.hidden(embeddings[:, start:end], slots[:, start:end], cache, end)


def next_shape(ledger: Ledger, wanted: int, iteration: Iteration, run: Eager) -> Shape:
    """No position after the last one that is still to be drawn, no cache slot after the last window's, or what `run` makes
    of that."""
    behind, ahead = ledger.span()
    window = run.window(wanted, ledger.total - behind)
    extent = iteration.prompt_slots + ahead + window - 1
    return Shape(len(ledger.active), window, run.extent(extent, iteration.slots))


def drop_finished(ledger: Ledger, iteration: Iteration, run: Eager) -> None:
    """Drop the rows that are complete: they cost nothing more."""
    order = ledger.drop_finished(run.rows)
    if len(order):
        (changed,) = (order != np.arange(len(order))).nonzero()
        iteration.state.swap_rows(changed, order[changed])
        branches = np.arange(iteration.state.start.shape[1])
        iteration.cache.keep_rows((len(branches) * order[:, None] + branches).ravel().tolist())
