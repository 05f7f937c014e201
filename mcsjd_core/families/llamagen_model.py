"""LlamaGen's token model: a class or a caption in front of a raster whose positions turn by row and column."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.transformer import Transformer, TransformerConfig
from .token_model import TransformerTokenModel

CAPTION_TOKENS, CAPTION_DIM = 120, 2048  # of T5's hidden states


def raster_angles(positions: Tensor, head_dim: int, theta: float, first: int, columns: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, L, head_dim / 2] of position ids [rows, L]; position `first` is the raster's first cell.

    The lower half of a head's pairs turns with the row, the upper with the column. Positions before `first` get 0 for both,
    not the identity: queries and keys of the condition vanish, and attention to it is even.
    """
    half = head_dim // 2
    frequencies = theta ** (-torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half)
    cell = (positions - first).clamp_min(0)
    row_and_column = torch.stack((cell // columns, cell % columns), -1)
    angles = (row_and_column[..., None].float() * frequencies).flatten(-2)[:, None]
    in_raster = (positions >= first)[:, None, :, None]
    return angles.cos() * in_raster, angles.sin() * in_raster


class ClassCondition(nn.Module):
    """An embedding for every class, and after them that of no class."""

    length = 1

    def __init__(self, dim: int, classes: int, operations, **factory):
        super().__init__()
        self.classes = classes
        self.embedding_table = operations.Embedding(classes + 1, dim, **factory)

    def forward(self, classes: Tensor) -> Tensor:
        """[rows, 1, dim] of classes [rows]."""
        return self.embedding_table(classes)[:, None]


class CaptionCondition(nn.Module):
    """Hidden states of captions to the width of the model; `uncond_embedding` stands for no caption."""

    length = CAPTION_TOKENS

    def __init__(self, dim: int, classes: int, operations, **factory):
        super().__init__()
        self.uncond_embedding = operations.Embedding(CAPTION_TOKENS, CAPTION_DIM, **factory)
        self.cap_proj: Any = nn.Module()
        self.cap_proj.fc1 = operations.Linear(CAPTION_DIM, dim, bias=False, **factory)
        self.cap_proj.fc2 = operations.Linear(dim, dim, bias=False, **factory)

    def forward(self, states: Tensor) -> Tensor:
        """[rows, 120, dim] of hidden states [rows, 120, width]."""
        return self.cap_proj.fc2(F.gelu(self.cap_proj.fc1(states), approximate="tanh"))

    def no_caption(self, device) -> Tensor:
        """Hidden states [120, width]."""
        return self.uncond_embedding(torch.arange(CAPTION_TOKENS, device=device))


CONDITIONS = {"c2i": ClassCondition, "t2i": CaptionCondition}


class LlamaGenModel(TransformerTokenModel):
    """The token model; `cls_embedding` makes the prompt."""

    def __init__(self, config: TransformerConfig, kind: str, codebook_size: int, columns: int, classes: int = 1000,
                 *, dtype=None, device=None, operations=nn):  # fmt: skip
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        shape = {"head_dim": config.head_dim, "theta": config.rope_theta}
        angles = partial(raster_angles, first=CONDITIONS[kind].length, columns=columns, **shape)
        transformer = Transformer(config, angles, operations=operations, **factory)
        super().__init__(transformer, codebook_size, codebook_size, operations=operations, **factory)
        self.cls_embedding = CONDITIONS[kind](config.dim, classes, operations, **factory)
