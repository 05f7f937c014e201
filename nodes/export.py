"""Tokens for other packs."""

from __future__ import annotations

from comfy_api.latest import io

from .schema import schema
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, TokensSocket


class ExportTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_ExportTokens",
            display_name="MC-SJD Export Tokens",
            category=CATEGORY,
            description="Hands tokens to other packs. For GLM-Image, whose diffusion transformer makes the picture, it gives "
            "prior_token_ids, as diffusers' GlmImagePipeline takes them. For other models it gives the codes.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that drew the tokens; another one is refused."),
                TokensSocket.Input("tokens", tooltip="Whole pictures, from the sampler."),
            ],
            outputs=[
                io.AnyType.Output(
                    display_name="tensor",
                    tooltip="Whole numbers on the CPU: GLM-Image's prior_token_ids [batch, tokens], or the codes of other "
                    "models: [batch, rows, columns], for videos [batch, frames, rows, columns].",
                ),
                io.String.Output(display_name="name", tooltip="What the tensor is: prior_token_ids, or codes."),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, tokens: ImageTokens) -> io.NodeOutput:
        whole = tokens.require(model).require_whole("Export Tokens")
        tensors = model.family.handed_on(whole.tokens, whole.size) or {"codes": whole.grid.codes(whole.tokens)}
        name, tensor = next(iter(tensors.items()))
        return io.NodeOutput(tensor, name)
