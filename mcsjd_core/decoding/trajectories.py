"""Parallel trajectories: several chains of drafts for one window in one forward, so that more of them is accepted.

The main chain starts as every run does, the side ones from random codes of their own, and all are refined by themselves: each
looks at the cached prefix, and at itself after it. Under `gumbel_exact` a draft may come from anywhere, for a position's token
is the Gumbel maximum of its law, whichever draft was compared with it: the chain with the longest run is committed. The other
couplings verify their chains together, by recursive rejection (`laws/chains.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..laws.chains import couple_chains
from ..laws.law import Law
from ..nn.kv_cache import KVCache
from .iteration import Iteration, Shape, leading


@dataclass(frozen=True)
class TrajectoryCache:
    """A `KVCache` as one forward sees it that goes over `window` positions and, after them, over those of `sides` others.

    These lie in the slots from `extent` on, which no window has reached yet. `adopt` moves what one of them wrote to the slots
    of the positions that it stood for.
    """

    cache: KVCache
    window: int
    sides: int
    extent: int

    def positions(self, slots: Tensor) -> Tensor:
        return self.cache.positions(slots)

    def context_of(self, layer: int):
        return self.cache.context_of(layer)

    def written(self, slots: Tensor) -> Tensor:
        """The slots that are written for slots [rows, M L], of which those after the window stand for side trajectories."""
        side = torch.arange(self.extent, self.extent + self.sides * self.window, device=slots.device)
        return torch.cat((slots[:, : self.window], side.expand(len(slots), -1)), 1)

    def index_of(self, slots: Tensor) -> Tensor:
        """As `KVCache.index_of`."""
        return self.cache.index_of(self.written(slots))

    def write(self, layer: int, index: Tensor, keys: Tensor, values: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        return self.cache.write(layer, index, keys, values, extent + self.sides * self.window)

    def visible(self, slots: Tensor, extent: int) -> Tensor:
        """Mask [rows, M L, extent + (M - 1) L]: the main trajectory as ever, a side one over the prefix and itself."""
        rows, total = len(slots), self.sides * self.window
        main = self.cache.visible(slots[:, : self.window], extent)
        key = torch.arange(extent, device=slots.device)
        prefix = (key >= self.cache.padding[:rows, None]) & (key < slots[:, :1])
        step = torch.arange(total, device=slots.device)
        same = step[:, None] // self.window == step // self.window
        own = (same & (step[:, None] >= step)).expand(rows, -1, -1)
        side = torch.cat((prefix[:, None].expand(-1, total, -1), own), -1)
        return torch.cat((torch.nn.functional.pad(main, (0, total)), side), 1)

    def adopt(self, winner: Tensor, slots: Tensor) -> None:
        """Let slots [rows, L] of the window hold what trajectory `winner` [rows] wrote; 0 is the main one."""
        step = torch.arange(self.window, device=slots.device)
        side = self.extent + (winner[:, None] - 1) * self.window + step
        self.cache.copy_slots(slots, torch.where(winner[:, None] > 0, side, slots))


class TrajectoryIteration(Iteration):
    """An iteration of M chains over A rows of L positions.

    The chains are in the order in which they are verified, which never changes. Only the committed tokens become common to
    all of them; after these each keeps its own drafts.
    """

    @torch.no_grad()
    def __call__(self, shape: Shape) -> None:
        rows, chains, window = shape.rows, self.state.chains, shape.window
        positions = self.state.committed[:rows, None] + self.offsets[:window]
        of_chains = positions.repeat_interleave(chains, 0)  # A M, L
        drafts, source = self.draft(of_chains)
        before, everywhere = self.tokens_before(of_chains).view(rows, -1), positions.repeat(1, chains)
        cache = TrajectoryCache(self.cache, window, chains - 1, shape.extent)
        logits = self.forward(before, everywhere, shape.extent, cache)
        p, usable_logits = self.target(logits.view(rows * chains, window, -1), of_chains)
        tokens, kept = self.couple_all(p, source, drafts, of_chains)
        run, tokens = leading(kept), tokens.view(rows, chains, window)
        winner = run.argmax(-1)
        branches = self.state.start.shape[1]
        slots = (positions + self.prompt_slots - 1).repeat_interleave(branches, 0)
        cache.adopt(winner.repeat_interleave(branches), slots)
        accepted = run.amax(-1)
        is_committed = self.offsets[:window] <= accepted[:, None, None]
        tokens = torch.where(is_committed, _of(tokens, winner)[:, None], tokens)
        self.keep(tokens.flatten(0, 1), accepted, of_chains, p, usable_logits)

    def couple_all(self, p: Law, source: Tensor, drafts: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens [A M, L] of all chains, and which drafts [A, M, L] they keep: the longest run of a row is committed."""
        codes, noise = self.codes(drafts).unflatten(0, (-1, self.state.chains)), self.state.noise(positions)
        if self.coupling.uses_draft_law:
            q = self.draft_law(source, drafts)
            assert q is not None  # a run of such a coupling keeps the laws
            tokens, kept = couple_chains(self.coupling, p, q, codes, noise)
        else:
            tokens = self.coupling.couple(p, None, codes.flatten(0, 1), noise)
            kept = tokens.view_as(codes) == codes
        return self.with_forced(tokens.view_as(drafts), positions), kept


def _of(values: Tensor, winner: Tensor) -> Tensor:
    """[A, L] of values [A, M, L]."""
    return values.gather(1, winner[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)
