"""Between frames of pixels and codes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..decoding.grid import FREE, Grid
from ..errors import InputError
from ..families.interface import Clip, Family
from ..families.sizes import choose_size, side_lengths
from .pixels import fit_frames


def check_start(clip: Clip, grid: Grid, first_tokens: Tensor | None) -> None:
    """Raise InputError if a model that continues videos got nothing to continue, or a whole video.

    More code frames than the model was trained to be given are fine: a video may be redrawn from any frame on.
    """
    given = 0 if first_tokens is None else first_tokens.shape[1]
    needed = min(clip.start_frames)
    tokens = clip.code_frames(needed) * grid.frame_tokens if needed else 0
    if given < tokens or (first_tokens is not None and (first_tokens[:, :tokens] == FREE).any()):
        raise InputError(f"This model continues a video; give it {clip.start_name} to continue.")
    if (
        first_tokens is not None
        and not clip.is_picture
        and given >= grid.num_tokens
        and not (first_tokens == FREE).any()
    ):
        raise InputError(
            "The start that is given fills the whole video, so nothing is left to draw; ask for more frames."
        )


@torch.no_grad()
def start_codes(model: Family, clip: Tensor, size: str | None = None) -> Tensor:
    """Codes [1, f, rows, columns] of the last frames of a clip [T, C, H, W] in 0..1, as many as the model may be given.

    They are scaled and cropped to `size`. Raises InputError for a model of pictures.
    """
    count = model.clip.start_of(len(clip))
    width, height = side_lengths(choose_size(size, model.sizes))
    frames = fit_frames(clip[-count:], width, height)
    return model.codec.encode(frames.movedim(1, 0)[None].to(model.codec.input_device))


@torch.no_grad()
def clips(model: Family, tokens: Tensor, size: str | None = None, batch: int = 1) -> Iterator[Tensor]:
    """Clips [b, T, 3, H, W] float32 in 0..1 of tokens [B, n] of whole code frames, `batch` of them at a time.

    The tokens may be those of the first code frames alone.
    """
    model.clip.require_pixels()
    frame_tokens = model.grid(size).frame_tokens
    code_frames = tokens.shape[-1] // frame_tokens
    if not code_frames:
        raise InputError(f"This model has {frame_tokens} tokens for each code frame, got {tokens.shape[-1]}.")
    grid = model.grid(size, model.clip.pixel_frames(code_frames))
    codes = grid.codes(tokens).view(len(tokens), code_frames, grid.rows, grid.columns)
    for part in codes.split(batch):
        pixels = model.codec.decode_clips(part.to(model.codec.input_device)).float()
        if not pixels.isfinite().all():
            raise InputError(
                f"The codec of this {model.name} model gives pixels that are not numbers (NaN): its weights are damaged or of "
                "another model; download them again."
            )
        yield pixels


def videos(model: Family, tokens: Tensor, size: str | None = None) -> Tensor:
    """Videos [B, T, 3, H, W] float32 in 0..1 of tokens as in `clips`; one is decoded at a time."""
    return torch.cat(list(clips(model, tokens, size)))
