"""Whether the arguments of a decode fit the model and the grid; each failure is one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..laws.law import LawSettings
from .grid import FREE, Grid
from .interface import Prompt


def check_prompt(prompt: Prompt, law: LawSettings) -> None:
    """The prompt is [rows, P, dim] with at least one slot, and has unconditional rows exactly if `law` is guided."""
    if prompt.embeddings.ndim != 3 or prompt.embeddings.shape[1] < 1 or prompt.batch < 1:
        raise InputError(
            f"A prompt needs embeddings [rows, P, dim] with P of at least 1, got {list(prompt.embeddings.shape)}."
        )
    if not prompt.embeddings.is_floating_point():
        raise InputError(f"Prompt embeddings must be floating point, got {prompt.embeddings.dtype}.")
    rows = len(prompt.embeddings)
    if prompt.padding.shape != (rows,):
        raise InputError(
            f"A prompt needs one padding count for each of its {rows} rows, got {list(prompt.padding.shape)}."
        )
    if prompt.guided and rows % 2:
        raise InputError(
            f"A guided prompt needs a conditional and an unconditional row for every picture, got {rows} rows."
        )
    if prompt.guided != law.guided:
        wanted = "with" if law.guided else "without"
        raise InputError(f"cfg_scale {law.cfg_scale} needs a prompt {wanted} unconditional rows; build it again.")


def check_forbidden(grid: Grid, codebook_size: int) -> None:
    """The grid's forbidden codes, if any, are given for every code of the model."""
    if grid.forbidden is not None and grid.forbidden.shape[-1] != codebook_size:
        covered = grid.forbidden.shape[-1]
        raise InputError(
            f"`forbidden` covers {covered} codes, but the model has {codebook_size}; give each code a column."
        )


def check_first_tokens(tokens: Tensor | None, batch: int, grid: Grid, codebook_size: int, device) -> Tensor:
    """Given tokens [batch, n] on `device`, n = 0 for none; one row is repeated for the batch."""
    if tokens is None:
        return torch.zeros(batch, 0, dtype=torch.long, device=device)
    tokens = _check_tokens(tokens, batch, "first_tokens").to(device)
    count = tokens.shape[1]
    if count >= grid.num_tokens:
        raise InputError(
            f"{count} first tokens leave nothing to draw on a grid of {grid.num_tokens}; give fewer, or draw more."
        )
    forced = grid.forced()[:count].to(device)
    wrong = torch.where(forced == FREE, (tokens < 0) | (tokens >= codebook_size), tokens != forced)
    if wrong.any():
        raise InputError(
            f"The first tokens do not fit this model, whose codes run from 0 to {codebook_size - 1}; encode the picture with it."
        )
    return tokens


def check_kept_tokens(tokens: Tensor | None, batch: int, grid: Grid, codebook_size: int, device) -> Tensor:
    """What has to stand at every position, [batch, num_tokens] on `device`, FREE where the model decides.

    That is what the grid forces, and of `tokens` [1 or batch, num_tokens] all that is not FREE.
    """
    forced = grid.forced().to(device).expand(batch, -1)
    if tokens is None:
        return forced
    tokens = _check_tokens(tokens, batch, "kept_tokens").to(device)
    if tokens.shape != forced.shape:
        raise InputError(
            f"Tokens to keep must fill the grid of {grid.num_tokens}, got {tokens.shape[1]}; use those of the same size "
            "and length."
        )
    free = forced == FREE
    if (free & (tokens != FREE) & ((tokens < 0) | (tokens >= codebook_size))).any():
        raise InputError(
            f"The tokens to keep do not fit this model, whose codes run from 0 to {codebook_size - 1}; encode the "
            "picture with it."
        )
    if not (free & (tokens == FREE)).any():
        raise InputError("All of the picture is kept, so nothing is left to draw; mark the part to redraw in the mask.")
    return torch.where(free, tokens, forced)


def check_earlier_tokens(tokens: Tensor | None, batch: int, grid: Grid, device) -> Tensor:
    """Whole earlier results [batch, num_tokens] on `device`; one row is repeated for the batch."""
    if tokens is None:
        raise InputError(
            "The warm initialiser needs the tokens of an earlier result; connect them, or choose another one."
        )
    tokens = _check_tokens(tokens, batch, "earlier_tokens").to(device)
    if tokens.shape[1] != grid.num_tokens:
        raise InputError(
            f"Earlier tokens must fill the grid of {grid.num_tokens}, got {tokens.shape[1]}; use those of the same size "
            "and length."
        )
    return tokens


def _check_tokens(tokens: Tensor, batch: int, name: str) -> Tensor:
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise InputError(f"{name} must be whole numbers of shape [batch, n], got {list(tokens.shape)} {tokens.dtype}.")
    if len(tokens) not in (1, batch):
        raise InputError(
            f"{name} has {len(tokens)} rows for a batch of {batch}; give one row, or one for each picture."
        )
    return tokens.long().expand(batch, -1)
