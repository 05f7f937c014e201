"""Pictures made fit for a codec: shape, channels, no distortion, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mcsjd_core import InputError
from mcsjd_core.pipeline.pixels import fit, fit_frames


def test_a_picture_of_the_right_size_stays_as_it_is():
    picture = torch.rand(2, 3, 8, 12)
    assert torch.equal(fit(picture, 12, 8), picture)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (40, 5), (64, 64), (7, 9), (1, 300), (300, 1)])
def test_every_shape_comes_out_at_the_size_asked_for(shape):
    fitted = fit(torch.rand(1, 3, *shape), 12, 8)
    assert fitted.shape == (1, 3, 8, 12) and fitted.min() >= 0 and fitted.max() <= 1


@pytest.mark.parametrize("axis", [2, 3])
def test_what_reaches_over_is_cut_off_on_both_sides_alike(axis):
    """A long picture, black at its ends and white in its middle half, has only the middle left."""
    picture = torch.zeros(1, 3, 32, 32).narrow(5 - axis, 0, 16)
    picture.narrow(axis, 8, 16).fill_(1.0)
    assert fit(picture, 16, 16).min() == 1.0


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (64, 96), (33, 200), (64, 97), (300, 31), (40, 60)])
def test_start_frames_are_scaled_as_nvidia_s_code_does_it(shape):
    """Bilinear to sides rounded up, then the middle; Pillow's own filter, on whole bytes, is the reference."""
    width, height = 96, 64
    frame = torch.randint(256, (*shape, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    scale = max(width / shape[1], height / shape[0])
    sides = [math.ceil(scale * side) for side in shape]
    scaled = Image.fromarray(frame.numpy()).resize(sides[::-1], Image.Resampling.BILINEAR)
    top, left = round((sides[0] - height) / 2), round((sides[1] - width) / 2)
    theirs = torch.from_numpy(np.array(scaled.crop((left, top, left + width, top + height)))).movedim(-1, 0)[None]
    ours = fit_frames(frame.movedim(-1, 0)[None] / 255, width, height)
    assert (ours - theirs / 255).abs().max() < 1.01 / 255


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (5, 40)])
def test_frames_of_every_shape_come_out_at_the_size_asked_for(shape):
    assert fit_frames(torch.rand(2, 1, *shape), 12, 8).shape == (2, 3, 8, 12)


def test_a_circle_stays_a_circle():
    """Scaling is the same in both directions: a disc in a wide picture fits a disc of the same share of the height."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(128) - 63.5, indexing="ij")
    disc = ((x**2 + y**2).sqrt() < 24).float().expand(1, 3, -1, -1)
    fitted = fit(disc, 32, 32)[0, 0]
    wanted = torch.pi * 12**2
    assert fitted.sum() == pytest.approx(wanted, rel=0.02)
    assert fitted.sum(0).gt(0.5).sum() == fitted.sum(1).gt(0.5).sum()


def test_grey_gets_three_channels_and_transparency_lies_on_white():
    grey = fit(torch.full((1, 1, 4, 4), 0.25), 4, 4)
    assert torch.equal(grey, torch.full((1, 3, 4, 4), 0.25))
    picture = torch.zeros(1, 4, 2, 2)
    picture[:, 3, 0, 0] = 1.0
    fitted = fit(picture, 2, 2)
    assert (fitted[..., 0, 0] == 0).all() and fitted.sum() == 3 * 3


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0), (1, 2, 4, 4), (3, 4, 4), (1, 5, 4, 4)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(InputError, match="pixel"):
        fit(torch.zeros(shape), 4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_brightness_are_refused(value):
    with pytest.raises(InputError, match="finite"):
        fit(torch.full((1, 3, 2, 2), value), 4, 4)


def test_whole_numbers_are_refused():
    with pytest.raises(InputError, match="floating-point"):
        fit(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), 4, 4)
