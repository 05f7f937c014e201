"""Videos longer than a model's clip: a sampler continues the video of another one, and Decode Video joins them."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core.errors import InputError
from . import runtime
from .types import ImageTokens, LoadedModel, TokensSocket


def continue_video_input() -> io.Input:
    return TokensSocket.Input(
        "continue_video",
        optional=True,
        tooltip="For models that draw video: a complete video of the same model, from another sampler. This run draws what "
        "comes next, from the last frames on; frames counts those too. Decode Video then gives one long video. The "
        "prompt may be another one.",
    )


def end_of_video(model: LoadedModel, earlier: ImageTokens, frames: int | None, batch: int) -> tuple[ImageTokens, int]:
    """Tokens of the last frames of `earlier`, for `runtime.sample` to continue, and how many frames they are.

    Raises InputError if videos of `frames` frames (None: the model's own number) have no room for new ones, or `earlier` is
    neither one video nor a video for each of the batch.
    """
    clip, rows = model.family.clip, len(earlier.require(model).require_whole("continuing a video").tokens)
    if rows not in (1, batch):
        raise InputError(
            f"continue_video holds {rows} videos, but this run draws {batch}; connect a single one, or set batch_size to {rows}."
        )
    given = clip.start_of(clip.pixel_frames(earlier.grid.frames))
    if given >= (frames or clip.frames):
        raise InputError(
            f"The new video begins with {given} frames of the one that it continues, so {frames or clip.frames} frames leave "
            "none to draw; set frames to 0."
        )
    pictures = runtime.pictures(model, earlier).unflatten(0, (rows, -1))[:, -given:]
    starts = [runtime.start_of_video(model, end, earlier.size, frames).tokens for end in pictures]
    return ImageTokens.of(torch.cat(starts), earlier.size, model, frames), given


def length_of(model: LoadedModel, tokens: ImageTokens) -> int:
    """Frames of a whole video with all that it continues."""
    own = model.family.clip.pixel_frames(tokens.grid.frames)
    return own if tokens.before is None else own - tokens.given + length_of(model, tokens.before)


def whole_video(model: LoadedModel, tokens: ImageTokens) -> Tensor:
    """IMAGE [B T, H, W, 3] of videos with all that they continue, one after the other; of pictures [B, H, W, 3]."""
    if tokens.before is None:
        return runtime.pictures(model, tokens)
    parts: list[Tensor] = []
    part: ImageTokens | None = tokens
    while part is not None:
        shared = 0 if part.before is None else part.given
        frames = runtime.pictures(model, part).unflatten(0, (len(part.tokens), -1))[:, shared:]
        parts.insert(0, frames.expand(len(tokens.tokens), *frames.shape[1:]))  # one start may have many continuations
        part = part.before
    return torch.cat(parts, 1).flatten(0, 1)
