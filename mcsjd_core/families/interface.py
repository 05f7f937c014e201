"""What a host asks of a model family, for pictures and video alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.interface import Prompt, TokenModule
from ..errors import InputError
from ..laws.law import LawSettings
from ..text.words import Words
from .sizes import choose_size

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


@dataclass(frozen=True)
class SamplingDefaults:
    """The published settings of a checkpoint, offered by every user interface."""

    law: LawSettings = LawSettings()
    window: int = 64


@dataclass(frozen=True)
class Clip:
    """What a family says of the clips that it draws; a picture is a clip of one frame.

    Counts are of frames of pixels unless they are called code frames. Compression in time is causal: the first code frame
    holds the first frame alone, every further one the next `frames_per_code`. The grid has a row-major raster of codes for
    each code frame, in order.
    """

    frames: int  # of a whole clip, given ones included
    frame_rate: float  # frames per second
    frames_per_code: int
    start_frames: tuple[int, ...]  # how many may be given; the model was trained with these. 0: none are needed
    reads_text: bool = True
    takes_guidance: bool = True  # whether it has learned what guidance leads away from
    pixels_elsewhere: str = ""  # a sentence on which other model makes pixels of its codes; empty: its codec does

    @property
    def is_picture(self) -> bool:
        return self.frames == 1

    @property
    def has_pixels(self) -> bool:
        return not self.pixels_elsewhere

    def require_pixels(self) -> None:
        """Raise InputError if the family has no codec, and tokens are all that it gives."""
        if self.pixels_elsewhere:
            raise InputError(self.pixels_elsewhere)

    def code_frames(self, frames: int | None = None) -> int:
        """Code frames of so many frames, None for a whole clip; raises InputError if they cannot be drawn."""
        if frames is None:
            frames = self.frames
        if self.is_picture and frames != 1:
            raise InputError(
                f"This model draws pictures, not a video of {frames} frames; do not set the number of frames."
            )
        if frames < 1 or (frames - 1) % self.frames_per_code:
            raise InputError(
                f"This model counts frames in steps of {self.frames_per_code} after the first, so it cannot draw {frames}; "
                f"ask for 1 + {self.frames_per_code} k of them."
            )
        if frames > self.frames:
            raise InputError(f"This model draws at most {self.frames} frames, got {frames}.")
        return 1 + (frames - 1) // self.frames_per_code

    def pixel_frames(self, code_frames: int) -> int:
        return 1 + (code_frames - 1) * self.frames_per_code

    @property
    def start_name(self) -> str:
        """How many frames may be given, as people say it: `1 frame`, `1 or 9 frames`."""
        numbers = " or ".join(map(str, self.start_frames))
        return f"{numbers} frame{'s' if max(self.start_frames) != 1 else ''}"

    def start_of(self, count: int) -> int:
        """How many of `count` frames can be the start: the largest number that is allowed; InputError if it is none."""
        if self.is_picture:
            raise InputError("This model draws pictures and takes no start frames; give them to a video model.")
        allowed = [number for number in self.start_frames if 0 < number <= count]
        if not allowed:
            raise InputError(f"This model continues {self.start_name}, got {count}; give it more.")
        return max(allowed)

    def start_note(self, count: int) -> str:
        """A note for a user who gave `count` frames, of which not all are used; empty if they are."""
        taken = self.start_of(count)
        if taken == count:
            return ""
        last = "the last one is" if taken == 1 else f"the last {taken} are"
        return f"of {count} given frames {last} used: this model continues {self.start_name}"


PICTURE = Clip(frames=1, frame_rate=1.0, frames_per_code=1, start_frames=(0,))


class CodecConfig(Protocol):
    """What a host asks of the shape of a codec."""

    def activation_bytes(self, count: int, frames: int, rows: int, columns: int) -> int:
        """About what coding `count` clips of that many frames takes, with rows x columns codes a frame."""
        ...


class Codec(Protocol):
    """Between clips of pixels in 0..1 and codes; a `nn.Module`. It is causal: a shorter clip has the first codes of a longer one.

    `input_device` says where its weights lie, and where codes and frames have to be; the attribute `device` is the host's.
    """

    @property
    def config(self) -> CodecConfig: ...

    @property
    def input_device(self) -> torch.device: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, h, w] int64 of pictures [B, 3, H, W]; [B, 1 + k, h, w] of videos [B, 3, 1 + k * frames_per_code, H, W]."""
        ...

    def decode_clips(self, codes: Tensor) -> Tensor:
        """Clips [B, T, 3, H, W] of codes [B, t, h, w]; also of the first code frames alone."""
        ...


class VideoCodec(Codec, Protocol):
    """A codec of video, which codes several frames into one frame of codes."""

    @property
    def pixels_per_code(self) -> int:
        """Along each side."""
        ...

    @property
    def frames_per_code(self) -> int: ...

    def decode(self, codes: Tensor) -> Tensor:
        """Frames [B, 3, 1 + k * frames_per_code, H, W] of codes [B, 1 + k, h, w]; also of the first code frames alone."""
        ...


