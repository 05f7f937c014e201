"""Sums over a codebook in whole numbers: exact, equal on every device and in every order, without float64.

Apple's GPUs have no float64, and a float32 running sum over 64,000 codes is too coarse. A weight is counted in units of
2^-40 of the total and what is left over is cut: below 2^-24 of the total for 2^16 codes together, float32's own rounding.
"""

from __future__ import annotations

from torch import Tensor

FRACTION_BITS = 40  # a total is below 2^41, and 2^41 times a digit of a uniform number below 2^63
_DIGIT = 22  # bits
NOTHING = 2.0**-80  # weights that sum to less cannot be scaled


def to_units(weights: Tensor, total: Tensor | float = 1.0) -> Tensor:
    """Weights, none above `total` (NOTHING or more), in units of 2^-40 of it, cut to whole numbers: int64."""
    return (weights * (2.0**FRACTION_BITS / total)).long()


def running_sums(weights: Tensor) -> Tensor:
    """Running sums int64 [..., K] of weights float32 [..., K], scaled so that the last is near 2^40 (within 2^-20 of it).

    Weights that sum to less than NOTHING give sums of their own size, down to 0.
    """
    return to_units(weights, weights.sum(-1, keepdim=True).clamp_min(NOTHING)).cumsum(-1)


def below(total: Tensor, bits: Tensor) -> Tensor:
    """floor(u total) for total below 2^41: u is uniform in [0, 1) and made of the upper 44 of 64 random bits.

    Long multiplication, for the whole product would have 85 bits.
    """
    upper, lower = (bits >> (64 - digits * _DIGIT) & (2**_DIGIT - 1) for digits in (1, 2))
    return (upper * total + (lower * total >> _DIGIT)) >> _DIGIT
