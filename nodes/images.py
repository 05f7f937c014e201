"""Turn image tokens into pictures."""

from __future__ import annotations

from comfy_api.latest import io

from . import runtime
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, TokensSocket


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MCSJD_Decode",
            display_name="MC-SJD Decode",
            category=CATEGORY,
            description="Turns tokens into pictures with the codec of the model that drew them.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that drew the tokens; another one is refused."),
                TokensSocket.Input("tokens", tooltip="From the sampler."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture for each of the batch.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, tokens: ImageTokens) -> io.NodeOutput:
        return io.NodeOutput(runtime.pictures(model, tokens.require(model)))
