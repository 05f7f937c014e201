"""Parallel trajectories: several drafts of one window in one forward, of which the longest accepted run is committed.

Only `gumbel_exact` allows it, for there a draft may come from anywhere: a position's token is the Gumbel maximum of its law,
whichever draft was compared with it. The main trajectory spans the window, side trajectories its first places, where
acceptance ends in most iterations. All look at the same cached prefix, each at itself behind it.

Trajectories that are refined on their own soon agree in front, and then add nothing. So a side trajectory whose next drafts
another one has too is made anew: from the winner's, with the runner-up of the Gumbel race in the place where the race was
closest, nearer places first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .grid import FREE
from .iteration import Iteration, Shape
from .kv_cache import KVCache
from .laws import Law
from .settings import SIDE_PLACES

NEAR = 8  # drafts in which trajectories have to differ somewhere
SLOPE = 0.5  # by how much the gap of a race (in nats) may be smaller one place further on


@dataclass(frozen=True)
class Sides:
    """`count` side trajectories of `places` each."""

    count: int
    places: int

    @property
    def total(self) -> int:
        return self.count * self.places


@dataclass(frozen=True)
class TrajectoryCache:
    """A `KVCache` as one forward sees it that goes over `window` places and, behind them, those of the side trajectories.

    These lie in the slots from `extent` on, which no window has reached yet. `adopt` moves what one of them wrote to the slots
    of the places that it stood for.
    """

    cache: KVCache
    window: int
    sides: Sides
    extent: int

    def positions(self, slots: Tensor) -> Tensor:
        return self.cache.positions(slots)

    def context_of(self, layer: int):
        return self.cache.context_of(layer)

    def places(self, slots: Tensor) -> Tensor:
        """As `KVCache.places` of slots [rows, L + sides], those behind the window standing for side trajectories."""
        side = torch.arange(self.extent, self.extent + self.sides.total, device=slots.device)
        return self.cache.places(torch.cat((slots[:, : self.window], side.expand(len(slots), -1)), 1))

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        return self.cache.write(layer, places, keys, values, extent + self.sides.total)

    def visible(self, slots: Tensor, extent: int) -> Tensor:
        """Mask [rows, L + sides, extent + sides]: the main trajectory as ever, a side one over the prefix and itself."""
        rows, sides = len(slots), self.sides
        main = self.cache.visible(slots[:, : self.window], extent)
        key = torch.arange(extent, device=slots.device)
        prefix = (key >= self.cache.padding[:rows, None]) & (key < slots[:, :1])
        step = torch.arange(sides.total, device=slots.device)
        same = step[:, None] // sides.places == step // sides.places
        own = (same & (step[:, None] >= step)).expand(rows, -1, -1)
        side = torch.cat((prefix[:, None].expand(-1, sides.total, -1), own), -1)
        return torch.cat((torch.nn.functional.pad(main, (0, sides.total)), side), 1)

    def adopt(self, winner: Tensor, slots: Tensor) -> None:
        """Let the first places of the window, in slots [rows, L], hold what trajectory `winner` [rows] wrote; 0 is the main."""
        slots = slots[:, : self.sides.places]
        side = (
            self.extent + (winner[:, None] - 1) * self.sides.places + torch.arange(slots.shape[1], device=slots.device)
        )
        to, origin = (self.cache.places(t).flatten() for t in (slots, torch.where(winner[:, None] > 0, side, slots)))
        for held in (*self.cache.keys, *self.cache.values):
            flat = held.view(-1, held.shape[-1])
            flat.index_copy_(0, to, flat.index_select(0, origin))


@dataclass(frozen=True)
class Race:
    """The Gumbel race of every place: its winner, the runner-up, and the gap between the two in nats; of one shape."""

    tokens: Tensor
    second: Tensor
    gap: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Race:
        return Race(change(self.tokens), change(self.second), change(self.gap))


class TrajectoryIteration(Iteration):
    """An iteration of M trajectories. A, L and S are rows, window and the places of a side trajectory.

    `state.sequence` holds the main trajectory's drafts, `state.sides` [B, M - 1, N + W] the others', which are the main's
    where a side trajectory has no draft of its own. The winner becomes the main trajectory.
    """

    @torch.no_grad()
    def __call__(self, shape: Shape) -> None:
        positions = self.state.committed[: shape.rows, None] + self.offsets[: shape.window]
        sides = Sides(self.settings.trajectories - 1, min(SIDE_PLACES, shape.window))
        main, _ = self.draft(positions)
        side = self.draft_sides(positions[:, : sides.places], main)
        everywhere = torch.cat((positions, positions[:, : sides.places].repeat(1, sides.count)), 1)
        cache = TrajectoryCache(self.cache, shape.window, sides, shape.extent)
        logits = self.forward(self.tokens_before_all(positions, main, side), everywhere, shape.extent, cache)
        p, sound = self.target(logits, everywhere)
        race = self.race(p, positions, sides)
        winner, best, drafts, others = self.choose(race, main, side, positions)
        branches = self.state.start.shape[1]
        slots = (positions + self.prompt_slots - 1).repeat_interleave(branches, 0)
        cache.adopt(winner.repeat_interleave(branches), slots)
        self.commit(best.tokens, drafts, positions, p, sound)
        others = self.renew(best, others, positions)
        self.state.sides[: shape.rows].scatter_(2, positions[:, None].expand(-1, sides.count, -1), others)

    def draft_sides(self, near: Tensor, main: Tensor) -> Tensor:
        """Drafts [A, M - 1, S] at `near` [A, S]."""
        own = self.state.sides[: len(near)].gather(2, near[:, None].expand(-1, self.settings.trajectories - 1, -1))
        known = self.state.known[: len(near), None, None]
        return torch.where(near[:, None] < known, own, main[:, None, : near.shape[1]])

    def tokens_before_all(self, positions: Tensor, main: Tensor, side: Tensor) -> Tensor:
        """The token in front of every place of the forward, [A, L + (M - 1) S]."""
        last = self.state.sequence[: len(positions)].gather(1, (positions[:, :1] - 1).clamp_min(0))
        beside = torch.cat((last[:, None].expand(-1, side.shape[1], -1), side[..., :-1]), -1)
        return torch.cat((last, main[:, :-1], beside.flatten(1)), 1)

    def race(self, p: Law, positions: Tensor, sides: Sides) -> Race:
        """Of the whole forward, each [A, L + (M - 1) S]. As `gumbel_max`; trajectories share the noise of a position."""
        noise = self.state.noise(positions)
        if p.codes is None:
            times = noise.exponentials(noise.every_code(p.codebook_size))
            times = torch.cat((times, times[:, : sides.places].repeat(1, sides.count, 1)), 1)
        else:
            everywhere = torch.cat((positions, positions[:, : sides.places].repeat(1, sides.count)), 1)
            times = noise.at(everywhere).exponentials(p.codes)
        times = times / p.probs
        first = times.argmin(-1)
        shortest = times.gather(-1, first[..., None]).squeeze(-1)
        next_shortest, second = times.scatter(-1, first[..., None], float("inf")).min(-1)
        return Race(p.pick(first), p.pick(second), (next_shortest / shortest).log())

    def choose(self, race: Race, main: Tensor, side: Tensor, positions: Tensor):
        """The trajectory with the longest accepted run: its number [A], race and drafts [A, L]; tokens of the others
        [A, M - 1, L]."""
        (window, (_, count, places)) = main.shape[1], side.shape
        race = race.map(lambda values: _by_trajectory(values, window, count, places))
        if self.grid.has_forced:
            forced = self.state.forced[positions][:, None]
            race = replace(race, tokens=torch.where(forced == FREE, race.tokens, forced))
        # A side trajectory's last place has no law behind it: its run ends there.
        side = torch.nn.functional.pad(side[..., : places - 1], (0, window - places + 1), value=-1)
        drafts = torch.cat((main[:, None], side), 1)  # A, M, L
        winner = (race.tokens == drafts)[..., :-1].long().cumprod(-1).sum(-1).argmax(-1)
        here = winner[:, None, None] == torch.arange(1, count + 1, device=winner.device)[:, None]
        others = torch.where(here, race.tokens[:, :1], race.tokens[:, 1:])
        return winner, race.map(lambda values: _take(values, winner)), _take(drafts, winner), others

    def renew(self, best: Race, others: Tensor, positions: Tensor) -> Tensor:
        """The `others` [A, M - 1, L]; one that begins as another trajectory does is the `best` with one runner-up."""
        _, count, window = others.shape
        ahead = positions - self.state.committed[: len(positions), None]  # of the tokens just committed
        near = torch.arange(NEAR, device=ahead.device) - ahead[:, :1]
        near = near.clamp_max(window - 1)[:, None].expand(-1, count + 1, -1)
        fronts = torch.cat((best.tokens[:, None], others), 1).gather(2, near)
        alike = (fronts[:, :, None] == fronts[:, None]).all(-1).tril(-1).any(-1)[:, 1:]  # A, M - 1: as one in front
        usable = (ahead >= 0) & (ahead < SIDE_PLACES) & (positions < self.grid.num_tokens)
        if self.grid.has_forced:
            usable = usable & (self.state.forced[positions] == FREE)
        doubt = torch.where(usable, best.gap + SLOPE * ahead, float("inf"))
        closest = doubt.topk(min(count, window), largest=False).indices
        place = closest.gather(1, (alike.long().cumsum(-1) - 1).clamp(0, closest.shape[1] - 1))  # A, M - 1
        alike = alike & doubt.gather(1, place).isfinite()
        second = best.second.gather(1, place)[..., None]
        changed = best.tokens[:, None].expand(-1, count, -1).scatter(2, place[..., None], second)
        return torch.where(alike[..., None], changed, others)


def _by_trajectory(values: Tensor, window: int, count: int, places: int) -> Tensor:
    """[A, M, L] of values [A, L + (M - 1) S]; behind their places side trajectories have the main one's."""
    main, side = values[:, None, :window], values[:, window:].unflatten(1, (count, places))
    return torch.cat((main, torch.cat((side, main[..., places:].expand(-1, count, -1)), -1)), 1)


def _take(values: Tensor, winner: Tensor) -> Tensor:
    """[A, L] of values [A, M, L]."""
    return values.gather(1, winner[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)
