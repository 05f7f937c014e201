"""What several oracle tests share: our logits through the cache, as decoding asks for them, and how far two tensors differ."""

from __future__ import annotations

import torch
from torch import Tensor

from mcsjd_core.models.interface import Prompt


def cached_logits(token_model, prompt: Prompt, tokens: Tensor, window: int) -> Tensor:
    """Logits [rows, N, codebook] behind the prompt and every token but the last, `window` positions a forward.

    tokens [B, N] are those of every picture; with guidance both rows of a picture get them.
    """
    codes = tokens.repeat_interleave(len(prompt.embeddings) // len(tokens), 0)
    index = torch.arange(codes.shape[1] - 1).expand(len(codes), -1)
    with torch.no_grad():
        x = torch.cat((prompt.embeddings, token_model.embed(codes[:, :-1], index)), 1)
        slots = torch.arange(x.shape[1]).expand(len(codes), -1)
        cache, first, result = token_model.new_cache(prompt, x.shape[1]), prompt.embeddings.shape[1] - 1, []
        if first:
            token_model.hidden(x[:, :first], slots[:, :first], cache, first)
        for start in range(first, x.shape[1], window):
            part = slice(start, min(start + window, x.shape[1]))
            hidden = token_model.hidden(x[:, part], slots[:, part], cache, part.stop)
            result.append(token_model.logits(hidden, slots[:, part] - first))
    return torch.cat(result, 1)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape and theirs.isfinite().all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
