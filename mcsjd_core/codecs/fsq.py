"""Finite scalar quantisation (Mentzer et al., 2023, arXiv 2309.15505): codes without a codebook.

Every channel of a latent vector is rounded to one of a few levels, and the code counts the combinations of levels, the
first channel fastest.
"""

from __future__ import annotations

from math import atanh, prod

import torch
from torch import Tensor

from ..errors import InputError

EPS = 1e-3  # by how much the bounds lie outside the outermost levels, so that those are reached


class FiniteScalarQuantizer:
    """Rounding, codes and vectors for channels of `levels` levels each. A level is a multiple of 1 / (levels // 2)."""

    def __init__(self, levels: tuple[int, ...]):
        if not levels or min(levels) < 2:
            raise InputError(f"Every channel of a quantiser needs at least 2 levels, got {list(levels)}.")
        self.levels = tuple(levels)
        self.codebook_size = prod(levels)

    def bound(self, z: Tensor) -> Tensor:
        """z [..., channels] squashed to the range of the levels, in steps of 1: rounding it gives the level."""
        half_width = [(level - 1) * (1 + EPS) / 2 for level in self.levels]
        offset = [0.0 if level % 2 else 0.5 for level in self.levels]
        shift = [atanh(o / w) for o, w in zip(offset, half_width, strict=True)]
        return (z + z.new_tensor(shift)).tanh() * z.new_tensor(half_width) - z.new_tensor(offset)

    def quantize(self, z: Tensor) -> Tensor:
        """Vector [..., channels] of levels nearest to latents z, each level in -1..1."""
        return self.bound(z).round() / z.new_tensor([level // 2 for level in self.levels])

    def codes(self, vectors: Tensor) -> Tensor:
        """Codes [...] int64 of vectors [..., channels] that `quantize` or `vectors` gave."""
        half, basis = self._integers(vectors.device)
        return ((vectors * half + half).round().long() * basis).sum(-1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Vectors [..., channels] float32 of codes [...]."""
        half, basis = self._integers(codes.device)
        digits = codes[..., None] // basis % torch.tensor(self.levels, device=codes.device)
        return (digits - half).float() / half

    def _integers(self, device) -> tuple[Tensor, Tensor]:
        """Half the levels of every channel, and the code's step for one level of it."""
        half = [level // 2 for level in self.levels]
        basis = [prod(self.levels[:i]) for i in range(len(self.levels))]
        return torch.tensor(half, device=device), torch.tensor(basis, device=device)
