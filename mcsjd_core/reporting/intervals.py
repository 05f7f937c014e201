"""How far a mean of a few measurements can be trusted."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import NamedTuple

# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1 on; those not listed are taken from the last one before.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086)  # fmt: skip
_T95_BEYOND = ((120, 1.980), (60, 2.000), (40, 2.021), (30, 2.042), (21, 2.080))

FEWEST = 3  # values that an interval is worth showing of: of two, Student's is thirteen standard errors wide each way


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval; the bounds are NaN for a single value, which tells nothing of its spread."""

    mean: float
    low: float
    high: float


def mean_interval(values: list[float]) -> Interval:
    """Student's interval of the mean of `values`, of which there is at least one."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def quantile(degrees: int) -> float:
    """Student's t that 97.5 % lie below; too large by 2 % at most."""
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    return next(value for least, value in _T95_BEYOND if degrees >= least)
