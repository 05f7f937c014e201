"""Figures of reconstructed pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FILTERS, WIDTH = 128, 7  # of the random features
RIDGE = 1e-6


def psnr(picture: Tensor, pixels: Tensor) -> float:
    """Mean over pictures [B, 3, H, W] in 0..1 of the peak signal-to-noise ratio, dB."""
    error = (picture - pixels).square().flatten(1).mean(1)
    return (-10 * error.clamp_min(1e-10).log10()).mean().item()


def random_features(pixels: Tensor) -> Tensor:
    """[n, FILTERS] of pictures [B, 3, H, W]: rectified responses of fixed random filters, means of 8 x 8 px."""
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(FILTERS, 3, WIDTH, WIDTH, generator=generator)
    filters -= filters.mean((2, 3), keepdim=True) * (torch.arange(FILTERS) % 4 > 0)[:, None, None, None]
    filters = (filters / filters.flatten(1).norm(dim=1)[:, None, None, None]).to(pixels.device)
    responses = F.relu(F.conv2d(pixels * 2 - 1, filters, padding=WIDTH // 2))
    return F.avg_pool2d(responses, 8).movedim(1, -1).flatten(0, 2)


def feature_distance(pictures: Tensor, pixels: Tensor, batch: int = 16) -> float:
    """Frechet distance between the random features of two sets of pictures [B, 3, H, W]; 0 if equally distributed.

    As Frechet inception distance, but the features need no trained network; only values of this function compare.
    """
    sets = (torch.cat([random_features(p) for p in s.split(batch)]).double() for s in (pictures, pixels))
    (mean_a, cov_a), (mean_b, cov_b) = ((f.mean(0), torch.cov(f.T)) for f in sets)
    cross = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(RIDGE**2).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()
