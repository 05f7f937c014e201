"""Haar patches of a video: pixels traded for channels, exactly and without weights."""

from __future__ import annotations

import torch
from torch import Tensor

TIME, HEIGHT, WIDTH = 2, 3, 4


def haar(video: Tensor) -> Tensor:
    """[B, 8 C, T / 2, H / 2, W / 2] of a video [B, C, T, H, W]: means and half differences of neighbours.

    Channels are ordered by their band in time, then in height, in width, then by the channel they come from.
    """
    for axis in (WIDTH, HEIGHT, TIME):
        first, second = video.unflatten(axis, (-1, 2)).unbind(axis + 1)
        video = torch.cat((first + second, first - second), 1) / 2
    return video


def inverse_haar(bands: Tensor) -> Tensor:
    """The video [B, C, T, H, W] of its bands [B, 8 C, T / 2, H / 2, W / 2]."""
    for axis in (TIME, HEIGHT, WIDTH):
        mean, difference = bands.chunk(2, 1)
        bands = torch.stack((mean + difference, mean - difference), axis + 1).flatten(axis, axis + 1)
    return bands
