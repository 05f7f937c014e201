"""Intervals of means: they cover the true mean as often as they say."""

from __future__ import annotations

import math

import pytest
import torch

from mcsjd_core.reporting.intervals import mean_interval, quantile
from mcsjd_core.reporting.tables import mean_and_half_width


@pytest.mark.parametrize("count", [2, 5, 24, 64])
def test_intervals_cover_the_mean_in_95_of_100_samples(count):
    samples = torch.randn(4000, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    covered = sum(low <= 0 <= high for _, low, high in map(mean_interval, samples.tolist()))
    assert 0.938 < covered / 4000 < 0.962


def test_quantiles_fall_towards_the_normal_one():
    values = [quantile(degrees) for degrees in range(1, 200)]
    assert values == sorted(values, reverse=True) and 1.96 < values[-1] < 1.99


def test_one_value_has_no_interval():
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0 and math.isnan(low) and math.isnan(high)


def test_what_follows_a_mean_is_half_of_student_s_interval():
    values = [float(i) for i in range(32)]
    deviation = math.sqrt(sum((v - 15.5) ** 2 for v in values) / 31)
    mean, half = map(float, mean_and_half_width(values).split(" ± "))
    assert mean == 15.5 and half == pytest.approx(2.0395 * deviation / math.sqrt(32), abs=0.01)


@pytest.mark.parametrize("values", [[2.5], [2.0, 3.0]])
def test_of_fewer_than_three_values_the_mean_alone_is_told(values):
    assert mean_and_half_width(values, 1) == "2.5"
