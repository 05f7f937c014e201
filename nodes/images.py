"""Between pictures and image tokens."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from . import runtime
from .long_video import whole_video
from .schema import schema
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, TokensSocket, size_input


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_Decode",
            display_name="MC-SJD Decode",
            category=CATEGORY,
            description="Turns tokens into pictures with the codec of the model that drew them.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that drew the tokens; another one is refused."),
                TokensSocket.Input("tokens", tooltip="Whole pictures, from the sampler or from Encode."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures, as a batch.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, tokens: ImageTokens) -> io.NodeOutput:
        return io.NodeOutput(whole_video(model, tokens.require(model).require_whole("Decode")))


class Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_Encode",
            display_name="MC-SJD Encode",
            category=CATEGORY,
            description="Turns pictures into the tokens of a model, to continue them (through Crop Tokens), to "
            "redraw a part of them, or to see what the model's codec makes of them. They are scaled "
            "and cropped to the model's size.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that will use the tokens."),
                io.Image.Input(
                    "image",
                    tooltip="Any picture or batch. What does not fit the model's shape is cropped equally on both sides; "
                    "transparent areas become white.",
                ),
                size_input(
                    "Width x height in pixels, one of the sizes that Load Model shows. If empty: the model's own."
                ),
            ],
            outputs=[TokensSocket.Output(display_name="tokens", tooltip="Whole pictures, one for each of the batch.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, image: Tensor, size: str = "") -> io.NodeOutput:
        return io.NodeOutput(runtime.encode(model, image, size.strip() or None))


class CropTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_CropTokens",
            display_name="MC-SJD Crop Tokens",
            category=CATEGORY,
            description="Keeps the upper rows of pictures, so that the sampler can draw a new lower part.",
            inputs=[
                TokensSocket.Input("tokens", tooltip="From the sampler or from Encode."),
                io.Int.Input(
                    "rows",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="Token rows to keep, counted from the top. The embedded image model has 24; other models "
                    "have one for every 8, 16 or 32 pixels of height.",
                ),
            ],
            outputs=[TokensSocket.Output(display_name="tokens", tooltip="For the sampler's first_tokens.")],
        )

    @classmethod
    def execute(cls, tokens: ImageTokens, rows: int) -> io.NodeOutput:
        return io.NodeOutput(tokens.crop(rows))
