"""Videos longer than a model's clip: every further part continues the last frames of what is there.

Within a part the law is the model's, given its start; parts are drawn one after the other, each with noise of its own
(`DecodeSettings.part`). The first code frame of a clip holds a single frame, a later one several, so a part's last codes
cannot begin the next one: its last frames are encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..decoding.loop import Decoded, Step
from ..decoding.settings import DecodeSettings
from ..errors import InputError
from ..families.interface import Clip, Family
from .sampling import Drawing
from .video import start_codes, videos


@dataclass(frozen=True)
class Part:
    """`frames` are drawn in all, of which the first `given` are the last of the part before (of the first part: its start)."""

    frames: int
    given: int


def parts_of(clip: Clip, frames: int) -> list[Part]:
    """How a video of `frames` frames is drawn; raises InputError if it cannot be."""
    if clip.is_picture or (frames - 1) % clip.frames_per_code:
        clip.code_frames(frames)  # says why
    parts = [Part(min(frames, clip.frames), 0)]
    there = parts[0].frames
    while there < frames:
        given = clip.start_of(there)
        if given >= clip.frames:
            raise InputError(
                f"The start takes {given} of this model's {clip.frames} frames, so a video cannot be longer than these; ask for "
                "fewer frames."
            )
        parts.append(Part(min(clip.frames, given + frames - there), given))
        there += parts[-1].frames - given
    return parts


def tokens_to_draw(model: Family, frames: int, size: str | None, first_codes: Tensor | None) -> int:
    """Of all parts of one video that begins with first_codes [1 or B, f, rows, columns]."""
    clip, known = model.clip, 0 if first_codes is None else first_codes.shape[1]
    given = [clip.code_frames(part.given) if part.given else known for part in parts_of(clip, frames)]
    drawn = sum(clip.code_frames(part.frames) for part in parts_of(clip, frames)) - sum(given)
    return drawn * model.grid(size).frame_tokens


def sample_long(
    model: Family,
    texts: list[str],
    settings: DecodeSettings,
    frames: int,
    *,
    size: str | None = None,
    negatives: list[str] | None = None,
    encoded: Mapping[str, Tensor] | None = None,
    first_codes: Tensor | None = None,
    on_part: Callable[[int, Drawing], Callable[[Step], None]] | None = None,
) -> Iterator[tuple[Tensor, Decoded]]:
    """Of every part in order: its new frames [B, t, 3, H, W] in 0..1, on the CPU (the start among the first), and its decode.

    `frames` counts all of the video's. Arguments are as in `sample`; `on_part` is told of every part before it is drawn, from
    number 0 on, may raise to cancel, and gives its `on_step`.
    """
    codes, last = first_codes, None
    for number, part in enumerate(parts_of(model.clip, frames)):
        if last is not None:
            codes = torch.cat([start_codes(model, clip[-part.given :], size) for clip in last])
        drawing = Drawing.of(
            model,
            texts,
            replace(settings, part=settings.part + number),
            size=size,
            frames=part.frames,
            negatives=negatives,
            encoded=encoded,
            first_codes=codes,
        )
        decoded = drawing.run(None if on_part is None else on_part(number, drawing))
        last = videos(model, decoded.tokens, size).cpu()
        yield last[:, part.given :], decoded
