"""What an iteration reads and writes: tensors that are allocated once and keep their addresses for the whole run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..laws.law import Law, empty_law
from ..laws.noise import Noise, own_row_seeds, row_seeds, seeds_given
from .drafts import INITIALISERS, READS_TOKENS, Places
from .grid import FREE, Grid
from .interface import Prompt
from .settings import OWN, DecodeSettings
from .trace import DETAILS


class State:
    """Rows of a batch B, those at work in the first places; N tokens are to be drawn, W is the widest window.

    sequence [B, N + W]: committed tokens, then drafts; windows reach past the end for rows that are ahead, and what is
    drawn there is never used. committed [B]: tokens that are final. known [B]: first place without a draft of its own; its
    draft will be that of guesses [B, N + W], or what an initialiser makes of the tokens before it. law [B, W + 1, ...]: the
    laws that the drafts follow, the first being that of place law_start [B]; the last of them is empty (all zero).
    keys [B, purposes, N + W] and codes [V]: for the noise. sides [B, M - 1, N + W]: drafts of the side trajectories (see
    `trajectories`). step []: iterations so far. report [1 + B]: what the host reads after an iteration, whether the logits
    were usable and how many tokens each row committed. details [5, B, W]: see `window_details`.
    """

    def __init__(self, prompt: Prompt, grid: Grid, settings: DecodeSettings, codebook_size: int, window: int,
                 first_tokens: Tensor, earlier: Tensor | None, keeps_law: bool):  # fmt: skip
        (batch, given), device = first_tokens.shape, first_tokens.device
        places = grid.num_tokens + window
        # What the grid forces tells nothing of any noise, so it does not count as given.
        told = first_tokens.where(grid.forced()[:given].to(device) == FREE, FREE)
        seeds = own_row_seeds if settings.row_seeds == OWN else row_seeds
        self.seeds = seeds_given(seeds(settings.seed, batch, device), told, settings.part)
        every_place = torch.arange(places, device=device).expand(batch, -1)
        noise = Noise(self.seeds, every_place, 0)
        self.keys, self.codes = noise.position_keys(), torch.arange(codebook_size, device=device)
        self.start = prompt.embeddings[:, -1:].reshape(batch, -1, 1, prompt.embeddings.shape[-1]).clone()
        self.forced = torch.nn.functional.pad(grid.forced(), (0, window), value=FREE).to(device)
        self.guesses = self._first_guesses(grid, settings, codebook_size, noise, earlier)
        self.sequence = self.guesses.clone()
        self.sequence[:, :given] = first_tokens
        self.sides = self._side_guesses(settings.trajectories - 1, codebook_size, noise)
        self.committed, self.known, self.law_start = (torch.full((batch,), given, device=device) for _ in range(3))
        self.step = torch.zeros((), dtype=torch.long, device=device)
        self.report = torch.zeros(1 + batch, dtype=torch.long, device=device)
        room = (batch, window + 1)
        self.law = empty_law(room, codebook_size, settings.law, device) if keeps_law else None
        self.details = torch.zeros(len(DETAILS), batch, window, device=device) if settings.trace_detail else None
        self.place = np.arange(batch)  # where row b of the batch stands now

    def _first_guesses(self, grid: Grid, settings: DecodeSettings, codebook_size: int, noise: Noise, earlier) -> Tensor:
        """A code [B, places] for every place: that of the initialiser if it looks at no tokens, else a random one."""
        positions, guesses = noise.positions, noise.random_codes(codebook_size)
        if settings.initialiser not in READS_TOKENS:
            own = INITIALISERS[settings.initialiser](Places(guesses, positions[:, 0], positions, grid, earlier))
            guesses = torch.where((own >= 0) & (own < codebook_size), own, guesses)
        return torch.where(self.forced == FREE, guesses, self.forced)

    def _side_guesses(self, count: int, codebook_size: int, noise: Noise) -> Tensor:
        """Random codes [B, count, places], other ones for every trajectory."""
        guesses = torch.empty(len(self.seeds), count, len(self.forced), dtype=torch.long, device=self.seeds.device)
        for number in range(count):
            codes = noise.random_codes(codebook_size, number + 1)
            guesses[:, number] = torch.where(self.forced == FREE, codes, self.forced)
        return guesses

    def tokens(self, count: int) -> Tensor:
        """The first `count` places of every row, in the batch's order."""
        tokens = self.sequence[:, :count]
        moved = (self.place[1:] < self.place[:-1]).any()
        return tokens[torch.from_numpy(self.place).to(tokens.device)] if moved else tokens

    def noise(self, positions: Tensor) -> Noise:
        """The randomness of this iteration at `positions` [A, L]."""
        rows = len(positions)
        return Noise(self.seeds[:rows], positions, self.step, self.keys[:rows], self.codes)

    def draft_law(self, kept: Law, positions: Tensor, fresh: Tensor, codes: Tensor) -> Law:
        """The laws [A, L] that drafts `codes` at `positions` follow; a `fresh` draft was chosen, so its law is a point."""
        rows, spare = len(positions), kept.probs.shape[1] - 1
        offsets = torch.where(fresh, spare, positions - self.law_start[:rows, None])
        return kept.take_positions(offsets).add_points(fresh, codes)

    def keep_law(self, kept: Law, law: Law) -> None:
        """`law` [A, L] is what the tokens of this window follow from now on, kept and redrawn ones alike."""
        rows, window, _ = law.probs.shape
        kept.probs[:rows, :window] = law.probs
        if law.codes is not None and kept.codes is not None:
            kept.codes[:rows, :window] = law.codes

    def swap_rows(self, here: np.ndarray, there: np.ndarray) -> None:
        """Exchange the contents of the places `here` with those of `there`; a place occurs once."""
        if not len(here):
            return
        to, origin = np.concatenate((here, there)), np.concatenate((there, here))
        holds = np.argsort(self.place)
        self.place[holds[to]] = origin
        to, origin = torch.from_numpy(np.stack((to, origin))).to(self.seeds.device).unbind(0)
        tensors = [self.seeds, self.keys, self.start, self.guesses, self.sequence, self.sides]
        tensors += [self.committed, self.known, self.law_start]
        if self.law is not None:
            tensors += [tensor for tensor in (self.law.probs, self.law.codes) if tensor is not None]
        for tensor in tensors:
            tensor[to] = tensor[origin]
