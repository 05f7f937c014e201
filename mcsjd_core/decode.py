"""The decoding loop: draft a window, verify it in one forward, commit, refill (arXiv 2510.24211, algorithm 2).

It knows no model family, no host and no coupling by name. Plain autoregressive sampling is the same loop with a window of
one and the seed-exact coupling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import check_earlier_tokens, check_first_tokens, check_forbidden, check_prompt
from .coupling import COUPLINGS
from .drafts import INITIALISERS, Places
from .errors import InputError
from .grid import FREE, Grid
from .laws import Law, LawSettings, guide, point_law, target_law, usable
from .models.interface import Prompt, TokenModel
from .noise import Noise, row_seeds
from .trace import DETAILS, RowTrace, window_details

AUTOREGRESSIVE = "autoregressive"
METHODS = (AUTOREGRESSIVE, *COUPLINGS)


class DecodingError(RuntimeError):
    """The model gave nothing that a token could be drawn from."""


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. `coupling` is one of METHODS, `initialiser` one of INITIALISERS; a window of 1 is plain AR in cost."""

    coupling: str = "maximal"
    window: int = 64
    law: LawSettings = LawSettings()
    initialiser: str = "random"
    seed: int = 0
    trace_detail: bool = False

    def __post_init__(self):
        if self.coupling not in METHODS:
            raise InputError(f"coupling must be one of {', '.join(METHODS)}, got {self.coupling!r}.")
        if self.initialiser not in INITIALISERS:
            raise InputError(f"initialiser must be one of {', '.join(INITIALISERS)}, got {self.initialiser!r}.")
        for name, value in (("window", self.window), ("seed", self.seed)):
            if not isinstance(value, int):
                raise InputError(f"{name} must be a whole number, got {value!r}.")
        if self.window < 1:
            raise InputError(f"window must be at least 1, got {self.window}.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be between 0 and 2^64 - 1, got {self.seed}.")

    @property
    def effective_window(self) -> int:
        return 1 if self.coupling == AUTOREGRESSIVE else self.window


@dataclass(frozen=True)
class Step:
    """What a host may look at after an iteration: tokens [B, num_tokens] on the model's device, the first `done[b]` of
    row b committed, the rest drafts or not yet drafted (drafts reach up to `drafted[b]`)."""

    iteration: int
    tokens: Tensor
    done: list[int]
    drafted: list[int]


@dataclass(frozen=True)
class Decoded:
    """tokens [B, num_tokens] int64 on the model's device; one trace a row; seconds of prefill and of the whole decode."""

    tokens: Tensor
    traces: list[RowTrace]
    prefill_seconds: float
    seconds: float
    nfe: int  # forwards of the batch, rows in common


def to_host(tensor: Tensor) -> list:
    """The one place where the loop reads from the device; called once an iteration."""
    return tensor.tolist()


