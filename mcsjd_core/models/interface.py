"""What the decoding loop asks of a model, and what a host asks of a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..codecs.vqgan import VQGAN
from ..grid import Grid
from ..kv_cache import KVCache


@dataclass(frozen=True)
class Prompt:
    """What stands before the first code: embeddings [rows, P, dim], left-padded, and `padding` [rows] slots in front.

    With guidance the rows alternate: conditional, unconditional, conditional ... (2 B rows), so that the first rows of the
    cache belong to the first pictures of the batch. `context` [rows, n, width] is what models with cross attention look at.
    """

    embeddings: Tensor
    padding: Tensor
    guided: bool
    context: Tensor | None = None

    @classmethod
    def of_ids(cls, rows: list[list[int]], embed: Callable[[Tensor], Tensor], guided: bool, device) -> Prompt:
        """From the ids of every row; `embed` gives embeddings [rows, P, dim] of ids [rows, P]."""
        longest = max(map(len, rows))
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        padding = torch.tensor([longest - len(row) for row in rows], device=device)
        return cls(embed(padded), padding, guided)

    @property
    def batch(self) -> int:
        return len(self.embeddings) // (2 if self.guided else 1)


@dataclass(frozen=True)
class SamplingDefaults:
    """The published settings of a checkpoint, offered by every user interface."""

    cfg_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    window: int = 64


class TokenModel(Protocol):
    """The few things that the decoding loop calls; it knows no more of a model than this."""

    codebook_size: int

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Embeddings [rows, L, dim] of codes or forced tokens [rows, L] at grid places `index` [rows, L]."""

    def new_cache(self, prompt: Prompt, capacity: int) -> KVCache:
        """Room for `capacity` slots in every row of the prompt, and what is computed once of its context. Nothing is written."""

    def cache_bytes(self, prompt: Prompt, capacity: int) -> int:
        """What `new_cache` allocates."""

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        """Hidden states [rows, L, dim]; see `Transformer.forward_cached`."""

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        """Logits [rows, L, codebook_size] for the token after each place; `index` as in `embed`, one further on."""


class Family(Protocol):
    """A loaded checkpoint: a `TokenModel` with its prompt format, sizes and codec.

    A size is named `512x768`, width x height in pixels. One that is not among `sizes` is an InputError that lists them.
    """

    name: str
    sizes: tuple[str, ...]  # what the model was trained for; the first is the default
    token_model: nn.Module
    codec: VQGAN
    defaults: SamplingDefaults

    def grid(self, size: str | None = None) -> Grid:
        """How the tokens of a picture of that size lie; None is the default size."""

    def prompt(self, texts: list[str], negatives: list[str] | None, guided: bool, size: str | None = None) -> Prompt:
        """Prompt for a batch of len(texts); `negatives` replace the empty prompt of the unconditional rows."""
