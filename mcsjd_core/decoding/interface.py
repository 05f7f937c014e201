"""What the decoding loop asks of a model: a prompt, and the few methods that it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..nn.kv_cache import KVCache


@dataclass(frozen=True)
class Prompt:
    """What stands before the first code: embeddings [rows, P, dim], left-padded, and `padding` [rows] slots in front.

    With guidance the rows alternate: conditional, unconditional, conditional ... (2 B rows), so that the first rows of the
    cache belong to the first pictures of the batch. `context` [rows, n, width] is what models with cross attention look at.
    `planes` [N, axes] are positions of the grid's N tokens, counted from its start, for models that have several a token.
    """

    embeddings: Tensor
    padding: Tensor
    guided: bool
    context: Tensor | None = None
    planes: Tensor | None = None

    @classmethod
    def of_ids(cls, rows: list[list[int]], embed: Callable[[Tensor], Tensor], guided: bool, device,
               planes: Tensor | None = None) -> Prompt:  # fmt: skip
        """From the ids of every row; `embed` gives embeddings [rows, P, dim] of ids [rows, P]."""
        longest = max(map(len, rows))
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        padding = torch.tensor([longest - len(row) for row in rows], device=device)
        return cls(embed(padded), padding, guided, planes=None if planes is None else planes.to(device))

    def to(self, device) -> Prompt:
        """The same on `device`."""
        context, planes = (None if t is None else t.to(device) for t in (self.context, self.planes))
        return Prompt(self.embeddings.to(device), self.padding.to(device), self.guided, context, planes)

    def of_pictures(self, first: int, last: int) -> Prompt:
        """That of the pictures from number `first` up to, not with, `last`."""
        rows = slice(*(number * (2 if self.guided else 1) for number in (first, last)))
        context = None if self.context is None else self.context[rows]
        return Prompt(self.embeddings[rows], self.padding[rows], self.guided, context, self.planes)

    @property
    def batch(self) -> int:
        return len(self.embeddings) // (2 if self.guided else 1)


class TokenModel(Protocol):
    """The few things that the decoding loop calls; it knows no more of a model than this."""

    codebook_size: int

    @property
    def counts_padding(self) -> bool:
        """Whether the padding before a prompt takes up positions, so that the model does not take more of it for the same."""
        ...

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Embeddings [rows, L, dim] of codes or forced tokens [rows, L] at grid positions `index` [rows, L]."""
        ...

    def new_cache(self, prompt: Prompt, capacity: int) -> KVCache:
        """Room for `capacity` slots in every row of the prompt, and what is computed once of its context. Nothing is written."""
        ...

    def cache_bytes(self, prompt: Prompt, capacity: int) -> int:
        """What `new_cache` allocates."""
        ...

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        """Hidden states [rows, L, dim]; see `Transformer.forward_cached`."""
        ...

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        """Logits [rows, L, codebook_size] for the token after each position; `index` as in `embed`, one further on."""
        ...


class TokenModule(nn.Module, TokenModel):
    """A `TokenModel` that is a module of torch, as those of all families are.

    `context_dim` is the width of the states that cross attention looks at, None without any.
    """

    context_dim: int | None = None
    compute_dtype: torch.dtype
    compute_device: torch.device | None

    @property
    def counts_padding(self) -> bool:
        return False

    @property
    def prompt_device(self) -> torch.device:
        """Where prompts have to be put."""
        raise NotImplementedError
