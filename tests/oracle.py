"""What several oracle tests share: our logits through the cache, as decoding asks for them, and how far two tensors differ."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from mcsjd_core.decoding.interface import Prompt


def cached_logits(token_model, prompt: Prompt, tokens: Tensor, window: int) -> Tensor:
    """Logits [rows, N, codebook] after the prompt and every token but the last, `window` positions a forward.

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


def uncached_logits(token_model, prompt: Prompt, tokens: Tensor) -> Tensor:
    """The same as `cached_logits` in one forward of each row without a cache, so without padding."""
    rows = []
    for row, padding in enumerate(prompt.padding.tolist()):
        codes = tokens[row * len(tokens) // len(prompt.embeddings)][None]
        index = torch.arange(codes.shape[1] - 1)[None]
        start = prompt.embeddings[row : row + 1, padding:]
        with torch.no_grad():
            x = torch.cat((start, token_model.embed(codes[:, :-1], index)), 1)
            hidden = token_model.model(x, torch.arange(x.shape[1])[None])
            rows.append(token_model.logits(hidden[:, start.shape[1] - 1 :], index))
    return torch.cat(rows)


# Largest relative difference by (test file, what was compared), of this run; `pytest --differences` prints them.
DIFFERENCES: dict[tuple[str, str], float] = {}


def relative(ours: Tensor, theirs: Tensor, what: str = "other") -> float:
    """Largest difference, relative to the largest value; `what` is compared, for the table of `pytest --differences`."""
    assert ours.shape == theirs.shape and theirs.isfinite().all()
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    file = os.environ["PYTEST_CURRENT_TEST"].split("::")[0]
    DIFFERENCES[file, what] = max(difference, DIFFERENCES.get((file, what), 0.0))
    return difference


def difference_table() -> str:
    """Markdown: a row for each test file, a column for everything that was compared."""
    columns = sorted({what for _, what in DIFFERENCES})
    lines = [" | ".join(("largest relative difference", *columns)), "|".join("---" for _ in ("", *columns))]
    for file in sorted({file for file, _ in DIFFERENCES}):
        values = (DIFFERENCES.get((file, what)) for what in columns)
        lines.append(" | ".join((file, *("" if value is None else f"{value:.1e}" for value in values))))
    return "\n".join(f"| {line} |" for line in lines)
