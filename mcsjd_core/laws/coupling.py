"""The couplings: how a new token is drawn from its target law so that it agrees with its draft as often as possible.

A coupling gets the target laws p and draft laws q of the whole window, the drafts x ~ q, and the window's noise. What it
returns follows p; where it equals the draft, the draft is kept. To add one, write a class with the same members and
put it into `COUPLINGS`.

`recalls_later` says whether a new draft may follow a law that was given for a later position (see `decoding/recall.py`). Such a
law depends on earlier drafts of the position: who couples to these, or draws by the noise that they were drawn by, may not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fixed_point import FRACTION_BITS, NOTHING, below, running_sums, to_units
from .law import Law
from .noise import INITIAL_DRAFT, RESAMPLE, Noise

_SMALLEST = 2.0**-126  # of float32's normal numbers


def draw(weights: Tensor, bits: Tensor) -> Tensor:
    """Place [B, L] drawn in proportion to weights float32 [B, L, K] by 64 random bits int64 [B, L] each (inverse CDF).

    A position's probability differs from float64's by at most 2^-39 and 2^-22 of itself.
    """
    cumulative = running_sums(weights)
    threshold = below(cumulative[..., -1:], bits[..., None])
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_max(weights.shape[-1] - 1)


def modified_rejection(p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
    """Keep each draft with probability min(1, p(x) / q(x)), else draw from the residual max(p - q, 0).

    The result follows p, and equals the draft with probability 1 - TV(p, q); no coupling keeps more.
    """
    accept, resample = noise.accept_and_resample()
    accepted = accept * q.prob_of(drafts) < p.prob_of(drafts)
    residual = (p.probs - q.probs_at(p)).clamp_min(0)
    # Rounding can leave nothing here; p itself is then the right law. An epsilon would revive cut codes.
    residual = torch.where(residual.sum(-1, keepdim=True) > NOTHING, residual, p.probs)
    return torch.where(accepted, drafts, p.pick(draw(residual, resample)))


def gumbel_max(p: Law, noise: Noise) -> Tensor:
    """argmax(log p + g) with the positions' own Gumbel noise g, [B, L]; equal laws give equal tokens.

    Computed as a race of exponentials: argmin(exp(-g) / p).
    """
    codes = noise.every_code(p.codebook_size) if p.codes is None else p.codes
    times = noise.exponentials(codes) / p.probs
    return p.pick(times.argmin(-1))


def after_first_mismatch(tokens: Tensor, drafts: Tensor) -> Tensor:
    """Whether an earlier position of the window lost its draft, [B, L] bool."""
    mismatches = (tokens != drafts).cumsum(-1)
    return mismatches - (tokens != drafts).long() > 0


class ByRejection:
    """What the couplings have in common that keep no noise: a first draft is drawn from its law by noise of its own."""

    uses_draft_law = True
    recalls_later = False

    def first_draft(self, law: Law, noise: Noise) -> Tensor:
        """Drafts [B, L] ~ law."""
        return law.pick(draw(law.probs, noise.bits(INITIAL_DRAFT)))


class ByGumbel:
    """What the couplings have in common that draw by Gumbel noise: a first draft does so, too, and so is kept more often."""

    recalls_later = False

    def first_draft(self, law: Law, noise: Noise) -> Tensor:
        """Drafts [B, L] ~ law."""
        return gumbel_max(law, noise)


class Independent(ByRejection):
    """SJD (Teng et al., arXiv 2410.01699): after the first mismatch every token is drawn afresh."""

    label = "SJD (independent)"
    recalls_later = True  # drafts after a mismatch are drawn afresh, whatever was drawn before

    def couple(self, p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
        tokens = modified_rejection(p, q, drafts, noise)
        return torch.where(after_first_mismatch(tokens, drafts), self.renew(p, q, drafts, noise), tokens)

    def renew(self, p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
        # A position takes either road by what happened in front of it, so both may use its one resampling number.
        return p.pick(draw(p.probs, noise.bits(RESAMPLE)))

    def collision(self, p: Law, q: Law) -> Tensor:
        return (p.probs * q.probs_at(p)).sum(-1)


class Maximal(ByRejection):
    """MC-SJD with maximal coupling (arXiv 2510.24211): one modified rejection over the whole window."""

    label = "MC-SJD (maximal)"

    def couple(self, p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
        return modified_rejection(p, q, drafts, noise)

    renew = couple

    def collision(self, p: Law, q: Law) -> Tensor:
        return torch.minimum(p.probs, q.probs_at(p)).sum(-1)


class Gumbel(ByGumbel):
    """MC-SJD with Gumbel coupling (arXiv 2510.24211): after the first mismatch, Gumbel noise fixed per position."""

    label = "MC-SJD (Gumbel)"
    uses_draft_law = True

    def couple(self, p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
        tokens = modified_rejection(p, q, drafts, noise)
        return torch.where(after_first_mismatch(tokens, drafts), self.renew(p, q, drafts, noise), tokens)

    def renew(self, p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
        return gumbel_max(p, noise)

    def collision(self, p: Law, q: Law) -> Tensor:
        return gumbel_collision(p, q)


class GumbelExact(ByGumbel):
    """Seed-exact: every token is the Gumbel maximum of its target, which is what plain AR draws with the same seed."""

    label = "seed-exact (Gumbel)"
    uses_draft_law = False  # it verifies by equality, so any draft from any source will do
    recalls_later = True

    def couple(self, p: Law, q: Law | None, drafts: Tensor, noise: Noise) -> Tensor:
        return gumbel_max(p, noise)

    renew = couple

    def collision(self, p: Law, q: Law) -> Tensor:
        return gumbel_collision(p, q)


def gumbel_collision(p: Law, q: Law) -> Tensor:
    """Probability [B, L] that two Gumbel maxima with shared noise agree: sum_v 1 / sum_u max(p_u / p_v, q_u / q_v).

    max() takes p's ratio exactly where p_u / q_u >= p_v / q_v, so two running sums over the codes sorted by p / q replace
    the square of the codebook. Within 2^-20 of what float64 gives.
    """
    p_probs, q_probs = p.dense(), q.dense()
    order = (p_probs / q_probs.clamp_min(_SMALLEST)).argsort(-1)
    p_sorted, q_sorted = p_probs.gather(-1, order), q_probs.gather(-1, order)
    p_units, q_units = to_units(p_sorted), to_units(q_sorted)
    p_sums = p_units.cumsum(-1)
    p_from_here = p_sums[..., -1:] - p_sums + p_units
    q_below = q_units.cumsum(-1) - q_units
    both = (p_sorted > 0) & (q_sorted > 0)
    total = p_from_here / p_sorted.where(both, 1) + q_below / q_sorted.where(both, 1)  # in units
    return torch.where(both, 2.0**FRACTION_BITS / total, 0).sum(-1)


COUPLINGS = {
    "independent": Independent(),
    "maximal": Maximal(),
    "gumbel": Gumbel(),
    "gumbel_exact": GumbelExact(),
}
