"""Load a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core import InputError
from . import folders, runtime
from .devices import DEFAULT, device_input
from .schema import schema
from .speed import EXECUTIONS, execution_input
from .types import CATEGORY, ModelSocket, in_node


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_LoadModel",
            display_name="MC-SJD Load Model",
            category=CATEGORY,
            description="Loads an autoregressive model: one of the small ones that come with this pack, or a "
            "checkpoint in models/mcsjd. The node then shows the family, the sizes and the memory it "
            "takes.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(folders.checkpoints()),
                    default=folders.EMBEDDED,
                    tooltip="Which model draws. The embedded ones need no download and run on a CPU; others appear "
                    "here once their directory, with all files as published, is in models/mcsjd and you press R. Get "
                    "Model downloads public ones.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(runtime.DTYPES),
                    default="auto",
                    tooltip="Number format of the transformer. auto: bf16 if the device computes in it, otherwise fp32. "
                    "fp32 takes twice the memory and makes seed-exact pictures agree most closely; fp16 can "
                    "overflow; fp8 and int8 weights take half the memory of bf16, compute as auto does, and draw "
                    "slightly different pictures (int8 less so; it needs the package torchao). fp32 from bf16 "
                    "weights takes little more memory than bf16 and, if the checkpoint is in bf16, draws like "
                    "fp32, but is slower. The codec, which turns tokens into pictures, always runs in fp32.",
                ),
                execution_input(),
                device_input(),
            ],
            outputs=[ModelSocket.Output(display_name="model", tooltip="For the sampler and the decode nodes.")],
            is_output_node=True,  # so that it can run alone, and shows its text again when the model comes from ComfyUI's cache
        )

    @classmethod
    def validate_inputs(cls, model: str, device: str = DEFAULT) -> bool | str:
        """In place of ComfyUI's own check of the two menus: its sentence would not say where models come from, and a graph may
        name a device that this computer lacks.
        """
        is_there = model is None or folders.is_embedded(model) or model in folders.checkpoints()
        return True if is_there else folders.missing(model)

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, execution: str = EXECUTIONS[0], device: str = DEFAULT) -> str:
        """Changed files are read again."""
        try:
            return folders.identity(folders.find_checkpoint(model))
        except InputError:
            return ""

    @classmethod
    def execute(cls, model: str, dtype: str, execution: str = EXECUTIONS[0], device: str = DEFAULT) -> io.NodeOutput:
        loaded = runtime.load_model(model, dtype, execution, device)
        return io.NodeOutput(loaded, ui=in_node(runtime.describe(loaded)))
