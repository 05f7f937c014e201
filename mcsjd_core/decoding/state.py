"""What an iteration reads and writes: tensors that are allocated once and keep their addresses for the whole run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..laws.law import Law, empty_law
from ..laws.noise import ACCEPT, RESAMPLE, Noise, own_row_seeds, row_seeds, seeds_given
from .drafts import INITIALISERS, NO_GUESS, READS_TOKENS, DraftInputs
from .grid import FREE, Grid
from .interface import Prompt
from .recall import WINDOWS, Recall
from .settings import OWN, DecodeSettings, coupling_of
from .trace import DETAILS


class State:
    """Rows of a batch B in as many lanes, those at work in the first ones; N tokens are to be drawn, W is the widest window,
    M chains of drafts share it (see `trajectories`). Chain m of row b has row b M + m of what every chain has its own of.

    committed [B]: tokens that are final. sequence [B M, N + W]: committed tokens, then drafts; windows reach past the end
    for rows that are ahead, and what is drawn there is never used. known [B M]: first position without a draft of its own; its
    draft will be that of guesses [B M, N + W], or what an initialiser makes of what stands before it. law [B M, W + 1, ...]:
    the laws that the drafts follow, the first being that of position law_start [B M]; the last of them is empty (all zero).
    With a `recall` there are several windows of them, which are written in turn.
    forced [B M, N + W]: the token that a position has to hold, FREE where the model decides; row b draws from position
    `given[b]` on, and all before it is forced.
    keys [B M, purposes, N + W] and codes [V]: for the noise. step [B M]: a row's iterations so far. report [1 + B]: what the
    host reads after an iteration, whether the logits were usable and how many tokens each row committed. details [5, B, W]:
    see `window_details`.
    """

    def __init__(self, prompt: Prompt, grid: Grid, settings: DecodeSettings, codebook_size: int, window: int,
                 given: list[int], forced: Tensor, earlier: Tensor | None, keeps_law: bool,
                 seeds: Tensor | None = None):  # fmt: skip
        batch, device = prompt.batch, forced.device
        self.chains = settings.trajectories
        rows, length = batch * self.chains, grid.num_tokens + window
        # What the grid forces carries no information about any noise, so it does not count as given.
        given_tokens = forced.where(grid.forced().to(device) == FREE, FREE)
        if seeds is None:
            seeds = (own_row_seeds if settings.row_seeds == OWN else row_seeds)(settings.seed, batch, device)
        self.seeds = seeds_given(seeds, given_tokens, settings.part)
        self.codes = torch.arange(codebook_size, device=device)
        every_position = torch.arange(length, device=device).expand(batch, -1)
        noise = [Noise(self.seeds, every_position, 0, chain=chain) for chain in range(self.chains)]
        own = coupling_of(settings).uses_draft_law
        self.keys = _interleaved([(each if own else noise[0]).position_keys() for each in noise])
        self.window, self.recall, windows = window, None, 1
        if settings.recalls:
            self.recall, windows = Recall(rows, window, grid, device), WINDOWS
            self.recall_keys = self.keys.clone()
            others = [replace(each, chain=each.chain + self.chains).position_keys() for each in noise]
            self.recall_keys[:, ACCEPT - 1 : RESAMPLE] = _interleaved(others)[:, ACCEPT - 1 : RESAMPLE]
        self.start = prompt.embeddings[:, -1:].reshape(batch, -1, 1, prompt.embeddings.shape[-1]).clone()
        self.forced = torch.nn.functional.pad(forced, (0, window), value=FREE).repeat_interleave(self.chains, 0)
        self.guesses = self._first_guesses(grid, settings, codebook_size, noise, earlier)
        self.sequence = self.guesses.clone()
        self.committed = torch.tensor(given, device=device)
        self.known, self.law_start = (self.committed.repeat_interleave(self.chains) for _ in range(2))
        self.step = torch.zeros(rows, dtype=torch.long, device=device)
        self.report = torch.zeros(1 + batch, dtype=torch.long, device=device)
        self.law = empty_law((rows, windows * window + 1), codebook_size, settings.law, device) if keeps_law else None
        self.details = torch.zeros(len(DETAILS), batch, window, device=device) if settings.trace_detail else None
        self.lane = np.arange(batch)  # the lane that holds row b of the batch now
        self.order = torch.arange(batch, device=device)  # the same on the device
        self.is_permuted = False

    def _first_guesses(self, grid: Grid, settings: DecodeSettings, codebook_size: int, noise: list[Noise], earlier):
        """A code [B M, N + W] for every position: a random one, in the main chain that of an initialiser that knows it now."""
        guesses = [each.random_codes(codebook_size) for each in noise]
        positions = noise[0].positions
        if settings.initialiser in INITIALISERS and settings.initialiser not in READS_TOKENS:
            own = INITIALISERS[settings.initialiser](DraftInputs(guesses[0], positions[:, 0], positions, grid, earlier))
            guesses[0] = torch.where((own >= 0) & (own < codebook_size), own, guesses[0])
        return torch.where(self.forced == FREE, _interleaved(guesses), self.forced)

    def tokens(self, count: int) -> Tensor:
        """The first `count` tokens of every row, in the batch's order; drafts are those of the main chain."""
        tokens = self.sequence[:: self.chains, :count]
        return tokens[self.order] if self.is_permuted else tokens

    def forced_at(self, positions: Tensor) -> Tensor:
        """What has to stand at `positions` [A, L], FREE where the model decides."""
        return self.forced[: len(positions)].gather(1, positions)

    def noise(self, positions: Tensor) -> Noise:
        """The randomness of this iteration at `positions` [A M, L]."""
        rows = len(positions)
        return Noise(self.seeds, positions, self.step[:rows], self.keys[:rows], self.codes)

    def recall_noise(self, positions: Tensor) -> Noise:
        """As `noise`, for drafts from laws that are recalled: with numbers of its own to accept and to redraw by."""
        return replace(self.noise(positions), keys=self.recall_keys[: len(positions)])

    def block(self, rows: int, last: bool = False) -> Tensor:
        """Which of a recall's windows [A M] is written next, or was written last."""
        return (self.step[:rows] - int(last)) % WINDOWS

    def entries_of(self, positions: Tensor) -> Tensor:
        """Which of the kept laws [A M, L] are those of `positions`, as they were given last; NO_GUESS for NO_GUESS."""
        rows = len(positions)
        entries = positions - self.law_start[:rows, None]
        if self.recall is not None:
            entries = entries + self.window * self.block(rows, last=True)[:, None]
        return torch.where(positions == NO_GUESS, NO_GUESS, entries)

    def laws_at(self, kept: Law, entries: Tensor) -> Law:
        """A copy of those of the kept laws, [A M, L]; empty ones for NO_GUESS."""
        return kept.take_positions(torch.where(entries == NO_GUESS, kept.probs.shape[1] - 1, entries))

    def keep_law(self, kept: Law, law: Law) -> None:
        """`law` [A, L] is what the tokens of this window follow from now on, kept and redrawn ones alike."""
        rows, window, _ = law.probs.shape
        for stored, new in ((kept.probs, law.probs), (kept.codes, law.codes)):
            if stored is None or new is None:
                continue
            if self.recall is None:
                stored[:rows, :window] = new
            else:
                lane = torch.arange(rows, device=new.device)
                stored[:, :-1].unflatten(1, (WINDOWS, self.window))[lane, self.block(rows), :window] = new

    def swap_rows(self, here: np.ndarray, there: np.ndarray) -> None:
        """Exchange the contents of the lanes `here` with those of `there`; a lane occurs once."""
        if not len(here):
            return
        to, origin = np.concatenate((here, there)), np.concatenate((there, here))
        holds = np.argsort(self.lane)
        self.lane[holds[to]] = origin
        self.order.copy_(torch.from_numpy(self.lane))
        self.is_permuted = bool((self.lane[1:] < self.lane[:-1]).any())
        to, origin = torch.from_numpy(np.stack((to, origin))).to(self.seeds.device).unbind(0)
        for tensor in self._by_row():
            tensor[to] = tensor[origin]

    def put(self, lane: int, row: State) -> None:
        """Begin anew in `lane` with what a state of one row holds, made for the same grid, window and settings."""
        for tensor, other in zip(self._by_row(), row._by_row(), strict=True):
            tensor[lane] = other[0]

    def _by_row(self) -> list[Tensor]:
        """Everything that belongs to a row, seen as [B, ...]."""
        of_chains = [self.keys, self.step, self.forced, self.guesses, self.sequence, self.known, self.law_start]
        of_chains += [] if self.law is None else [self.law.probs, self.law.codes]
        of_chains += [] if self.recall is None else [self.recall_keys, self.recall.tokens, self.recall.positions]
        chains = [tensor.unflatten(0, (-1, self.chains)) for tensor in of_chains if tensor is not None]
        return [self.seeds, self.start, self.committed, *chains]


def _interleaved(chains: list[Tensor]) -> Tensor:
    """[B M, ...] of M tensors [B, ...]."""
    return torch.stack(chains, 1).flatten(0, 1)
