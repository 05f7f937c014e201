"""What a host asks of a model family, for pictures and video alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..codecs.fsq_video import FSQVideoConfig
from ..codecs.vqgan import VQGAN
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError


@dataclass(frozen=True)
class SamplingDefaults:
    """The published settings of a checkpoint, offered by every user interface."""

    cfg_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    window: int = 64


@dataclass(frozen=True)
class Video:
    """What a family that draws video says of it; counts are of frames of pixels unless they are called code frames.

    Compression in time is causal: the first code frame holds the first frame alone, every further one the next
    `frames_per_code`. The grid has a row-major raster of codes for each code frame, in order.
    """

    frames: int  # of a whole video, given ones included
    frame_rate: float  # frames a second
    frames_per_code: int
    start_frames: tuple[int, ...]  # how many may be given; the model was trained with these. 0: none are needed
    reads_text: bool = True

    def code_frames(self, frames: int) -> int:
        """Code frames of so many frames; raises InputError if they do not fill the last one."""
        if frames < 1 or (frames - 1) % self.frames_per_code:
            raise InputError(
                f"This model counts frames in steps of {self.frames_per_code} after the first, so {frames} frames cannot "
                f"be had; ask for 1 + {self.frames_per_code} k of them, at most {self.frames}."
            )
        return 1 + (frames - 1) // self.frames_per_code

    def pixel_frames(self, code_frames: int) -> int:
        return 1 + (code_frames - 1) * self.frames_per_code

    def start_of(self, count: int) -> int:
        """How many of `count` frames can be the start: the largest number that is allowed; InputError if it is none."""
        allowed = [number for number in self.start_frames if 0 < number <= count]
        if not allowed:
            numbers = " or ".join(map(str, self.start_frames))
            raise InputError(f"This model continues a video of {numbers} frames, got {count}; give it more.")
        return max(allowed)


class VideoCodec(Protocol):
    """A codec of video, a `nn.Module`; pixels are in 0..1. It is causal: a shorter clip has the first codes of a longer one.

    `input_device` says where its weights lie, and where codes and frames have to be; the attribute `device` is the host's.
    """

    config: FSQVideoConfig
    pixels_per_code: int  # along each side
    frames_per_code: int
    input_device: torch.device

    def encode(self, frames: Tensor) -> Tensor:
        """Codes [B, 1 + k, h, w] int64 of frames [B, 3, 1 + k * frames_per_code, H, W]."""

    def decode(self, codes: Tensor) -> Tensor:
        """Frames [B, 3, 1 + k * frames_per_code, H, W] of codes [B, 1 + k, h, w]; also of the first code frames alone."""


class Family(Protocol):
    """A loaded checkpoint: a `TokenModel` with its prompt format, sizes and codec.

    A size is named `512x768`, width x height in pixels. One that is not among `sizes` is an InputError that lists them.

    A family of video has a `VideoCodec`, and its `grid` takes the number of frames, too; None is the whole `video.frames`.
    Its `prompt` takes `encoded`: hidden states [n, width] of texts that a host has encoded itself, by text. Start frames are
    no part of the prompt: they are the first tokens of the grid (`mcsjd_core.video.start_codes`).
    """

    name: str
    sizes: tuple[str, ...]  # what the model was trained for; the first is the default
    token_model: nn.Module
    codec: VQGAN | VideoCodec
    defaults: SamplingDefaults
    video: Video | None  # None: it draws pictures

    def grid(self, size: str | None = None) -> Grid:
        """How the tokens of a picture of that size lie; None is the default size. Video: `grid(size, frames=None)`."""

    def prompt(self, texts: list[str], negatives: list[str] | None, guided: bool, size: str | None = None) -> Prompt:
        """Prompt for a batch of len(texts); `negatives` replace the empty prompt of the unconditional rows.

        Video: `prompt(texts, negatives, guided, size, encoded=None)`.
        """


def empty_prompt(model: Family, guided: bool) -> Prompt:
    """The prompt that says nothing, for one picture or video: made without a class and without a text encoder.

    A model that reads no text has no guidance, and gets none.
    """
    if model.video is None:
        return model.prompt([""], None, guided)
    if not model.video.reads_text:
        return model.prompt([""], None, False)
    no_states = torch.zeros(0, model.token_model.model.config.context_dim)
    return model.prompt([""], None, guided, encoded={"": no_states})
