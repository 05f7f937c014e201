"""From a prompt to tokens to pictures with a loaded model: what the command line and every host call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..decoding.loop import Decoded, DecodeSettings, Step, decode
from ..errors import InputError
from ..families.interface import Family
from ..families.sizes import choose_size, side_lengths
from .pixels import fit
from .video import check_start, token_grid


def sample(
    model: Family,
    texts: list[str],
    settings: DecodeSettings,
    *,
    size: str | None = None,
    frames: int | None = None,
    negatives: list[str] | None = None,
    encoded: Mapping[str, Tensor] | None = None,
    first_codes: Tensor | None = None,
    earlier_tokens: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decoded:
    """Draw the tokens of one picture, or one video, for every text.

    `size` is one of `model.sizes`, None the first of them.
    first_codes [1 or B, r, columns] are the upper rows of pictures to continue; the other arguments as in `decode`.
    Models of video also take `frames`, how many to draw with the given ones (None: as many as the model was made for),
    first_codes [1 or B, f, rows, columns] as `video.start_codes` gives them, and `encoded` texts (see `Family`).
    """
    if isinstance(texts, str) or not texts:
        raise InputError(f"Prompts are a list with at least one text, got {texts!r}.")
    if negatives is not None and len(negatives) != len(texts):
        raise InputError(f"There are {len(negatives)} negative prompts for {len(texts)} prompts; give one for each.")
    guided = settings.law.guided
    grid = token_grid(model, size, frames)
    first = None if first_codes is None else grid.tokens(first_codes)
    if model.video is not None:
        check_start(model.video, grid, first)
    options = {} if encoded is None else {"encoded": encoded}
    prompt = model.prompt(texts, negatives if guided else None, guided, size, **options)
    return decode(
        model.token_model, prompt, grid, settings, first_tokens=first, earlier_tokens=earlier_tokens, on_step=on_step
    )


@torch.no_grad()
def pictures(model: Family, tokens: Tensor, size: str | None = None, batch: int = 4) -> Tensor:
    """Pictures [B, 3, H, W] float32 in 0..1 of whole token rows [B, num_tokens] that were drawn at `size`.

    `batch` of them are decoded at a time.
    """
    codes = model.grid(size).codes(tokens).to(model.codec.input_device)
    return torch.cat([model.codec.decode(part).float() for part in codes.split(batch)])


@torch.no_grad()
def encode(model: Family, images: Tensor, size: str | None = None, batch: int = 4) -> Tensor:
    """Whole token rows [B, num_tokens] of pictures [B, C, H, W] in 0..1, which are scaled and cropped to `size`.

    The inverse of `pictures` as far as the codec goes; `batch` of them are encoded at a time.
    """
    width, height = side_lengths(choose_size(size, model.sizes))
    device = model.codec.input_device
    codes = [model.codec.encode(fit(part, width, height).to(device)) for part in images.split(batch)]
    return model.grid(size).tokens(torch.cat(codes))
