"""One iteration as a function on the device: draft, one forward, target law, coupling, commit.

It reads and writes a `State` and nothing else. It never looks at a value: which operations run, and the shapes of their
results, follow from `Shape` and the settings alone, so the whole of it can be compiled, or recorded and replayed. The host
learns what happened from `State.report`, by the one transfer that the loop makes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..laws.law import Law, guide, target_law, usable
from .drafts import INITIALISERS, LAW_INITIALISERS, NO_GUESS, READS_TOKENS, DraftInputs
from .grid import FREE, Grid
from .interface import Prompt, TokenModel
from .recall import STEPS, Recall, is_sure
from .settings import DecodeSettings, coupling_of
from .state import State
from .trace import window_details


@dataclass(frozen=True)
class Shape:
    """What an iteration is made for: the first `rows` rows of the state, `window` positions each, cache slots below `extent`."""

    rows: int
    window: int
    extent: int


class Iteration:
    """`iteration(shape)` advances a state by one iteration. A and L below are the rows and the window of the shape.

    `trajectories.py` has the one in which several drafts of a window compete.
    """

    def __init__(self, model: TokenModel, cache, slots: int, state: State, prompt: Prompt, grid: Grid,
                 settings: DecodeSettings, total: int, has_forced: bool):  # fmt: skip
        self.model, self.cache, self.slots, self.state = model, cache, slots, state  # of the cache, `slots` in all
        self.grid, self.settings = grid, settings
        # What a graph depends on; torch 2.7 would tie it to all of the settings, the seed among them.
        self.initialiser, self.law_settings = settings.initialiser, settings.law
        self.total, self.has_forced = total, has_forced  # end of the last token to draw; whether any is forced
        self.prompt_slots, self.guided = prompt.embeddings.shape[1], prompt.guided
        self.coupling = coupling_of(settings)
        device = state.sequence.device
        self.offsets = torch.arange(state.sequence.shape[1] - grid.num_tokens, device=device)
        self.cuts = None if grid.forbidden is None else Cuts(grid, state.forced.shape[1], device)

    @torch.no_grad()
    def __call__(self, shape: Shape) -> None:
        state, rows = self.state, shape.rows
        positions = state.committed[:rows, None] + self.offsets[: shape.window]
        drafts, source = self.draft(positions)
        logits = self.forward(self.tokens_before(positions), positions, shape.extent, self.cache)
        p, usable_logits = self.target(logits, positions)
        tokens = self.couple(p, drafts, source, positions)
        self.commit(tokens, drafts, positions, p, usable_logits)

    def read(self, shape: Shape) -> np.ndarray:
        """The state's report, [1 + A]; the only read from the device, called once an iteration.

        A copy, since the device goes on writing.
        """
        return self.state.report[: shape.rows + 1].cpu().numpy().copy()

    def draft(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Drafts [A, L] of the window, written to the sequence: survivors stay, guesses follow.

        With them the entries [A, L] of the kept laws that they follow, NO_GUESS for chosen ones. `positions` has a row for every
        chain.
        """
        state, rows, name = self.state, len(positions), self.initialiser
        known = state.known[:rows]
        fresh = positions >= known[:, None]
        inputs = DraftInputs(state.sequence[:rows], known, positions, self.grid, None, state.law_start[:rows])
        drafts = torch.where(fresh, self.guess(inputs), inputs.sequence.gather(1, positions))
        source = torch.where(fresh, NO_GUESS, state.entries_of(positions))  # of the law that a draft follows, if any
        if name in LAW_INITIALISERS and state.law is not None:
            chosen = state.entries_of(LAW_INITIALISERS[name](inputs))
            source = torch.where(fresh & self.may_choose(positions), chosen, source)
            drawn = self.coupling.first_draft(state.laws_at(state.law, source), state.noise(positions))
            drafts = torch.where(fresh & (source != NO_GUESS), drawn, drafts)
        state.sequence[:rows].scatter_(1, positions, drafts)
        if state.recall is not None:
            self.draft_anew(state.recall, drafts, source, positions)
        return drafts, source

    def draft_anew(self, recall: Recall, drafts: Tensor, source: Tensor, positions: Tensor) -> None:
        """Drafts of the first positions after the last commit from recalled laws, in place, in `drafts`, `source` and sequence.

        A position is drafted anew if the token before it changed. It is coupled to its old draft as a token is to its draft.
        """
        state, rows = self.state, len(positions)
        sequence, block = state.sequence[:rows], state.block(rows, last=True)
        changed = torch.ones(rows, 1, dtype=torch.bool, device=positions.device)
        for step in range(min(STEPS, positions.shape[1])):
            at, old, old_source = (each[:, step : step + 1] for each in (positions, drafts, source))
            entry = recall.best_entry(sequence, at, block, self.coupling.recalls_later)
            assert state.law is not None
            law, q = state.laws_at(state.law, entry), self.draft_law(old_source, old)
            changed = changed & (entry != NO_GUESS) & self.may_differ(at)
            if step:
                changed = changed & is_sure(law)
            new = self.coupling.renew(law, q, self.codes(old), state.recall_noise(at))
            new = torch.where(changed, new, old)
            source[:, step : step + 1] = torch.where(changed, entry, old_source)
            changed = changed & (new != old)
            drafts[:, step : step + 1] = new
            sequence.scatter_(1, at, new)

    def guess(self, inputs: DraftInputs) -> Tensor:
        """Tokens [A, L] chosen for first drafts."""
        guess = self.state.guesses[: len(inputs.positions)].gather(1, inputs.positions)
        if self.initialiser not in READS_TOKENS:
            return guess
        own = INITIALISERS[self.initialiser](inputs)
        fits = (own >= 0) & (own < self.model.codebook_size) & self.may_choose(inputs.positions)
        return torch.where(fits, own, guess)

    def may_choose(self, positions: Tensor) -> Tensor:
        """Whether an initialiser that looks at what stands before may choose at `positions` [A, L].

        Side chains start from random codes: where chains share their noise, they would otherwise be copies of one another.
        """
        may = self.may_differ(positions)
        if (chains := self.state.chains) > 1:
            may = may & (torch.arange(len(positions), device=positions.device) % chains == 0)[:, None]
        return may

    def may_differ(self, positions: Tensor) -> Tensor:
        """Whether anything else than what is forced may stand at `positions` [A, L]."""
        return self.state.forced_at(positions) == FREE

    def tokens_before(self, positions: Tensor) -> Tensor:
        """The token before every position, [A, L]; before the first it is not used."""
        return self.state.sequence[: len(positions)].gather(1, (positions - 1).clamp_min(0))

    def forward(self, tokens: Tensor, positions: Tensor, extent: int, cache) -> Tensor:
        """Guided logits [A, L, V] for `positions` after `tokens` [A, L]; forbidden codes are minus infinity."""
        state, rows = self.state, len(positions)
        before = positions - 1
        embeddings = self.model.embed(tokens, before.clamp_min(0))
        # A picture's rows, conditional and unconditional, read the same tokens after their own prompts.
        embeddings = torch.where((before < 0)[:, None, :, None], state.start[:rows], embeddings[:, None])
        branches = embeddings.shape[1]
        slots, at = (t[:, None].expand(-1, branches, -1).flatten(0, 1) for t in (before + self.prompt_slots, positions))
        hidden = self.model.hidden(embeddings.flatten(0, 1), slots, cache, extent)
        logits = self.model.logits(hidden, at)
        if logits.shape[-1] != self.model.codebook_size:
            raise InputError(
                f"The model gave {logits.shape[-1]} logits for a codebook of {self.model.codebook_size} codes."
            )
        logits = guide(logits, self.law_settings.cfg_scale) if self.guided else logits.float()
        return logits if self.cuts is None else self.cuts.of(logits, positions)

    def target(self, logits: Tensor, positions: Tensor) -> tuple[Law, Tensor]:
        """Target law [A, L], a point where a token is forced, and whether the logits were usable, bool scalar."""
        law, usable_logits = target_law(logits, self.law_settings), usable(logits)
        if self.has_forced:
            forced = self.state.forced_at(positions)
            law = law.with_points(forced != FREE, self.codes(forced))
        return law, usable_logits

    def couple(self, p: Law, drafts: Tensor, source: Tensor, positions: Tensor) -> Tensor:
        """New tokens [A, L] of the window; `source` as `draft` gives it."""
        state, q = self.state, self.draft_law(source, drafts)
        tokens = self.coupling.couple(p, q, self.codes(drafts), state.noise(positions))
        tokens = self.with_forced(tokens, positions)
        if state.details is not None:
            collision = self.coupling.collision(p, q)
            rows, window = positions.shape
            assert q is not None  # a run with details keeps the laws
            state.details[:, :rows, :window] = window_details(p, q, drafts, tokens, collision)
        return tokens

    def draft_law(self, source: Tensor, drafts: Tensor) -> Law | None:
        """The laws [A, L] that drafts follow, points where they were chosen; None in a run that keeps no laws."""
        if self.state.law is None:
            return None
        return self.state.laws_at(self.state.law, source).add_points(source == NO_GUESS, self.codes(drafts))

    def commit(self, tokens: Tensor, drafts: Tensor, positions: Tensor, p: Law, usable_logits: Tensor) -> None:
        """Accept the leading drafts that stayed and one more token; what comes after them survives as drafts that follow p."""
        self.keep(tokens, leading(tokens == drafts), positions, p, usable_logits)

    def keep(self, tokens: Tensor, accepted: Tensor, positions: Tensor, p: Law, usable_logits: Tensor) -> None:
        """Commit tokens after `accepted` [A] drafts; `tokens` and `positions` have a row for every chain."""
        state, (rows, window) = self.state, tokens.shape
        committed = state.committed[: len(accepted)]
        counts = torch.minimum(accepted + 1, self.total - committed)
        if state.recall is not None:  # the laws were given for what still stands there
            state.recall.remember(state.sequence[:rows], positions, state.block(rows), self.is_drawn(positions))
        state.sequence[:rows].scatter_(1, positions, tokens)
        # Not `committed`, though it is the same: torch's compiler takes a mere copy after what is added to it below.
        state.law_start[:rows] = positions[:, 0]
        state.known[:rows] = positions[:, 0] + window
        if state.law is not None:
            state.keep_law(state.law, p)
        committed.add_(counts)
        state.step.add_(1)
        state.report[: len(accepted) + 1] = torch.cat((usable_logits.long()[None], counts))

    def with_forced(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`tokens` [A, L], a forced one where there is one."""
        if not self.has_forced:
            return tokens
        forced = self.state.forced_at(positions)
        return torch.where(forced == FREE, tokens, forced)

    def is_drawn(self, positions: Tensor) -> Tensor:
        """Whether a token is drawn at positions [A, L]. A window reaches beyond what its row draws only beside rows that draw
        more, or compiled: of laws at other positions no token may depend."""
        is_drawn = positions < self.total
        return is_drawn & (self.state.forced_at(positions) == FREE) if self.has_forced else is_drawn

    def codes(self, tokens: Tensor) -> Tensor:
        """Codes that stand for tokens in a law: a forced token beyond the codebook is certain, whichever code bears it."""
        return tokens.clamp(0, self.model.codebook_size - 1) if self.has_forced else tokens


def leading(kept: Tensor) -> Tensor:
    """Length [...] of the leading run of `kept` [..., L] drafts; the last position commits with or without one."""
    return kept[..., :-1].long().cumprod(-1).sum(-1)


class Cuts:
    """The grid's forbidden codes."""

    def __init__(self, grid: Grid, length: int, device):
        assert grid.forbidden is not None and grid.forbidden_row is not None
        self.forbidden = grid.forbidden.to(device)
        missing = length - grid.num_tokens
        self.rule = torch.nn.functional.pad(grid.forbidden_row, (0, missing), value=-1).to(device)

    def of(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Logits [A, L, V] with minus infinity for what may not stand at `positions` [A, L]."""
        rule = self.rule[positions]
        cut = self.forbidden[rule.clamp_min(0)] & (rule >= 0)[..., None]
        return logits.masked_fill(cut, float("-inf"))
