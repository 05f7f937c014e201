"""Any picture made fit for a codec: three channels, and the model's size without distortion."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

LONGEST = 32  # times the wanted length: frames that scaling would make longer are cut first


def fit(pictures: Tensor, width: int, height: int) -> Tensor:
    """Pictures [B, 3, height, width] float32 in 0..1 of pictures [B, C, H, W] in 0..1.

    Scaled until both sides are covered, then cropped at the centre. Grey pictures (C = 1)
    get three equal channels; where a picture is transparent (C = 4) it lies on white.
    """
    return _cover(_checked(pictures), width, height).clamp(0, 1)


def fit_frames(frames: Tensor, width: int, height: int) -> Tensor:
    """As `fit`, scaled as NVIDIA's code prepares the frames that a video continues: bilinear to sides rounded up, then cut
    in the middle."""
    frames = _checked(frames)
    scale = max(width / frames.shape[3], height / frames.shape[2])
    size = [max(math.ceil(scale * side), least) for side, least in zip(frames.shape[2:], (height, width), strict=True)]
    if max(size) > LONGEST * max(height, width):  # cut before scaling, so that no extreme shape becomes huge
        return _cover(frames, width, height).clamp(0, 1)
    if list(frames.shape[2:]) != size:
        frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return frames[:, :, top : top + height, left : left + width].clamp(0, 1)


def _checked(pictures: Tensor) -> Tensor:
    """Three channels in 0..1; raises InputError for what is no picture."""
    if pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[1] not in (1, 3, 4):
        shape = list(pictures.shape)
        raise InputError(f"A picture needs at least one pixel and 1, 3 or 4 channels, got [B, C, H, W] = {shape}.")
    if not pictures.is_floating_point():
        raise InputError(f"A picture needs floating-point values, got {pictures.dtype}.")
    if not pictures.isfinite().all():
        raise InputError("A picture needs finite values, but this one has NaN or infinity in it.")
    return _three_channels(pictures.float().clamp(0, 1))


def _three_channels(pictures: Tensor) -> Tensor:
    if pictures.shape[1] == 4:
        colours, opacity = pictures[:, :3], pictures[:, 3:]
        return colours * opacity + (1 - opacity)
    return pictures.expand(-1, 3, -1, -1)


def _cover(pictures: Tensor, width: int, height: int) -> Tensor:
    """Scale and cut to height x width; what is cut is cut before scaling, so that no extreme shape becomes huge."""
    kept = cover_cut(pictures, width, height)
    if kept.shape[2:] == (height, width):
        return kept
    return F.interpolate(kept, size=(height, width), mode="bicubic", antialias=True, align_corners=False)


def cover_cut(pictures: Tensor, width: int, height: int) -> Tensor:
    """The middle of pictures [B, C, H, W] that has the shape of width x height, at the pictures' own scale."""
    old_height, old_width = pictures.shape[2:]
    scale = max(width / old_width, height / old_height)
    kept_height = min(old_height, max(1, round(height / scale)))
    kept_width = min(old_width, max(1, round(width / scale)))
    top, left = (old_height - kept_height) // 2, (old_width - kept_width) // 2
    return pictures[:, :, top : top + kept_height, left : left + kept_width]
