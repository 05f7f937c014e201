"""Tiny models that several test files share: a random transformer of the real class, and a table of random laws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcsjd_core import Decoded, DecodeSettings, Grid, decode
from mcsjd_core.decoding.interface import Prompt
from mcsjd_core.decoding.trajectories import TrajectoryCache
from mcsjd_core.families.chameleon import ChameleonTransformer, Vocabulary
from mcsjd_core.nn.transformer import TransformerConfig

EXTRA = ("first_tokens", "kept_tokens", "earlier_tokens", "on_step")  # of `decode`
TEXT_IDS, FORCED_IDS = 8, 4  # vocabulary entries before the codes and after them


def transformer(codebook_size: int, *, dtype=torch.float32, layers: int = 2) -> ChameleonTransformer:
    """A random token model: grouped queries, per-head norm; the same weights in every dtype.

    Attention is made sharp and strong, so that a token's law depends on single tokens far back: a cache that errs shows.
    """
    config = TransformerConfig(dim=16, layers=layers, heads=2, kv_heads=1, head_dim=8, ffn_dim=24, qk_norm="layer")
    vocabulary = Vocabulary(bos=0, begin_of_image=1, turn_end=2, first_code=TEXT_IDS)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = ChameleonTransformer(config, TEXT_IDS + codebook_size + FORCED_IDS, vocabulary, codebook_size)
    model.lm_head.weight.data.mul_(1.5)
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.data.mul_(4)
        layer.self_attn.o_proj.weight.data.mul_(15)
    model.compute_dtype = dtype
    return model.to(dtype).eval().requires_grad_(False)


def prompt(model: ChameleonTransformer, batch: int = 1, guided: bool = False) -> Prompt:
    """The same prompt for every picture; the unconditional rows are shorter, so they are padded."""
    row = [[0, 3, 4, 1], [0, 0, 0, 1]] if guided else [[0, 3, 4, 1]]
    padding = torch.tensor([0, 2] if guided else [0]).repeat(batch)
    return Prompt(model.embed_ids(torch.tensor(row).repeat(batch, 1)), padding, guided)


def run(model, grid: Grid, batch: int = 1, guided: bool = False, **settings) -> Decoded:
    """Decode `batch` pictures of the tiny prompt; EXTRA goes to `decode`."""
    extra = {name: settings.pop(name) for name in EXTRA if name in settings}
    return decode(model, prompt(model, batch, guided), grid, DecodeSettings(**settings), **extra)


@dataclass
class TokenCache:
    """What TableModel keeps of the past: the digits written to every slot, one row a sequence."""

    digits: Tensor

    def keep_rows(self, kept: list[int]) -> None:
        self.digits = self.digits[torch.tensor(kept, device=self.digits.device)]

    def copy_slots(self, to: Tensor, origin: Tensor) -> None:
        self.digits.scatter_(1, to, self.digits.gather(1, origin))


class TableModel:
    """A token model whose logits are a table over contexts: no arithmetic between the tokens and their exact law.

    A context is a number in base `base`: digit 0 is the prompt row (1 conditional, 2 unconditional), digit i + 1 the token
    at position i plus one, so 0 is a digit that is not there. `table` [contexts, codebook_size] is float64.
    """

    def __init__(self, codebook_size: int, num_tokens: int, *, sharpness: float = 1.0, forced: int = 0, seed: int = 0):
        self.codebook_size, self.num_tokens, self.base = codebook_size, num_tokens, codebook_size + forced + 1
        if self.base < 3:
            raise ValueError("Two prompt rows need a base of 3.")
        generator = torch.Generator().manual_seed(seed)
        contexts = self.base**num_tokens
        self.table = torch.randn(contexts, codebook_size, generator=generator, dtype=torch.float64) * sharpness
        self.float_table = self.table.float()
        self.powers = self.base ** torch.arange(num_tokens)

    counts_padding = True  # its contexts are of slots

    def prompt(self, batch: int, guided: bool) -> Prompt:
        rows = torch.tensor([1.0, 2.0] if guided else [1.0]).repeat(batch)
        return Prompt(rows[:, None, None], torch.zeros(len(rows), dtype=torch.long), guided)

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        return (tokens + 1).float()[..., None]

    def new_cache(self, prompt: Prompt, capacity: int) -> TokenCache:
        return TokenCache(torch.zeros(len(prompt.padding), capacity, dtype=torch.long))

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: TokenCache | TrajectoryCache, extent: int) -> Tensor:
        new = embeddings[..., 0].long()
        if isinstance(cache, TrajectoryCache):
            cache.cache.digits.scatter_(1, cache.written(slots), new)
            slots, new = (t.unflatten(1, (-1, cache.window)) for t in (slots, new))
            digits = cache.cache.digits[:, None].expand(-1, slots.shape[1], -1).scatter(2, slots, new)
        else:
            digits = cache.digits.scatter_(1, slots, new)
        contexts = (digits[..., : self.num_tokens] * self.powers).cumsum(-1)
        return contexts.gather(-1, slots.clamp_max(self.num_tokens - 1)).view(len(slots), -1, 1)

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        return self.float_table[hidden[..., 0]]

    def context(self, tokens: tuple[int, ...], prompt_row: int) -> int:
        """Row of the table for the token after `tokens` under prompt row 0 (conditional) or 1 (unconditional)."""
        return prompt_row + 1 + sum((token + 1) * self.base ** (i + 1) for i, token in enumerate(tokens))
