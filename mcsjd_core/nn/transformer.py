"""A decoder-only transformer over embeddings, written for windowed decoding.

It is the body that the supported families share (Llama, Chameleon and their kin): families differ by
`TransformerConfig`, and own their embeddings and heads. Module names are those of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .kv_cache import KVCache, Planes
from .layers import HeadNorm, rotary_angles, rotate, rotation


@dataclass(frozen=True)
class TransformerConfig:
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_interleaved: bool = False
    rope_float32: bool = False  # turn queries and keys in float32 and round the result, not the factors (LlamaGen)
    qk_norm: str | None = None  # "layer" (Chameleon) or "rms", over the channels of each head, before the rotation
    qk_norm_groups: int = 1  # rows of weights that the queries have; keys have as many, but no more than kv_heads
    qk_norm_eps: float = 1e-5
    norm_after: bool = False  # Chameleon 30B's `swin_norm`: norm the sublayer's output instead of its input
    norm_both: bool = False  # GLM: norm the sublayers' outputs as well as their inputs, before they are added
    qkv_bias: bool = False  # queries, keys and values have a bias (Qwen2, GLM); the output's matrix never has
    count_padding: bool = False  # padding takes up positions, too: a prompt always fills the same number of them
    context_dim: int | None = None  # width of the context that every layer looks at by cross attention; None for none

    def __post_init__(self):
        sizes = (self.dim, self.layers, self.heads, self.kv_heads, self.head_dim, self.ffn_dim, self.qk_norm_groups)
        if min(sizes) < 1:
            raise InputError(f"Every size of a transformer has to be at least 1, got {self}.")
        if self.head_dim % 2:
            raise InputError(
                f"Rotary embedding rotates pairs of channels, got {self.head_dim} channels a head; it has to be even."
            )
        if self.heads % self.kv_heads:
            raise InputError(
                f"{self.heads} heads cannot share {self.kv_heads} key heads evenly; one has to divide the other."
            )
        if self.qk_norm not in (None, "layer", "rms"):
            raise InputError(f"qk_norm has to be None, 'layer' or 'rms', got {self.qk_norm!r}.")
        if self.norm_after and self.norm_both:
            raise InputError("Norms stand after the sublayers alone or on both sides of them; choose one.")
        if self.heads % self.qk_norm_groups or self.kv_heads % self.key_norm_groups:
            rows, heads = self.qk_norm_groups, f"{self.heads} query and {self.kv_heads} key heads"
            raise InputError(f"{rows} rows of norm weights cannot serve {heads}; the rows have to divide the heads.")

    @property
    def key_norm_groups(self) -> int:
        return min(self.qk_norm_groups, self.kv_heads)


class Projections(nn.Module):
    """What every attention has: queries of `dim`, keys and values of `source_dim` channels, and norms of queries and keys."""

    def __init__(self, config: TransformerConfig, source_dim: int, operations, **factory):
        super().__init__()
        self.config = config

        def linear(inp: int, out: int, bias: bool = config.qkv_bias) -> nn.Module:
            return operations.Linear(inp, out, bias=bias, **factory)

        self.q_proj = linear(config.dim, config.heads * config.head_dim)
        self.k_proj = linear(source_dim, config.kv_heads * config.head_dim)
        self.v_proj = linear(source_dim, config.kv_heads * config.head_dim)
        self.o_proj = linear(config.heads * config.head_dim, config.dim, bias=False)
        if config.qk_norm:
            self.q_norm, self.k_norm = _head_norms(config, **factory)


class Attention(Projections):
    """Grouped-query attention over a cached prefix and the window."""

    def __init__(self, config: TransformerConfig, operations, **factory):
        super().__init__(config, config.dim, operations, **factory)

    def forward(self, x: Tensor, rotary, mask: Tensor | None, store) -> Tensor:
        q, k, v = (_heads(proj(x), self.config) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (rotate(t, rotary, self.config.rope_interleaved) for t in (q, k))
        k, v = store(k, v)
        return self.o_proj(grouped_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class CrossAttention(Projections):
    """Grouped-query attention over all of a context, which has no positions: nothing is rotated, nothing masked."""

    def __init__(self, config: TransformerConfig, operations, **factory):
        assert config.context_dim is not None
        super().__init__(config, config.context_dim, operations, **factory)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, kv_heads, n, head_dim] of a context [rows, n, context_dim]."""
        k, v = (_heads(proj(context), self.config) for proj in (self.k_proj, self.v_proj))
        return self.k_norm(k) if self.config.qk_norm else k, v

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = _heads(self.q_proj(x), self.config)
        if self.config.qk_norm:
            q = self.q_norm(q)
        q = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)  # heads that share keys become further queries of them
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.unflatten(2, (-1, x.shape[1])).flatten(1, 2)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def _heads(x: Tensor, config: TransformerConfig) -> Tensor:
    """[rows, heads, L, head_dim] of [rows, L, heads * head_dim]."""
    return x.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)


