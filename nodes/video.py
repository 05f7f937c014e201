"""What only videos need: frames to start from, their number, and clips with a frame rate."""

from __future__ import annotations

from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.text.prompts import clean_prompt
from . import runtime
from .schema import schema
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, TokensSocket


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
            "frames. 0 is the model's own number. Fewer take less time.",
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


def start_tokens(
    model: LoadedModel, start_frames: Tensor | None, first_tokens: ImageTokens | None, size: str, frames: int | None
) -> ImageTokens | None:
    """The tokens that the sampler continues, whichever way they are given; InputError if they are given twice."""
    if start_frames is None:
        return first_tokens
    if first_tokens is not None:
        raise InputError("Both start_frames and first_tokens say how the video begins; connect only one of them.")
    return runtime.start_of_video(model, start_frames, size, frames)


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
                    max=240.0,
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
        frames = runtime.pictures(model, tokens.require(model).require_whole("Decode Video"))
        rate = Fraction(frame_rate or model.family.clip.frame_rate).limit_denominator(1000)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=rate))
        return io.NodeOutput(frames, video, float(rate))