@torch.no_grad()
def decode(
    model: TokenModel,
    prompt: Prompt,
    grid: Grid,
    settings: DecodeSettings = DecodeSettings(),
    *,
    first_tokens: Tensor | None = None,
    earlier_tokens: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decoded:
    """Draw the tokens of `grid` for every picture of the prompt's batch.

    first_tokens [B, n] continues pictures whose first n tokens are given. earlier_tokens [B, num_tokens] feeds the `warm`
    initialiser. on_step is called after every iteration and may raise to cancel: nothing stays allocated.
    Raises InputError for arguments that do not fit, DecodingError if the model's logits are unusable.
    """
    started = time.perf_counter()
    run = _Run(model, prompt, grid, settings, first_tokens, earlier_tokens)
    run.prefill()
    prefilled = time.perf_counter()
    while run.active:
        run.iterate()
        run.record(time.perf_counter() - prefilled)
        if on_step is not None:
            on_step(Step(run.iteration, run.sequence[:, : grid.num_tokens], list(run.done), run.drafted()))
        run.drop_finished()
    finished = time.perf_counter()
    tokens = run.sequence[:, : grid.num_tokens].clone()
    return Decoded(tokens, run.finish_traces(), prefilled - started, finished - started, run.iteration)


class _Run:
    """State of one decode. Tensors with a leading A hold the rows still at work; `active[a]` is the batch row of place a."""

    def __init__(self, model, prompt: Prompt, grid: Grid, settings: DecodeSettings, first_tokens, earlier_tokens):
        self.model, self.grid, self.settings = model, grid, settings
        name = settings.coupling
        self.coupling = COUPLINGS["gumbel_exact" if name == AUTOREGRESSIVE else name]
        self.prompt, self.device = prompt, prompt.embeddings.device
        batch, total = prompt.batch, grid.num_tokens
        check_prompt(prompt, settings.law)
        check_forbidden(grid, model.codebook_size)
        self.first_tokens = check_first_tokens(first_tokens, batch, grid, model.codebook_size, self.device)
        self.earlier = None
        if settings.initialiser == "warm":
            self.earlier = check_earlier_tokens(earlier_tokens, batch, grid, self.device)
        given = self.first_tokens.shape[1]
        self.active = list(range(batch))
        self.done, self.iteration = [given] * batch, 0
        self.window = min(settings.effective_window, total - given)
        # Windows reach past the end for rows that are ahead; those places are drawn and never used.
        self.sequence = torch.zeros(batch, total + self.window, dtype=torch.long, device=self.device)
        self.sequence[:, :given] = self.first_tokens
        self.rows = torch.arange(batch, device=self.device)
        self.committed = torch.full((batch,), given, device=self.device)
        self.seeds = row_seeds(settings.seed, batch, self.device)
        self.forced = grid.forced().to(self.device)
        self.forbidden = None if grid.forbidden is None else grid.forbidden.to(self.device)
        self.forbidden_row = None if grid.forbidden is None else grid.forbidden_row.to(self.device)
        self.traces = [RowTrace() for _ in range(batch)]
        self.details: list[tuple[list[int], Tensor]] = []
        self.draft_law: Law | None = None

    @property
    def branches(self) -> int:
        """Model rows a picture: two with guidance."""
        return 2 if self.prompt.guided else 1

    # -- prefill ---------------------------------------------------------------------------------------------------

    def prefill(self) -> None:
        """Cache everything before the last token in front of the window, and draft the first window."""
        embeddings, self.prompt_slots = self.prompt.embeddings, self.prompt.embeddings.shape[1]
        given = self.first_tokens.shape[1]
        capacity = self.prompt_slots + self.grid.num_tokens + self.window
        self.cache = self.model.new_cache(self.prompt, capacity)
        if given:
            index = torch.arange(given, device=self.device).expand(len(embeddings), -1)
            codes = self.first_tokens.repeat_interleave(self.branches, 0)
            embeddings = torch.cat((embeddings, self.model.embed(codes, index)), 1)
        self.start = self.prompt.embeddings[:, -1:]
        length = embeddings.shape[1] - 1
        if length:
            slots = torch.arange(length, device=self.device).expand(len(embeddings), -1)
            self.model.hidden(embeddings[:, :-1], slots, self.cache, length)
        self._refill(torch.zeros_like(self.committed), None)

    # -- one iteration ---------------------------------------------------------------------------------------------

    def iterate(self) -> None:
        """One forward, one coupling, one transfer to the host, one refill."""
        positions = self.committed[:, None] + torch.arange(self.window, device=self.device)  # A, L
        drafts = self.sequence[self.rows[:, None], positions]
        logits = self._logits(positions)
        forced = self.forced[positions.clamp_max(self.grid.num_tokens - 1)]
        law = self._law(logits, forced)
        noise = Noise(self.seeds, positions, self.iteration)
        tokens = self.coupling.couple(law, self.draft_law, self._codes(drafts), noise)
        tokens = torch.where(forced == FREE, tokens, forced)
        if self.settings.trace_detail:
            collision = self.coupling.collision(law, self.draft_law)
            self.details.append((list(self.active), window_details(law, self.draft_law, drafts, tokens, collision)))
        self.sequence[self.rows[:, None], positions] = tokens
        accepted = (tokens == drafts)[:, :-1].long().cumprod(-1).sum(-1)
        moved = torch.minimum(accepted + 1, self.grid.num_tokens - self.committed)
        self.committed = self.committed + moved
        *self.moved, ok = to_host(torch.cat((moved, usable(logits).long()[None])))
        if not ok:
            raise DecodingError(
                f"The model gave NaN or infinite logits at forward {self.iteration + 1}; "
                "its weights are damaged or its dtype is too narrow: load it as float32 or bfloat16."
            )
        self._advance(law, moved)

    def _logits(self, positions: Tensor) -> Tensor:
        """Guided logits [A, L, V] for the tokens at `positions`; forbidden codes are minus infinity."""
        before = positions - 1
        codes = self.sequence[self.rows[:, None], before.clamp_min(0)]
        codes, before, at = (t.repeat_interleave(self.branches, 0) for t in (codes, before, positions))
        embeddings = self.model.embed(codes, before.clamp_min(0))
        embeddings = torch.where((before < 0)[..., None], self.start, embeddings)
        extent = self.prompt_slots + max(self.done[row] for row in self.active) + self.window - 1
        hidden = self.model.hidden(embeddings, self.prompt_slots + before, self.cache, extent)
        logits = self.model.logits(hidden, at)
        if logits.shape[-1] != self.model.codebook_size:
            raise InputError(
                f"The model gave {logits.shape[-1]} logits for a codebook of {self.model.codebook_size} codes."
            )
        logits = guide(logits, self.settings.law.cfg_scale) if self.prompt.guided else logits.float()
        if self.forbidden is None:
            return logits
        rule = self.forbidden_row[positions.clamp_max(self.grid.num_tokens - 1)]
        cut = self.forbidden[rule.clamp_min(0)] & (rule >= 0)[..., None]
        return logits.masked_fill(cut, float("-inf"))

    def _law(self, logits: Tensor, forced: Tensor) -> Law:
        """Target law [A, L] of guided logits; where a token is forced, the point mass on its stand-in code."""
        law = target_law(logits, self.settings.law)
        return law.with_points(forced != FREE, self._codes(forced)) if self.grid.has_forced else law

    def _codes(self, tokens: Tensor) -> Tensor:
        """Codes that stand for tokens in a law: a forced token beyond the codebook is certain, whichever code bears it."""
        return tokens.clamp(0, self.model.codebook_size - 1)

    def _advance(self, law: Law, moved: Tensor) -> None:
        """Count what was committed and make the next window: survivors keep their place, their draft law is now `law`."""
        self.iteration += 1
        self.last_window = self.window
        for place, row in enumerate(self.active):
            self.done[row] += self.moved[place]
        remaining = self.grid.num_tokens - min(self.done)
        if remaining:
            self.window = min(self.window, remaining)
            self._refill(self.last_window - moved, law)

    def _refill(self, survivors: Tensor, law: Law | None) -> None:
        """Put fresh drafts behind the `survivors` [A] of the window that starts at `committed`."""
        positions = self.committed[:, None] + torch.arange(self.window, device=self.device)
        known = self.committed + survivors
        earlier = None if self.earlier is None else self.earlier[self.rows]
        places = Places(self.sequence[self.rows], known, positions, self.grid, earlier)
        guess = INITIALISERS[self.settings.initialiser](places)
        random = Noise(self.seeds, positions, self.iteration).random_codes(self.model.codebook_size)
        guess = torch.where((guess >= 0) & (guess < self.model.codebook_size), guess, random)
        forced = self.forced[positions.clamp_max(self.grid.num_tokens - 1)]
        guess = torch.where(forced == FREE, guess, forced)
        fresh = positions >= known[:, None]
        drafts = torch.where(fresh, guess, self.sequence[self.rows[:, None], positions])
        self.sequence[self.rows[:, None], positions] = drafts
        if self.coupling.uses_draft_law or self.settings.trace_detail:
            self.draft_law = self._draft_law(fresh, drafts, known, law)

    def _draft_law(self, fresh: Tensor, drafts: Tensor, known: Tensor, law: Law | None) -> Law:
        """Draft laws of the new window: `law` for survivors, the point mass for fresh drafts."""
        codes = self._codes(drafts)
        if law is None:
            return point_law(codes, self.model.codebook_size)
        first = self.last_window - (known - self.committed)  # offset of the first survivor in the old window
        offsets = first[:, None] + torch.arange(self.window, device=self.device)
        return law.take_positions(offsets.clamp_max(self.last_window - 1)).with_points(fresh, codes)

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def record(self, seconds: float) -> None:
        for place, row in enumerate(self.active):
            trace = self.traces[row]
            trace.starts.append(self.done[row] - self.moved[place])
            trace.committed.append(self.moved[place])
            trace.seconds.append(seconds)

    def drafted(self) -> list[int]:
        """First place of every row that holds no draft yet."""
        return [min(done + self.window, self.grid.num_tokens) for done in self.done]

    def drop_finished(self) -> None:
        """Go on without the rows that are complete: they cost nothing more."""
        kept = [place for place, row in enumerate(self.active) if self.done[row] < self.grid.num_tokens]
        if len(kept) == len(self.active):
            return
        order = fill_holes(kept)
        self.active = [self.active[place] for place in order]
        if not order:
            return
        index = torch.tensor(order, device=self.device)
        self.rows, self.committed, self.seeds = self.rows[index], self.committed[index], self.seeds[index]
        if self.draft_law is not None:
            self.draft_law = self.draft_law.take_rows(index)
        model_rows = [self.branches * place + branch for place in order for branch in range(self.branches)]
        self.start = self.start[torch.tensor(model_rows, device=self.device)]
        self.cache.keep_rows(model_rows)

    def finish_traces(self) -> list[RowTrace]:
        """The traces, with the window details brought over in one go."""
        if not self.details:
            return self.traces
        flat = torch.cat([detail.flatten() for _, detail in self.details]).cpu()
        parts = flat.split([detail.numel() for _, detail in self.details])
        for iteration, ((active, detail), part) in enumerate(zip(self.details, parts, strict=True)):
            for values, row in zip(part.view(detail.shape).unbind(1), active, strict=True):
                trace = self.traces[row]
                # The window of a row that is ahead reaches past the end, and its places there are no tokens.
                inside = values[:, : self.grid.num_tokens - trace.starts[iteration]]
                for name, value in zip(DETAILS, inside, strict=True):
                    trace.details.setdefault(name, []).append(value)
        return self.traces


def fill_holes(kept: list[int]) -> list[int]:
    """The ascending places `kept`, reordered so that only the last of them move, into the gaps in front of them."""
    count = len(kept)
    movers = iter([place for place in kept if place >= count])
    stay = set(kept)
    return [place if place in stay else next(movers) for place in range(count)]