class Family(Protocol):
    """A loaded checkpoint: a `TokenModel` with its prompt format, sizes and codec.

    A size is named `512x768`, width x height in pixels. One that is not among `sizes` is an InputError that lists them.
    Start frames are no part of the prompt: they are the first tokens of the grid (see `pipeline.video.start_codes`).
    """

    name: str
    sizes: tuple[str, ...]  # what the model was trained for; the first is the default
    token_model: TokenModule
    codec: Codec
    defaults: SamplingDefaults
    clip: Clip

    @property
    def words(self) -> Words | None:
        """What it knows of a prompt's words, and reads of a long one; None where its tokenizer spells every text."""
        ...

    def grid(self, size: str | None = None, frames: int | None = None) -> Grid:
        """How the tokens of a clip of that size and number of frames lie; None is the default size, and a whole clip."""
        ...

    def prompt(self, texts: Sequence[str], negatives: Sequence[str] | None, guided: bool, size: str | None = None,
               encoded: Mapping[str, Tensor] | None = None) -> Prompt:  # fmt: skip
        """Prompt for a batch of len(texts); `negatives` replace the model's own prompt of the unconditional rows.

        `encoded` are hidden states [n, width] of texts that a host has encoded itself, by text; a family that reads its
        prompts without a text encoder refuses them.
        """
        ...

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Read texts that prompts will soon be made of, where reading them together saves much, and remember them."""
        ...

    def handed_on(self, tokens: Tensor, size: str | None = None) -> dict[str, Tensor]:
        """What other programs take in place of whole tokens [B, num_tokens], by the names that they have for it."""
        ...

    def empty_prompt(self, guided: bool) -> Prompt:
        """A prompt that says nothing, for one clip: made without a text encoder, for what does not look at the content.

        A model without guidance gets none.
        """
        ...


class PictureFamily:
    """What families of pictures share: one frame, and prompts that they read themselves."""

    clip = PICTURE
    name: str
    sizes: tuple[str, ...]

    words: Words | None = None

    def grid(self, size: str | None = None, frames: int | None = None) -> Grid:
        """See `Family`."""
        self.clip.code_frames(frames)
        return self.picture_grid(choose_size(size, self.sizes))

    def prompt(self, texts: Sequence[str], negatives: Sequence[str] | None, guided: bool, size: str | None = None,
               encoded: Mapping[str, Tensor] | None = None) -> Prompt:  # fmt: skip
        """See `Family`."""
        if encoded is not None:
            raise InputError(
                f"Models of the {self.name} family read their prompts themselves; disconnect the text encoder."
            )
        if guided and not self.clip.takes_guidance:
            raise InputError(f"Models of the {self.name} family are drawn from without guidance; set cfg to 1.")
        return self.picture_prompt(
            list(texts), list(negatives or [""] * len(texts)), guided, choose_size(size, self.sizes)
        )

    def read_ahead(self, texts: Sequence[str]) -> None:
        """See `Family`."""

    def handed_on(self, tokens: Tensor, size: str | None = None) -> dict[str, Tensor]:
        """See `Family`."""
        return {}

    def empty_prompt(self, guided: bool) -> Prompt:
        """See `Family`."""
        return self.prompt([""], None, guided and self.clip.takes_guidance)

    def picture_grid(self, size: str) -> Grid:
        """The grid of a picture of that size, one of `sizes`."""
        raise NotImplementedError

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        """The prompt, with a negative text for every text, and a size that is one of `sizes`."""
        raise NotImplementedError


def alternating(texts: Sequence[str], negatives: Sequence[str], guided: bool) -> list[str | None]:
    """The texts of a prompt's rows: the conditional ones alone, or each followed by its unconditional one.

    None is the model's own unconditional prompt, which stands where there is no negative text. An empty text is what a
    person left empty: the model's form of a prompt with nothing in it, as its authors' sampler would send it.
    """
    pairs = zip(texts, (negative if negative.strip() else None for negative in negatives), strict=True)
    return [text for pair in pairs for text in pair[: 1 + guided]]


def each_once(make: Callable[[Key], Made], items: Sequence[Key]) -> list[Made]:
    """`make` of every item, which is called once for equal ones: the rows of a batch often have a text in common."""
    made = {item: make(item) for item in dict.fromkeys(items)}
    return [made[item] for item in items]


def check_prompt_lengths(rows: Sequence[Sequence[int]], room: int) -> None:
    """Raise InputError if a prompt's row has more than `room` tokens: those that a model reads beside a picture."""
    if (longest := max(map(len, rows))) > room:
        raise InputError(
            f"The prompt takes {longest} tokens, and beside a picture of this size the model reads {room}; shorten it."
        )
