"""The token model of families that draw with one embedding table and one head: a transformer between the two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..decoding.interface import Prompt, TokenModule
from ..nn.kv_cache import KVCache, Planes
from ..nn.transformer import Transformer


class TransformerTokenModel(TokenModule):
    """A `TokenModel`: `model.embed_tokens` has a row for every id, `lm_head` the rows of the codes only.

    The ids of codes start at `first_code`. A forced token of the grid is an id, counted on from the codebook size.
    A host whose `operations` cast or move the weights may set `compute_dtype`, that of activations and cache (the weights'
    own by default), and `compute_device`, where prompts are put (None: where the weights of `lm_head` lie).
    """

    def __init__(self, transformer: Transformer, vocab_size: int, codebook_size: int, first_code: int = 0,
                 *, dtype=None, device=None, operations=nn):  # fmt: skip
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.codebook_size, self.first_code = codebook_size, first_code
        self.model, self.context_dim = transformer, transformer.config.context_dim
        self.model.embed_tokens = operations.Embedding(vocab_size, transformer.config.dim, **factory)
        self.lm_head = operations.Linear(transformer.config.dim, codebook_size, bias=False, **factory)
        self.compute_dtype = dtype or torch.get_default_dtype()
        self.compute_device: torch.device | None = None

    @property
    def prompt_device(self) -> torch.device:
        return self.compute_device or self.lm_head.weight.device

    @property
    def counts_padding(self) -> bool:
        return self.model.config.count_padding

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Embeddings of vocabulary ids."""
        return self.model.embed_tokens(ids).to(self.compute_dtype)

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        is_code = tokens < self.codebook_size
        return self.embed_ids(torch.where(is_code, tokens + self.first_code, tokens - self.codebook_size))

    def own_tensors(self, tensors: Iterable[tuple[str, Tensor]], tied: bool = False) -> Iterator[tuple[str, Tensor]]:
        """A checkpoint's tensors, of `lm_head` the rows of the codes alone; a tied head is those rows of the embedding."""
        codes = slice(self.first_code, self.first_code + self.codebook_size)
        for name, tensor in tensors:
            if tied and name == "model.embed_tokens.weight":
                yield "lm_head.weight", tensor[codes]
            yield name, tensor[codes] if name == "lm_head.weight" else tensor

    def forced_token(self, id: int) -> int:
        """The grid's forced token for a vocabulary id."""
        return self.codebook_size + id

    def new_cache(self, prompt: Prompt, capacity: int) -> KVCache:
        planes = None if prompt.planes is None else Planes(prompt.planes, prompt.embeddings.shape[1])
        return self.model.new_cache(prompt.padding, capacity, self.compute_dtype, prompt.context, planes)

    def cache_bytes(self, prompt: Prompt, capacity: int) -> int:
        """What `new_cache` allocates."""
        context_tokens = 0 if prompt.context is None else prompt.context.shape[1]
        return self.model.cache_bytes(len(prompt.padding), capacity, self.compute_dtype, context_tokens)

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        return self.model.forward_cached(embeddings, slots, cache, extent)

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        return self.lm_head(hidden)
