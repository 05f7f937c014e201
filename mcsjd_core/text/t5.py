"""The encoder of T5 (Raffel et al., 2020, arXiv 1910.10683), version 1.0 (ReLU) and 1.1 (gated GELU), as Flan-T5 has it.

Modules bear the names that the published files have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class T5Config:
    """The sizes of an encoder; `activation` is one of ACTIVATIONS, `gated` whether its feed-forward layers have two inputs."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    activation: str = "relu"
    gated: bool = False
    buckets: int = 32  # of distances between tokens
    max_distance: int = 128  # tokens further apart share the last bucket
    norm_eps: float = 1e-6


ACTIVATIONS = {"relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}


def distance_buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    """Bucket [length, length] of the distance from a query (row) to a key: half are for later keys, half for earlier ones.

    Of a half, the first 50 % are for one distance each, the others for ranges that grow as the logarithm does.
    """
    positions = torch.arange(length)
    distance = positions[None] - positions[:, None]
    half = buckets // 2
    single, far = half // 2, distance.abs()
    steps = (far.clamp_min(1).float() / single).log() / math.log(max_distance / single) * (half - single)
    ranged = (single + steps.long()).clamp_max(half - 1)
    return half * (distance > 0) + torch.where(far < single, far, ranged)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float, **factory):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim, **factory)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class SelfAttention(nn.Module):
    """Attention without a scale; the first layer's learned `relative_attention_bias` serves all layers."""

    q: nn.Module
    k: nn.Module
    v: nn.Module

    def __init__(self, config: T5Config, has_bias: bool, operations, **factory):
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        for name in "qkv":
            setattr(self, name, operations.Linear(config.dim, inner, bias=False, **factory))
        self.o = operations.Linear(inner, config.dim, bias=False, **factory)
        if has_bias:
            self.relative_attention_bias = operations.Embedding(config.buckets, config.heads, **factory)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    wi: nn.Module
    wi_0: nn.Module
    wi_1: nn.Module

    def __init__(self, config: T5Config, operations, **factory):
        super().__init__()
        self.activation, self.gated = ACTIVATIONS[config.activation], config.gated
        for name in ("wi_0", "wi_1") if config.gated else ("wi",):
            setattr(self, name, operations.Linear(config.dim, config.ffn_dim, bias=False, **factory))
        self.wo = operations.Linear(config.ffn_dim, config.dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x)))


class Residual(nn.Module):
    """x + layer(norm(x)); the layer's name is part of the tensors' names."""

    def __init__(self, name: str, layer: nn.Module, config: T5Config, **factory):
        super().__init__()
        self.name, self.layer_norm = name, RMSNorm(config.dim, config.norm_eps, **factory)
        setattr(self, name, layer)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        return x + getattr(self, self.name)(self.layer_norm(x), *extra)


class Block(nn.Module):
    def __init__(self, config: T5Config, first: bool, operations, **factory):
        super().__init__()
        attention = SelfAttention(config, first, operations, **factory)
        feed_forward = FeedForward(config, operations, **factory)
        self.layer = nn.ModuleList(
            [
                Residual("SelfAttention", attention, config, **factory),
                Residual("DenseReluDense", feed_forward, config, **factory),
            ]
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))


class T5Encoder(nn.Module):
    def __init__(self, config: T5Config, *, dtype=None, device=None, operations: Any = nn):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        self.embed_tokens = operations.Embedding(config.vocab_size, config.dim, **factory)
        self.block = nn.ModuleList([Block(config, n == 0, operations, **factory) for n in range(config.layers)])
        self.final_layer_norm = RMSNorm(config.dim, config.norm_eps, **factory)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [1, n, dim] of the ids [1, n] of one text, which is not padded."""
        buckets = distance_buckets(ids.shape[1], self.config.buckets, self.config.max_distance)
        table = self.block[0].get_submodule("layer.0.SelfAttention.relative_attention_bias")
        bias = table(buckets.to(ids.device)).permute(2, 0, 1)[None]  # 1, heads, queries, keys
        x = self.embed_tokens(ids)
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)
