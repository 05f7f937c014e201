"""Building blocks that several model families use unchanged: rotary embedding and per-head norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, L, head_dim / 2] in float32 for position ids [rows, L] (Su et al., arXiv 2104.09864).

    Computed anew instead of kept as a table: there is no length to exceed and no buffer to move between devices.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions[:, None, :, None].float() * frequencies
    return angles.cos(), angles.sin()


def plane_angles(positions: Tensor, sections: tuple[int, ...], head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, L, head_dim / 2] in float32 for positions [rows, L, axes]; or [rows, L], alike on all axes.

    Pairs of channels are shared out to the axes in contiguous `sections`; those after the last section do not turn.
    """
    if positions.ndim == 2:
        positions = positions[..., None].expand(-1, -1, len(sections))
    turning = sum(sections)
    frequencies = theta ** (-torch.arange(turning, device=positions.device, dtype=torch.float32) / turning)
    parts = [
        axis[..., None].float() * part
        for axis, part in zip(positions.unbind(-1), frequencies.split(sections), strict=True)
    ]
    angles = F.pad(torch.cat(parts, -1), (0, head_dim // 2 - turning))[:, None]
    return angles.cos(), angles.sin()


def spread_pairs(rows: Tensor, head_dim: int, turning: int) -> Tensor:
    """Rows [heads * head_dim, ...] of queries or keys whose pairs lie in a head's first 2 * `turning` channels, for `rotate`.

    There the partners are half a head apart, and the pairs that turn come first. Scores do not depend on the order.
    """
    channel = torch.arange(head_dim)
    rest = channel[2 * turning :].chunk(2)
    order = torch.cat((channel[:turning], rest[0], channel[turning : 2 * turning], rest[1]))
    return rows.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


def rotation(angles: tuple[Tensor, Tensor], dtype: torch.dtype, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Factors [rows, 1, L, head_dim] of a channel and of its partner, for `rotate`; made once for all layers."""
    cos, sin = (angle.to(dtype) for angle in angles)

    def channels(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack((first, second), -1).flatten(-2) if interleaved else torch.cat((first, second), -1)

    return channels(cos, cos), channels(-sin, sin)


def rotate(x: Tensor, factors: tuple[Tensor, Tensor], interleaved: bool) -> Tensor:
    """Turn the pairs of x [rows, heads, L, head_dim]: (i, i + head_dim / 2), or (2i, 2i + 1) when interleaved.

    Computed in the factors' dtype if that is wider; the result has x's.
    """
    own, partners = factors
    partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * own, partner, partners).to(x.dtype)


class HeadNorm(nn.Module):
    """Norm over each head's channels, x [rows, heads, L, head_dim]; `weight` (and `bias`) are [groups, head_dim].

    `groups` divides the heads; consecutive heads share a row (Chameleon stores 1 or `heads` rows). kind "layer" subtracts
    the mean and has a bias, "rms" does neither.
    """

    def __init__(self, kind: str, groups: int, head_dim: int, eps: float, *, dtype=None, device=None):
        super().__init__()
        self.kind, self.eps = kind, eps
        self.weight = nn.Parameter(torch.ones(groups, head_dim, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(groups, head_dim, dtype=dtype, device=device)) if kind == "layer" else None

    def _per_group(self, rows: Tensor, x: Tensor) -> Tensor:
        # A host that offloads weights moves only the layers it knows; this one follows its input by itself.
        return rows.to(device=x.device, dtype=x.dtype)[:, None, None]  # groups, 1 head, 1 position, head_dim

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (len(self.weight), -1))
        if self.kind == "layer":
            y = F.layer_norm(grouped.float(), x.shape[-1:], eps=self.eps).to(x.dtype)
            assert self.bias is not None
            y = y * self._per_group(self.weight, x) + self._per_group(self.bias, x)
        else:
            y = F.rms_norm(grouped.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self._per_group(self.weight, x)
        return y.flatten(1, 2)