def _head_norms(config: TransformerConfig, **factory) -> tuple[HeadNorm, HeadNorm]:
    """Those of queries and of keys."""
    shape = (config.head_dim, config.qk_norm_eps)
    groups = config.qk_norm_groups, config.key_norm_groups
    assert config.qk_norm is not None
    queries, keys = (HeadNorm(config.qk_norm, count, *shape, **factory) for count in groups)
    return queries, keys


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [rows, heads, L, head_dim] of q over k, v [rows, kv_heads, T, head_dim].

    Without a mask it is causal. Heads that share keys become further queries of them, so nothing is copied; `mask` is True
    where a query may look, [rows, 1, L, T], or what `group_mask` made of that.
    """
    rows, heads, length, head_dim = q.shape
    groups = heads // k.shape[1]
    if groups == 1 or mask is None:
        if groups > 1:
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    q = q.reshape(rows, k.shape[1], groups * length, head_dim)
    mask = group_mask(mask, groups, q.dtype) if mask.shape[2] == length else mask
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.reshape(rows, heads, length, head_dim)


def group_mask(mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of queries that are `groups` heads of a mask [rows, 1, L, T]: [rows, 1, groups * L, T].

    Made once for all layers, it saves every one of them a copy as large as its scores.
    """
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    return added.repeat(1, 1, groups, 1)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig, operations, **factory):
        super().__init__()
        self.gate_proj = operations.Linear(config.dim, config.ffn_dim, bias=False, **factory)
        self.up_proj = operations.Linear(config.dim, config.ffn_dim, bias=False, **factory)
        self.down_proj = operations.Linear(config.ffn_dim, config.dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, operations, **factory):
        super().__init__()
        self.norm_after, self.norm_both = config.norm_after, config.norm_both
        self.self_attn = Attention(config, operations, **factory)
        self.mlp = MLP(config, operations, **factory)
        self.input_layernorm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)
        self.post_attention_layernorm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)
        if config.norm_both:
            self.post_self_attn_layernorm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)
            self.post_mlp_layernorm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)
        if config.context_dim:
            self.cross_attn = CrossAttention(config, operations, **factory)
            self.cross_attn_layernorm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)

    def forward(self, x: Tensor, rotary, mask: Tensor | None, store, context) -> Tensor:
        if self.norm_after:
            x = x + self.input_layernorm(self.self_attn(x, rotary, mask, store))
            return x + self.post_attention_layernorm(self.mlp(x))
        attended = self.self_attn(self.input_layernorm(x), rotary, mask, store)
        x = x + (self.post_self_attn_layernorm(attended) if self.norm_both else attended)
        if context is not None:
            x = x + self.cross_attn(self.cross_attn_layernorm(x), *context)
        fed = self.mlp(self.post_attention_layernorm(x))
        return x + (self.post_mlp_layernorm(fed) if self.norm_both else fed)


