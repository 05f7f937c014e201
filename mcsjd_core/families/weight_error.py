"""How much 8-bit weights change the logits of a model: measured on the model itself, against the weights in its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..nn.weights import mapped_layers
from .interface import Family
from .loading import load

PROBED = 16  # positions whose logits are compared: thousands of numbers each


def logits_change(model: Family, path: Path, before_tensor: Callable[[], None] = lambda: None) -> float:
    """Root mean square of the change of `model`'s logits, as a share of that of the logits; `path` is where it was read from.

    The exact weights are taken from the files one matrix at a time, and rounded to the dtype that the model computes in. So
    this takes about as long as reading the files again, and little memory. `before_tensor` is as in `load`.
    """
    dtype = model.token_model.compute_dtype
    exact = load(path, dtype=dtype, operations=mapped_layers(nn), before_tensor=before_tensor)
    wanted, ours = probe_logits(exact), probe_logits(model)
    return ((ours - wanted).square().mean() / wanted.square().mean()).sqrt().item()


@torch.no_grad()
def probe_logits(model: Family) -> Tensor:
    """Logits [n, codebook] float32, on the CPU, after the empty prompt and random codes, the same for every model."""
    token_model, prompt = model.token_model, model.empty_prompt(guided=False)
    count = min(PROBED, model.grid().columns)
    codes = torch.randint(token_model.codebook_size, (1, count), generator=torch.Generator().manual_seed(0))
    index = torch.arange(count, device=prompt.embeddings.device)[None]
    embeddings = token_model.embed(codes.to(index.device), index)
    x = torch.cat((prompt.embeddings, embeddings), 1)[:, :-1]
    slots = torch.arange(x.shape[1], device=index.device)[None]
    hidden = token_model.hidden(x, slots, token_model.new_cache(prompt, x.shape[1]), x.shape[1])
    return token_model.logits(hidden[:, -count:], index)[0].float().cpu()
