"""Pictures of GLM-Image's tokens, which its diffusion transformer makes."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.pipeline.diffusion import DiffusionSettings, check_packages
from . import diffusion_models, folders
from .diffusion_models import LoadedDiffusion
from .schema import schema
from .seeds import seed_input
from .types import CATEGORY, DiffusionSocket, ImageTokens, LoadedModel, ModelSocket, TokensSocket

NONE = "GLM-Image"  # in an empty menu: what Get Model makes


class LoadDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        found = list(folders.diffusion_models())
        return schema(
            node_id="MCSJD_LoadDiffusion",
            display_name="MC-SJD Load GLM-Image Decoder",
            category=CATEGORY,
            description="Loads what turns GLM-Image's tokens into pictures: a diffusion transformer with its text encoder and "
            "VAE, run by diffusers. It needs the packages diffusers, transformers 5 and accelerate; Get Model fetches the "
            "weights as GLM-Image-decoder.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=found or [NONE],
                    default=(found or [NONE])[0],
                    tooltip="A directory below models/mcsjd with model_index.json and the folders transformer, text_encoder, "
                    "vae, tokenizer and scheduler. Press R after a download.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=diffusion_models.DTYPES,
                    default="auto",
                    tooltip="Number format. auto: bf16 where the device computes in it, otherwise fp32. fp8 weights halve the "
                    "memory of the transformer's matrices and change pictures slightly.",
                ),
            ],
            outputs=[DiffusionSocket.Output(display_name="decoder", tooltip="For Decode GLM-Image.")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None) -> bool | str:
        """In place of ComfyUI's own check of the menu, whose sentence would not say where decoders come from. A linked name is
        None. What is missing is told now: this node runs after the tokens are drawn.
        """
        try:
            if model is not None:
                folders.find_diffusion(model)
            check_packages()
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str) -> str:
        """Changed files are read again."""
        try:
            return folders.identity_of([folders.find_diffusion(model)])
        except InputError:
            return ""

    @classmethod
    def execute(cls, model: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(diffusion_models.load_decoder(model, dtype))


def diffusion_inputs() -> list[io.Input]:
    """How the diffusion runs."""
    own = DiffusionSettings()
    return [
        seed_input(
            "For the diffusion: another seed gives different pixels from the same tokens. Further pictures of the "
            "batch use seed + 1, seed + 2 and so on."
        ),
        io.Int.Input(
            "steps",
            default=own.steps,
            min=1,
            max=1000,
            tooltip="Steps of the diffusion; 50 is the authors' number. Fewer take less time.",
        ),
        io.Float.Input(
            "cfg",
            default=own.guidance_scale,
            min=1.0,
            max=30.0,
            step=0.1,
            round=0.01,
            tooltip="How strictly the diffusion follows tokens and text; 1.5 is the authors' number. 1 is off and "
            "halves the work of every step.",
        ),
    ]


class DecodeDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_DecodeDiffusion",
            display_name="MC-SJD Decode GLM-Image",
            category=CATEGORY,
            description="Turns GLM-Image's tokens into pictures with its diffusion transformer, one after the other. Text in "
            "quotation marks in the prompt is written in the picture.",
            inputs=[
                DiffusionSocket.Input("decoder", tooltip="From Load GLM-Image Decoder."),
                ModelSocket.Input("model", tooltip="The model that drew the tokens; any other model is refused."),
                TokensSocket.Input("tokens", tooltip="Complete pictures, from the sampler."),
                *diffusion_inputs(),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture for each entry of the batch.")],
        )

    @classmethod
    def execute(
        cls, decoder: LoadedDiffusion, model: LoadedModel, tokens: ImageTokens, seed: int, steps: int, cfg: float
    ) -> io.NodeOutput:
        whole = tokens.require(model).require_whole("Decode GLM-Image")
        return io.NodeOutput(diffusion_models.pictures(model, decoder, whole, DiffusionSettings(steps, cfg, seed)))
