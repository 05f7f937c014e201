"""Parallel trajectories: several drafts of one window in one forward, of which the longest accepted run is committed.

Only `gumbel_exact` allows it, for there a draft may come from anywhere: a position's token is the Gumbel maximum of its law,
whichever draft was compared with it. The main trajectory starts as every run does, the side ones from random codes of their
own, and all are refined by themselves: each looks at the cached prefix, and at itself behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.kv_cache import KVCache
from .iteration import Iteration, Shape


@dataclass(frozen=True)
class TrajectoryCache:
    """A `KVCache` as one forward sees it that goes over `window` places and, behind them, over those of `sides` others.

    These lie in the slots from `extent` on, which no window has reached yet. `adopt` moves what one of them wrote to the slots
    of the places that it stood for.
    """

    cache: KVCache
    window: int
    sides: int
    extent: int

    def positions(self, slots: Tensor) -> Tensor:
        return self.cache.positions(slots)

    def context_of(self, layer: int):
        return self.cache.context_of(layer)

    def places(self, slots: Tensor) -> Tensor:
        """As `KVCache.places` of slots [rows, M L], those behind the window standing for side trajectories."""
        side = torch.arange(self.extent, self.extent + self.sides * self.window, device=slots.device)
        return self.cache.places(torch.cat((slots[:, : self.window], side.expand(len(slots), -1)), 1))

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        return self.cache.write(layer, places, keys, values, extent + self.sides * self.window)

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
        to, origin = (self.cache.places(t).flatten() for t in (slots, torch.where(winner[:, None] > 0, side, slots)))
        for held in (*self.cache.keys, *self.cache.values):
            flat = held.view(-1, held.shape[-1])
            flat.index_copy_(0, to, flat.index_select(0, origin))


class TrajectoryIteration(Iteration):
    """An iteration of M trajectories over A rows of L places.

    `state.sequence` holds the main trajectory's drafts, `state.sides` [B, M - 1, N + W] the others'. The winner becomes the
    main trajectory, the one that it displaces takes its place.
    """

    @torch.no_grad()
    def __call__(self, shape: Shape) -> None:
        state, count = self.state, self.settings.trajectories
        positions = state.committed[: shape.rows, None] + self.offsets[: shape.window]
        main, _ = self.draft(positions)
        at_sides = positions[:, None].expand(-1, count - 1, -1)
        drafts = torch.cat((main[:, None], state.sides[: shape.rows].gather(2, at_sides)), 1)  # A, M, L
        everywhere = positions.repeat(1, count)
        cache = TrajectoryCache(self.cache, shape.window, count - 1, shape.extent)
        logits = self.forward(self.tokens_before_all(drafts, positions), everywhere, shape.extent, cache)
        p, sound = self.target(logits, everywhere)
        tokens = self.couple(p, drafts.flatten(1), None, everywhere).view_as(drafts)
        winner = (tokens == drafts)[..., :-1].long().cumprod(-1).sum(-1).argmax(-1)
        branches = state.start.shape[1]
        slots = (positions + self.prompt_slots - 1).repeat_interleave(branches, 0)
        cache.adopt(winner.repeat_interleave(branches), slots)
        self.commit(_of(tokens, winner), _of(drafts, winner), positions, p, sound)
        displaced = winner[:, None, None] == torch.arange(1, count, device=winner.device)[:, None]
        state.sides[: shape.rows].scatter_(2, at_sides, torch.where(displaced, tokens[:, :1], tokens[:, 1:]))

    def tokens_before_all(self, drafts: Tensor, positions: Tensor) -> Tensor:
        """The token in front of every place of every trajectory, [A, M L]; `drafts` [A, M, L], `positions` [A, L]."""
        last = self.tokens_before(positions[:, :1])
        return torch.cat((last[:, None].expand(-1, drafts.shape[1], -1), drafts[..., :-1]), -1).flatten(1)


def _of(values: Tensor, winner: Tensor) -> Tensor:
    """[A, L] of values [A, M, L]."""
    return values.gather(1, winner[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)
