"""What only videos need: frames to start from, their number, and clips with a frame rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.text.prompts import clean_prompt
from . import runtime
from .long_video import end_of_video, length_of, whole_video
from .schema import schema
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, TokensSocket

SLOWEST, FASTEST = 0.01, 240.0  # frames a second


def video_inputs() -> list[io.Input]:
    """The sampler's inputs for video models."""
    return [
        io.Image.Input(
            "start_frames",
            optional=True,
            tooltip="For models that draw video: the frames to continue, as a batch. Only the last ones are "
            "used, as many as the model was trained to take; they are scaled and cropped to its size. "
            "One clip is used for the whole batch.",
        ),
        io.Int.Input(
            "frames",
            optional=True,
            default=0,
            min=0,
            max=4096,
            tooltip="For models that draw video: how many frames the video has in total, including the start "
            "frames. 0 is the number of the connected picture_tokens or (if initialiser is warm) warm_tokens, or else the "
            "model's own. Fewer take less time.",
        ),
        io.Clip.Input(
            "text_encoder",
            optional=True,
            tooltip="For Cosmos models that read a text: the text encoder of Cosmos, from ComfyUI's own CLIP "
            "loader. Without it, the T5 files beside the model are used.",
        ),
    ]


def encoded_texts(text_encoder, texts: list[str]) -> dict[str, Tensor] | None:
    """Hidden states [n, width] of every text, by ComfyUI's encoder; None without one: the model then has its own."""
    if text_encoder is None:
        return None
    texts = list(dict.fromkeys(map(clean_prompt, texts)))
    states = {text: text_encoder.encode_from_tokens(text_encoder.tokenize(text)) for text in texts}
    return {text: state[0] for text, state in states.items()}


@dataclass(frozen=True)
class Start:
    """What a sampler continues: tokens if there are any, the video they are the end of, and how many frames are given."""

    tokens: ImageTokens | None = None
    before: ImageTokens | None = None
    given: int = 0
    note: str = ""  # for the report
    skipped: int = 0  # frames of the whole video in front of these


def start_of(
    model: LoadedModel, size: str, frames: int | None, batch: int, *, start_frames: Tensor | None,
    first_tokens: ImageTokens | None, continue_video: ImageTokens | None, picture_tokens: ImageTokens | None,
) -> Start:  # fmt: skip
    """What the sampler continues, whichever way it is given; InputError if it is given twice.

    A video that is redrawn in part stays the continuation that it was.
    """
    inputs = {"start_frames": start_frames, "first_tokens": first_tokens, "continue_video": continue_video}
    connected = [name for name, value in inputs.items() if value is not None]
    if len(connected) > 1:
        raise InputError(
            f"{' and '.join(connected)} {'both' if len(connected) == 2 else 'all'} say how the video begins; connect only one of "
            "them."
        )
    if picture_tokens is not None and connected:
        raise InputError(_twice(connected[0]))
    if continue_video is not None:
        tokens, given = end_of_video(model, continue_video, frames, batch)
        last = "frame" if given == 1 else f"{given} frames"
        note = f"the last {last} of the video that this one continues"
        return Start(tokens, continue_video, given, note, length_of(model, continue_video) - given)
    if start_frames is not None:
        clip = model.family.clip
        tokens = runtime.start_of_video(model, start_frames, size, frames)
        return Start(tokens, given=clip.start_of(len(start_frames)), note=clip.start_note(len(start_frames)))
    return _begun_again(model, first_tokens, picture_tokens or first_tokens)


def _twice(name: str) -> str:
    """Why that input does not go with picture_tokens."""
    if name == "first_tokens":
        return "A picture can be continued or redrawn in part, not both; disconnect first_tokens or picture_tokens."
    return f"picture_tokens hold the frames that their video begins with, and keep them; disconnect {name}."


def _begun_again(model: LoadedModel, tokens: ImageTokens | None, drawn: ImageTokens | None) -> Start:
    """For what was `drawn` and is drawn anew in part: it begins as it did. `tokens` are what is left of it from its start on."""
    if drawn is None or not drawn.given:
        return Start(tokens)
    needed = drawn.given_tokens(model)
    if drawn.tokens.shape[1] < needed:
        rows = math.ceil(needed / drawn.grid.stride)
        raise InputError(
            f"first_tokens are cut within the {drawn.given} frames that their video began with; keep at least {rows} rows in "
            "Crop Tokens."
        )
    skipped = 0 if drawn.before is None else length_of(model, drawn.before) - drawn.given
    return Start(tokens, drawn.before, drawn.given, skipped=skipped)


class DecodeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_DecodeVideo",
            display_name="MC-SJD Decode Video",
            category=CATEGORY,
            description="Turns the tokens of a video into frames, and into a video with the model's frame rate "
            "for Save Video. Videos of a batch are joined one after another.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that drew the tokens; another one is refused."),
                TokensSocket.Input("tokens", tooltip="Whole videos, from the sampler."),
                io.Float.Input(
                    "frame_rate",
                    default=0.0,
                    min=0.0,
                    max=FASTEST,
                    step=0.5,
                    optional=True,
                    tooltip="Frames per second. 0 is the rate that the model was trained with; any other plays the "
                    "same frames slower or faster.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="All frames as a batch of pictures."),
                io.Video.Output(display_name="video", tooltip="For Save Video."),
                io.Float.Output(display_name="frame_rate", tooltip="Frames per second."),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, tokens: ImageTokens, frame_rate: float = 0.0) -> io.NodeOutput:
        if model.family.clip.is_picture:
            raise InputError(f"{model.name!r} draws pictures; MC-SJD Decode turns its tokens into them.")
        if frame_rate and not SLOWEST <= frame_rate <= FASTEST:
            raise InputError(
                f"frame_rate must be 0 (the model's own) or between {SLOWEST} and {FASTEST} frames a second, got {frame_rate}."
            )
        frames = whole_video(model, tokens.require(model).require_whole("Decode Video"))
        rate = Fraction(frame_rate or model.family.clip.frame_rate).limit_denominator(1000)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=rate))
        return io.NodeOutput(frames, video, float(rate))
