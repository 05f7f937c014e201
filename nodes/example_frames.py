"""Frames that the embedded video model can continue, so that graphs run without a file of the user's."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from .. import mcsjd_core
from ..mcsjd_core.errors import InputError
from ..mcsjd_core.pipeline.image_files import read_frames, to_pixels
from .schema import schema
from .types import CATEGORY

FIRST = "the red apple moves right"
NONE = "(the embedded video model is missing)"  # a menu must not be empty


class ExampleFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = list(example_frames()) or [NONE]
        return schema(
            node_id="MCSJD_ExampleFrame",
            display_name="MC-SJD Example Frame",
            category=CATEGORY,
            description="A first frame for the embedded video model: a thing over a photograph, one of those that "
            "come with the model. For a picture of your own, use Load Image instead.",
            inputs=[
                io.Combo.Input(
                    "frame",
                    options=names,
                    default=FIRST if FIRST in names else names[0],
                    tooltip="Each frame is named after what happens in the clip it was taken from; the sampler's "
                    "prompt may ask for another motion.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For the sampler's start_frames.")],
        )

    @classmethod
    def execute(cls, frame: str) -> io.NodeOutput:
        path = example_frames().get(frame)
        if path is None:
            raise InputError(
                f"There is no example frame {frame!r} in embedded/{mcsjd_core.EMBEDDED_VIDEO_MODEL.name}/start_frames of "
                "this pack; choose another from the menu, or use Load Image."
            )
        return io.NodeOutput(read_frame(path))


def example_frames() -> dict[str, Path]:
    """Files of the example frames, by what the menu calls them."""
    files = sorted((mcsjd_core.EMBEDDED_VIDEO_MODEL / "start_frames").glob("*.png"))
    return {file.stem.replace("_", " "): file for file in files}


def read_frame(path: Path) -> torch.Tensor:
    """IMAGE [1, H, W, 3] of a picture's file."""
    return to_pixels(read_frames(path)[0]).movedim(0, -1)[None]
