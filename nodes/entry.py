"""What ComfyUI asks the pack for: the list of its nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import folders
from .analysis import Stats
from .classes import ImageNetClass
from .diffusion import DecodeDiffusion, LoadDiffusion
from .downloads import GetModel
from .example_frames import ExampleFrame
from .export import ExportTokens
from .images import CropTokens, Decode, Encode
from .loaders import LoadModel
from .prompts import PromptList
from .sampling import Sampler
from .video import DecodeVideo

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    Sampler,
    Decode,
    DecodeVideo,
    Encode,
    CropTokens,
    Stats,
    GetModel,
    ImageNetClass,
    ExampleFrame,
    PromptList,
    ExportTokens,
    LoadDiffusion,
    DecodeDiffusion,
]


class Pack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> Pack:
    folders.register_model_folder()
    return Pack()
