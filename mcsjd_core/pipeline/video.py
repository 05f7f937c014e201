"""Between frames of pixels and codes, for models that draw video."""

from __future__ import annotations

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..errors import InputError
from ..families.interface import Family, Video
from ..families.sizes import choose_size, side_lengths
from .pixels import fit


def token_grid(model: Family, size: str | None, frames: int | None = None) -> Grid:
    """The grid of a picture, or of a video of `frames` frames; None is as many as the model was made for.

    Raises InputError if a model of pictures is asked for frames.
    """
    if frames is None:
        return model.grid(size)
    if model.video is None:
        raise InputError(f"This model draws pictures, no video of {frames} frames; leave their number out.")
    return model.grid(size, frames)


def check_start(video: Video, grid: Grid, first_tokens: Tensor | None) -> None:
    """Raise InputError if a model that continues videos got nothing to continue.

    More code frames than the model was trained to be given are fine: a video may be drawn anew from any place on.
    """
    given = 0 if first_tokens is None else first_tokens.shape[1]
    needed = min(video.start_frames)
    if needed and given < video.code_frames(needed) * grid.frame_tokens:
        numbers = " or ".join(map(str, video.start_frames))
        raise InputError(f"This model continues a video; give it {numbers} start frames.")


@torch.no_grad()
def start_codes(model: Family, clip: Tensor, size: str | None = None) -> Tensor:
    """Codes [1, f, rows, columns] of the last frames of a clip [T, C, H, W] in 0..1, as many as the model may be given.

    They are scaled and cropped to `size`.
    """
    if model.video is None:
        raise InputError("This model draws pictures; it has no use for start frames.")
    width, height = side_lengths(choose_size(size, model.sizes))
    frames = fit(clip[-model.video.start_of(len(clip)) :], width, height)
    return model.codec.encode(frames.movedim(1, 0)[None].to(model.codec.input_device))


@torch.no_grad()
def videos(model: Family, tokens: Tensor, size: str | None = None) -> Tensor:
    """Videos [B, T, 3, H, W] float32 in 0..1 of tokens [B, n] of whole code frames, also of the first ones alone.

    One is decoded at a time.
    """
    frame_tokens = model.grid(size).frame_tokens
    code_frames, rest = divmod(tokens.shape[1], frame_tokens)
    if not code_frames or rest:
        raise InputError(
            f"A video of this model has {frame_tokens} tokens for each of its code frames, got {tokens.shape[1]}."
        )
    codes = model.grid(size, model.video.pixel_frames(code_frames)).codes(tokens)
    codes = codes.view(len(tokens), code_frames, *codes.shape[-2:]).to(model.codec.input_device)
    return torch.cat([model.codec.decode(one).float() for one in codes.split(1)]).movedim(2, 1)
