"""Several drafts for every position: M chains of drafts for one window, verified by recursive rejection.

Every draft was drawn from its own law with its own noise, so those of a position are independent; then the token that a
position takes follows the target, whichever chain offered it (Miao et al., arXiv 2305.09781; Jeon et al., arXiv 2402.14160).
The order of the chains is fixed beforehand: nothing is ever chosen for its acceptance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .coupling import draw
from .fixed_point import NOTHING
from .law import Law
from .noise import Noise

UNDECIDED = -1


def same_prefix(drafts: Tensor) -> Tensor:
    """Whether two chains agree before a position, [A, M, M, L] bool of drafts [A, M, L]."""
    equal = (drafts[:, :, None] == drafts[:, None])[..., :-1].long().cumprod(-1).bool()
    return torch.nn.functional.pad(equal, (1, 0), value=True)


def recursive_rejection(p: Law, q: Law, drafts: Tensor, noise: Noise) -> Tensor:
    """Tokens [A, M, L] of drafts [A, M, L] ~ q: at every position one for all chains that agree before it.

    Rows of the laws and of the noise are chains, [A M, L, K]. The chains that agree are offered in turn: each is taken with
    probability min(1, r(x) / q(x)), r being what the earlier ones have left of p; after the last, r itself is drawn from.
    """
    chains, together = drafts.shape[1], same_prefix(drafts)
    accept, resample = (uniform.view(drafts.shape) for uniform in noise.accept_and_resample())
    own = q.prob_of(drafts.flatten(0, 1)).view(drafts.shape)
    rest = p.probs.unflatten(0, (-1, chains)).clone()  # of p, in proportion: [A, M, L, K], the first M being who leads
    tokens = torch.full_like(drafts, UNDECIDED)
    for m in range(chains):
        leaders, x = slice(0, m + 1), drafts[:, m : m + 1]
        mass = rest[:, leaders].sum(-1)
        offered = together[:, leaders, m] & (tokens[:, leaders] == UNDECIDED)
        left_of_x = _prob_of(p, rest[:, leaders], x)
        taken = offered & (accept[:, m : m + 1] * own[:, m : m + 1] * mass < left_of_x)
        tokens[:, leaders] = torch.where(taken, x, tokens[:, leaders])
        less = (rest[:, leaders] - mass[..., None] * _at_leaders(p, q, m, chains)).clamp_min(0)
        # Rounding can leave nothing; what was there before is then the right law, as in `modified_rejection`.
        refused = offered & ~taken & (less.sum(-1) > NOTHING)
        rest[:, leaders] = torch.where(refused[..., None], less, rest[:, leaders])
    drawn = p.pick(draw(rest.flatten(0, 1), resample.flatten(0, 1))).view(drafts.shape)
    tokens = torch.where(tokens == UNDECIDED, drawn, tokens)
    speaker = together.long().argmax(2)  # the first chain that agrees speaks for all
    return tokens.gather(1, speaker)


def _prob_of(p: Law, weights: Tensor, x: Tensor) -> Tensor:
    """Weights [A, m, L, K], laid out as p's rows, of tokens x [A, 1, L]."""
    if p.codes is None:
        return weights.gather(-1, x[..., None].expand(-1, weights.shape[1], -1, -1)).squeeze(-1)
    codes = p.codes.unflatten(0, (len(weights), -1))[:, : weights.shape[1]]
    return (weights * (codes == x[..., None])).sum(-1)


def _at_leaders(p: Law, q: Law, chain: int, chains: int) -> Tensor:
    """The probabilities of the chain's draft law for the codes of the leaders up to it, [A, m, L, K] (m = 1 if all codes)."""
    dense = q.chain(chain, chains).dense()[:, None]
    if p.codes is None:
        return dense
    codes = p.codes.unflatten(0, (-1, chains))[:, : chain + 1]
    return dense.expand(-1, chain + 1, -1, -1).gather(-1, codes)


def couple_chains(rule, p: Law, q: Law, drafts: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """New tokens [A, M, L] of every chain, and whether its draft was kept: the longest leading run of kept ones is committed.

    Laws and noise have a row for every chain, as in `recursive_rejection`. After its run a chain continues on its own, by the
    rule of the coupling for drafts after a mismatch.
    """
    tokens = recursive_rejection(p, q, drafts, noise)
    kept = tokens == drafts
    run = kept.long().cumprod(-1).sum(-1, keepdim=True)
    after_run = torch.arange(drafts.shape[-1], device=drafts.device) > run
    return torch.where(after_run, rule.renew(p, q, drafts.flatten(0, 1), noise).view_as(drafts), tokens), kept
