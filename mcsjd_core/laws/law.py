"""Logits to target law: the distribution that the user asked for, and that "lossless" refers to.

Order: guidance, forbidden codes, temperature, top-k, top-p, min-p; all in float32. Every coupling verifies against, and commits
from, the law made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .fixed_point import FRACTION_BITS, to_units

LARGEST_CFG = 1000.0  # far beyond, logits leave what a float32 holds, and the model would be blamed for it


@dataclass(frozen=True)
class LawSettings:
    """What turns logits into a law. temperature 0 is greedy, top_k 0, top_p 1 and min_p 0 cut nothing, cfg_scale 1 is unguided.

    min_p (arXiv 2407.01082) cuts codes less likely than min_p times the likeliest, at the temperature asked for.
    """

    cfg_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or more, got {self.temperature}.")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise InputError(f"top_k must be 0 (off) or the number of codes to keep, got {self.top_k!r}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1 (off), got {self.top_p}.")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p must be 0 (off) or more, and at most 1, got {self.min_p}.")
        if not 0 <= self.cfg_scale <= LARGEST_CFG:
            raise InputError(
                f"cfg_scale must be between 0 and {LARGEST_CFG:g} (1 is no guidance, 3 to 8 are usual), got {self.cfg_scale}."
            )

    @property
    def guided(self) -> bool:
        return self.cfg_scale != 1.0


@dataclass(frozen=True)
class Law:
    """A distribution for every position: `probs` [B, L, K] float32 over `codes` [B, L, K], or over 0..K-1 if codes is None.

    After top-k only the survivors are kept, so that a window of laws stays small for large codebooks: top-k 2048 of 32,768
    codes takes 30,720 bytes a position (2560 entries of a float32 and an int64, a fifth of them for ties), dense 131,072.
    """

    probs: Tensor
    codes: Tensor | None
    codebook_size: int

    def prob_of(self, tokens: Tensor) -> Tensor:
        """Probability [B, L] of tokens [B, L]."""
        if self.codes is None:
            return self.probs.gather(-1, tokens[..., None]).squeeze(-1)
        return (self.probs * (self.codes == tokens[..., None])).sum(-1)

    def dense(self) -> Tensor:
        """[B, L, codebook_size]."""
        if self.codes is None:
            return self.probs
        # Added, not assigned: a point mass keeps stale codes of probability 0, which may repeat its own.
        empty = self.probs.new_zeros(*self.probs.shape[:2], self.codebook_size)
        return empty.scatter_add_(-1, self.codes, self.probs)

    def probs_at(self, other: Law) -> Tensor:
        """This law's probabilities [B, L, K] of the codes that `other` is stored for."""
        return self.dense() if other.codes is None else self.dense().gather(-1, other.codes)

    def pick(self, choice: Tensor) -> Tensor:
        """Tokens [B, L] of indices [B, L] into the K stored codes."""
        return choice if self.codes is None else self.codes.gather(-1, choice[..., None]).squeeze(-1)

    def chain(self, number: int, chains: int) -> Law:
        """The laws of that chain alone where rows are chains, [A chains, L, K]."""
        codes = None if self.codes is None else self.codes[number::chains]
        return Law(self.probs[number::chains], codes, self.codebook_size)

    def take_positions(self, offsets: Tensor) -> Law:
        """The laws at `offsets` [B', L'] along the window, of the first B' rows; a copy."""
        rows, window, size = len(offsets), self.probs.shape[1], self.probs.shape[2]
        index = (offsets + window * torch.arange(rows, device=offsets.device)[:, None]).flatten()

        def taken(values: Tensor) -> Tensor:
            return values.reshape(-1, size).index_select(0, index).view(*offsets.shape, size)

        return Law(taken(self.probs), None if self.codes is None else taken(self.codes), self.codebook_size)

    def add_points(self, where: Tensor, tokens: Tensor) -> Law:
        """Itself, with all probability on tokens [B, L] wherever `where` [B, L]; in place, and nothing may be there yet."""
        mass = where.to(self.probs.dtype)
        if self.codes is None:
            self.probs.scatter_add_(-1, tokens[..., None], mass[..., None])
        else:
            self.codes[..., 0] = torch.where(where, tokens, self.codes[..., 0])
            self.probs[..., 0] += mass
        return self

    def with_points(self, where: Tensor, tokens: Tensor) -> Law:
        """The same, with the point mass on tokens [B, L] wherever `where` [B, L]."""
        index = tokens if self.codes is None else torch.zeros_like(tokens)
        codes = self.codes
        if codes is not None:
            codes = codes.clone()
            codes[..., 0] = torch.where(where, tokens, codes[..., 0])
        point = torch.zeros_like(self.probs).scatter_(-1, index[..., None], 1.0)
        return Law(torch.where(where[..., None], point, self.probs), codes, self.codebook_size)


