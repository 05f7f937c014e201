"""Finite scalar quantisation: codes counted by plain arithmetic, vectors from the formula, every code of the public model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mcsjd_core.codecs.fsq import FiniteScalarQuantizer
from mcsjd_core.errors import InputError

PUBLISHED = (8, 8, 8, 5, 5, 5)


def counted(levels: tuple[int, ...]) -> np.ndarray:
    """Vectors of all codes in order, float64: numpy's mixed-radix counting, the first channel fastest."""
    digits = np.stack(np.unravel_index(np.arange(math.prod(levels)), levels, order="F"), -1)
    half = np.array([level // 2 for level in levels])
    return (digits - half) / half


@pytest.mark.parametrize("levels", [PUBLISHED, (8, 8, 8, 8), (5, 4, 4, 3), (2, 3)])
def test_codes_and_vectors_are_each_others_inverse_for_every_code(levels):
    fsq, codes = FiniteScalarQuantizer(levels), torch.arange(math.prod(levels))
    assert fsq.codebook_size == len(codes)
    vectors = fsq.vectors(codes)
    assert np.array_equal(vectors.double().numpy(), counted(levels).astype(np.float32).astype(np.float64))
    assert torch.equal(fsq.codes(vectors), codes)
    assert torch.equal(fsq.codes(vectors.bfloat16().float()), codes) or any(
        level not in (2, 4, 5, 8) for level in levels
    )


@pytest.mark.parametrize("levels", [PUBLISHED, (5, 4, 4, 3), (2, 3)])
def test_a_quantised_vector_is_nearest_to_the_bounded_latent(levels):
    """By the paper's formula in float64, with a search over all levels in place of rounding."""
    z = torch.randn(4000, len(levels), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    got = FiniteScalarQuantizer(levels).quantize(z).numpy()
    for channel, level in enumerate(levels):
        half, offset = (level - 1) * 1.001 / 2, 0.0 if level % 2 else 0.5
        bounded = np.tanh(z[:, channel].numpy() + math.atanh(offset / half)) * half - offset
        steps = np.arange(level) - level // 2
        expected = steps[np.abs(bounded[:, None] - steps).argmin(1)] / (level // 2)
        assert np.array_equal(got[:, channel], expected)
        assert len(np.unique(got[:, channel])) == level  # the outermost levels are reached, too


def test_values_of_the_published_model():
    fsq = FiniteScalarQuantizer(PUBLISHED)
    known = {0: (-1, -1, -1, -1, -1, -1), 63999: (0.75, 0.75, 0.75, 1, 1, 1), 31000: (-1, -0.25, 0, -1, 0, 0)}
    for code, vector in known.items():
        assert fsq.vectors(torch.tensor(code)).tolist() == list(vector)
    z = torch.tensor([0, 0.3, -0.3, 1, -1, 5])
    assert fsq.quantize(z).tolist() == [0, 0.25, -0.25, 1, -1, 1]
    assert fsq.codes(fsq.quantize(z)).item() == 53484
    assert fsq.codes(torch.zeros(6)).item() == 32036


@pytest.mark.parametrize("levels", [(), (8, 1)])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(InputError, match="at least 2 levels"):
        FiniteScalarQuantizer(levels)