class Transformer(nn.Module):
    """Embeddings in, final hidden states out (after the last norm).

    `angles` gives the cosines and sines [rows, 1, L, head_dim / 2] of position ids [rows, L], or [rows, L, axes] where a
    prompt has `planes`, in float32; by default those of the position's number alone. A family whose positions are cells of a
    grid brings its own. `offsets`, if given, tells
    what is added to the hidden states before every layer, [rows, L, dim] of position ids.
    """

    embed_tokens: nn.Module  # a token model that embeds ids puts its table here

    def __init__(self, config: TransformerConfig, angles: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
                 offsets: Callable[[Tensor], Tensor] | None = None, *, dtype=None, device=None, operations=nn):  # fmt: skip
        super().__init__()
        self.config = config
        self.angles = angles or partial(rotary_angles, head_dim=config.head_dim, theta=config.rope_theta)
        self.offsets = offsets
        factory = {"dtype": dtype, "device": device}
        self.layers = nn.ModuleList(Block(config, operations, **factory) for _ in range(config.layers))
        self.norm = operations.RMSNorm(config.dim, eps=config.norm_eps, **factory)

    def new_cache(self, padding: Tensor, capacity: int, dtype, context: Tensor | None = None,
                  planes: Planes | None = None) -> KVCache:  # fmt: skip
        """An empty cache for len(padding) rows with `padding` [rows] unused slots in front.

        Keys and values of a `context` [rows, n, context_dim] are computed here, once for all forwards.
        """
        c = self.config
        cache = KVCache(c.layers, padding, c.kv_heads, capacity, c.head_dim, dtype=dtype, device=padding.device)
        cache.context, cache.planes = self._context(context), planes
        return cache

    def cache_bytes(self, rows: int, capacity: int, dtype: torch.dtype, context_tokens: int = 0) -> int:
        """What `new_cache` allocates for that many rows, with a context of that many tokens."""
        c = self.config
        return 2 * c.layers * rows * c.kv_heads * (capacity + context_tokens) * c.head_dim * dtype.itemsize

    def _context(self, context: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        if (context is None) != (self.config.context_dim is None):
            wants = "reads a context, and got none" if context is None else "reads no context, and got one"
            raise InputError(f"This model {wants}; make the prompt with the model that is to read it.")
        layers: Any = self.layers
        return [] if context is None else [layer.cross_attn.keys_values(context) for layer in layers]

    def forward(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Hidden states [rows, L, dim] of embeddings [rows, L, dim] at position ids [rows, L], without a cache.

        `mask` [rows, 1, L, L] is True where a query may look; None is causal. `context` is [rows, n, context_dim].
        """
        pairs = self._context(context)
        return self._run(embeddings, positions, mask, lambda layer, k, v: (k, v), lambda i: pairs[i] if pairs else None)

    def forward_cached(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        """Hidden states [rows, L, dim] of embeddings written to cache slots [rows, L], over all slots below `extent`.

        `extent` is a plain number above every slot: the host knows it, so nothing has to be read back from the device.
        """
        groups = self.config.heads // self.config.kv_heads
        mask = group_mask(cache.visible(slots, extent)[:, None], groups, embeddings.dtype)
        index = cache.index_of(slots)

        def store(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return cache.write(layer, index, k, v, extent)

        positions = slots if self.config.count_padding else cache.positions(slots)
        return self._run(embeddings, positions, mask, store, cache.context_of)

    def _run(self, x: Tensor, positions: Tensor, mask: Tensor | None, store, context) -> Tensor:
        dtype = torch.float32 if self.config.rope_float32 else x.dtype
        rotary = rotation(self.angles(positions), dtype, self.config.rope_interleaved)
        offsets = None if self.offsets is None else self.offsets(positions).to(x.dtype)
        for i, layer in enumerate(self.layers):
            x = x if offsets is None else x + offsets
            x = layer(x, rotary, mask, lambda k, v, i=i: store(i, k, v), context(i))
        return self.norm(x)