def empty_law(shape: tuple[int, int], codebook_size: int, settings: LawSettings, device) -> Law:
    """Room for laws of positions [B, L] as `target_law` makes them: nothing has any probability yet."""
    width = codebook_size
    if truncates := 0 < settings.top_k < codebook_size:
        width = stored_codes(codebook_size, settings.top_k)
    if greedy := settings.temperature == 0:
        width = 1
    probs = torch.zeros(*shape, width, device=device)
    codes = torch.zeros(*shape, width, dtype=torch.long, device=device) if truncates or greedy else None
    return Law(probs, codes, codebook_size)


def point_law(tokens: Tensor, codebook_size: int) -> Law:
    """All probability on tokens [B, L]."""
    return Law(torch.ones(*tokens.shape, 1, device=tokens.device), tokens[..., None], codebook_size)


def guide(logits: Tensor, cfg_scale: float) -> Tensor:
    """Guided logits [B, L, V] of alternating conditional and unconditional rows [2 B, L, V] (Ho and Salimans, 2022).

    What is impossible (minus infinity) under either row stays impossible.
    """
    cond, uncond = logits.float().unflatten(0, (-1, 2)).unbind(1)
    # Infinity less infinity is no number, and 0 times infinity is none either.
    impossible = torch.minimum(cond, uncond) == float("-inf")
    return (uncond + cfg_scale * (cond - uncond)).masked_fill(impossible, float("-inf"))


def usable(logits: Tensor) -> Tensor:
    """Whether a distribution can be made of logits [B, L, V]: bool scalar, False for NaN, infinity or nothing allowed."""
    return logits.amax(-1).isfinite().all()


def target_law(logits: Tensor, settings: LawSettings) -> Law:
    """The target law of guided logits [B, L, V] float32, in which forbidden codes are minus infinity."""
    codebook_size = logits.shape[-1]
    if settings.temperature == 0:
        return point_law(logits.argmax(-1), codebook_size)
    logits, codes = _cooled(logits, settings.temperature), None
    if 0 < settings.top_k < codebook_size:
        logits, codes = _top_k(logits, settings.top_k)
    probs = logits.softmax(-1)
    kept = _top_p(probs, settings.top_p) if settings.top_p < 1 else probs
    return Law(_min_p(kept, settings.min_p) if settings.min_p > 0 else kept, codes, codebook_size)


def _cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, shifted by the largest of them, so that no small temperature overflows."""
    if temperature == 1:
        return logits
    # A reciprocal of what is below the limit would be infinite; the law is greedy long before.
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-37)


def stored_codes(codebook_size: int, k: int) -> int:
    """Codes that a law after top-k has room for: half-precision models tie often, and the published samplers keep ties, so it
    is a quarter more than k."""
    return min(codebook_size, k + max(k // 4, 8))


def _top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits and their codes, sorted, and what ties with the last of them.

    Of more ties than there is room for, those stay which torch.topk lists first: the law is then one over that choice.
    """
    values, codes = logits.topk(stored_codes(logits.shape[-1], k), dim=-1)
    return values.masked_fill(values < values[..., k - 1 : k], float("-inf")), codes


def _top_p(probs: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of codes whose probability reaches top_p (and ties with its last), renormalised."""
    ordered = probs.sort(-1, descending=True).values
    units = to_units(ordered)
    before = units.cumsum(-1) - units  # mass in front of each
    wanted = max(1, int(top_p * 2**FRACTION_BITS))  # the likeliest code stays in any case
    last = ordered.masked_fill(before >= wanted, float("inf")).amin(-1, keepdim=True)
    kept = probs * (probs >= last)
    return kept / kept.sum(-1, keepdim=True)


def _min_p(probs: Tensor, min_p: float) -> Tensor:
    """Zero codes below min_p times the largest probability, renormalised. What was cut before changed no ratio of the rest."""
    kept = probs * (probs >= min_p * probs.amax(-1, keepdim=True))
    return kept / kept.sum(-1, keepdim=True)
