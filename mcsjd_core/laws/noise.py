"""Counter-based randomness: every number is a hash of what it is for.

A number depends on (row's seed, purpose, position, and step or code) alone: not on the window, the batch, the device or the
order of evaluation, so it is computed only where it is needed, and torch's global random state is never touched. The hash is
SplitMix64 (Steele, Lea and Flood, 2014), applied once per key.

A row that begins with given tokens has a seed of its own, see `seeds_given`: such tokens may have been drawn from this very
noise. docs/algorithm.md has the rule and its proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Purposes. Two draws with different purposes are independent.
ACCEPT, RESAMPLE, GUMBEL, INITIAL_DRAFT, GIVEN, ROW = range(1, 7)

_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    mask = (1 << (64 - bits)) - 1  # >> copies the sign; this makes it a logical shift
    return (x >> bits).bitwise_and_(mask).bitwise_xor_(x)


def mix(key: Tensor, counter: Tensor | int) -> Tensor:
    """Output number `counter` of the SplitMix64 stream that starts at `key`; int64, all 64 bits random."""
    step = counter + 1
    x = key + (_signed(step * _GAMMA) if isinstance(step, int) else step * _signed(_GAMMA))
    x = _xor_shift(x, 30).mul_(_signed(_FIRST))
    x = _xor_shift(x, 27).mul_(_signed(_SECOND))
    return _xor_shift(x, 31)


def to_uniform(bits: Tensor) -> Tensor:
    """Float32 strictly between 0 and 1: the nearest to an odd multiple of 2^-53, 52 random bits each.

    So numbers near 0 are resolved to 2^-53, as an acceptance by a small ratio needs it, and those near 1 to 2^-24; a number
    falls below r with probability r (1 + e), |e| at most 2^-24.
    """
    odd = ((bits >> 11) & (2**53 - 1)) | 1
    return (odd.float() * 2.0**-53).clamp_max(1 - 2.0**-24)


def to_exponential(bits: Tensor) -> Tensor:
    """Standard exponential variates, float32: `-log(u)`, so that `-log(exponential)` is a standard Gumbel.

    Taken as -log1p(-u): the smallest variates decide a race, and float32 resolves u near 0 to 2^-52, near 1 only to 2^-24.
    """
    return -torch.log1p(-to_uniform(bits))


def row_seeds(seed: int, batch: int, device) -> Tensor:
    """Seeds [batch] of the rows of a batch: row b uses `seed + b`, so it equals a single run with that seed."""
    return _signed(seed) + torch.arange(batch, device=device)  # whole numbers of 64 bits go round


def own_row_seeds(seed: int, batch: int, device) -> Tensor:
    """Seeds [batch] that no batch of another seed shares: the first is the seed itself, the others are hashed from it."""
    row = torch.arange(batch, device=device)
    first = row_seeds(seed, 1, device)
    return torch.where(row == 0, first, mix(mix(first, ROW), row))


def seeds_given(seeds: Tensor, tokens: Tensor, part: int = 0) -> Tensor:
    """Seeds [B] for rows in which tokens [B, n] are given at the first n positions; a negative one is not given, but drawn.

    They differ for other tokens, other positions, and another `part` of a result that is continued from itself. Where nothing is
    given they are the seeds themselves. Nothing is read from the device.
    """
    key = torch.full_like(tokens, GIVEN)
    of_token = mix(mix(key, torch.arange(tokens.shape[1], device=tokens.device)), tokens)
    digest = mix(of_token.where(tokens >= 0, 0).sum(1), part)
    mixed = mix(mix(seeds, GIVEN), digest)
    return mixed if part else torch.where((tokens >= 0).any(1), mixed, seeds)


@dataclass(frozen=True)
class Noise:
    """The randomness of one iteration's window: rows with `seeds` [B], at `positions` [B, L], iteration `step`: a number for
    all, or one for each row [B]."""

    seeds: Tensor
    positions: Tensor
    step: int | Tensor
    keys: Tensor | None = None  # a run that asks for many windows computes them once, see `position_keys`
    codes: Tensor | None = None  # all of the codebook, [V]
    chain: int = 0  # of several drafts of a window (see `chains`): each has noise of its own

    def _keys(self, first: int, last: int) -> Tensor:
        """[B, purposes, L] for the purposes `first` to `last`."""
        if self.keys is None:
            purposes = torch.arange(first, last + 1, device=self.seeds.device) + self.chain * ROW
            return mix(mix(mix(self.seeds[:, None], purposes), 0)[..., None], self.positions[:, None])
        index = self.positions[:, None].expand(-1, last - first + 1, -1)
        return self.keys[:, first - 1 : last].gather(2, index)

    def _steps(self) -> int | Tensor:
        """`step` against keys [B, purposes, L]."""
        return self.step if isinstance(self.step, int) else self.step[:, None, None]

    def bits(self, purpose: int) -> Tensor:
        """Fresh for every position and iteration; [B, L] int64, all 64 bits random."""
        return mix(self._keys(purpose, purpose), self._steps()).squeeze(1)

    def uniform(self, purpose: int) -> Tensor:
        """Fresh for every position and iteration; [B, L] float32 in (0, 1)."""
        return to_uniform(self.bits(purpose))

    def accept_and_resample(self) -> tuple[Tensor, Tensor]:
        """`uniform(ACCEPT)` and `bits(RESAMPLE)`, in half the operations."""
        accept, resample = mix(self._keys(ACCEPT, RESAMPLE), self._steps()).unbind(1)
        return to_uniform(accept), resample

    def exponentials(self, codes: Tensor) -> Tensor:
        """One per position and code, the same in every iteration; [B, L, K] for codes [B, L, K] or [K]."""
        return to_exponential(mix(self._keys(GUMBEL, GUMBEL).squeeze(1)[..., None], codes))

    def every_code(self, codebook_size: int) -> Tensor:
        """[V], for `exponentials`. A compiler that sees them counted up may do the hash in fewer bits: pass them as data."""
        return torch.arange(codebook_size, device=self.seeds.device) if self.codes is None else self.codes

    def random_codes(self, codebook_size: int) -> Tensor:
        """A code [B, L] for every position, uniform and the same in every iteration: first drafts."""
        keys = self._keys(INITIAL_DRAFT, INITIAL_DRAFT).squeeze(1)
        # 2^46 equally likely numbers over at most 2^17 codes: no code is favoured by more than 2^-29.
        return (((keys >> 18) & (2**46 - 1)) * codebook_size) >> 46

    def position_keys(self) -> Tensor:
        """`keys` for other windows over the same positions, which count from 0: [B, purposes, L]."""
        return self._keys(ACCEPT, INITIAL_DRAFT)
