"""Diffusion models under ComfyUI's memory management: loading them, and pictures of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.nn.weights import stored_bytes
from ..mcsjd_core.pipeline.diffusion import PRIOR, DiffusionDecoder, DiffusionSettings, load_diffusion
from . import folders, runtime
from .devices import at_work_on
from .progress import Progress, check_cancelled
from .types import ImageTokens, LoadedModel

FP8 = "fp8 weights"
DTYPES = ["auto", "bf16", "fp16", "fp32", FP8]


class Holder(nn.Module):
    """A module for ComfyUI, which sets `device` on what it moves; those of diffusers and transformers forbid that."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part


@dataclass(frozen=True, eq=False)
class LoadedDiffusion:
    """A pipeline in ComfyUI's care."""

    name: str
    decoder: DiffusionDecoder
    fp8: bool  # whether its matrices are held in 8 bits
    patchers: list[ModelPatcher]

    @property
    def patcher(self) -> ModelPatcher:
        """See `LoadedModel`."""
        return max(self.patchers, key=lambda patcher: patcher.model_size())

    def get_models(self) -> list[ModelPatcher]:
        """See `LoadedModel`."""
        return self.patchers


def load_decoder(name: str, dtype_choice: str) -> LoadedDiffusion:
    """Read a pipeline into ordinary memory; it moves to the device when it is used."""
    if dtype_choice not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype_choice!r}.")
    path, device = folders.find_diffusion(name), mm.get_torch_device()
    dtype = runtime.choose_dtype(dtype_choice, device)
    if dtype_choice == FP8:
        runtime.check_fp8(device, dtype)
    check_cancelled()
    with runtime.memory_freed_on_error():
        decoder = load_diffusion(path, dtype=dtype, fp8=dtype_choice == FP8)
    places = {"load_device": device, "offload_device": mm.unet_offload_device()}
    patchers = [ModelPatcher(Holder(part), size=stored_bytes(part), **places) for part in decoder.parts.values()]
    return LoadedDiffusion(name, decoder, dtype_choice == FP8, patchers)


def pictures(model: LoadedModel, loaded: LoadedDiffusion, tokens: ImageTokens, settings: DiffusionSettings) -> Tensor:
    """IMAGE [B, H, W, 3] float32 on the CPU of whole tokens; Stop works after every step."""
    prior = model.family.handed_on(tokens.tokens, tokens.size).get(PRIOR)
    if prior is None:
        raise InputError(f"{model.name!r} decodes its own tokens; connect the tokens to MC-SJD Decode.")
    device = loaded.patcher.load_device
    # In one piece: layers of other packages cannot be left behind and fetched one by one.
    mm.load_models_gpu(loaded.patchers, memory_required=loaded.decoder.memory_bytes(tokens.size), force_full_load=True)
    tensors = (tensor for part in loaded.decoder.parts.values() for tensor in part.parameters())
    if any(tensor.device.type != torch.device(device).type for tensor in tensors):
        advice = "it is too small even for 8-bit weights" if loaded.fp8 else f"set dtype to {FP8}"
        raise InputError(
            f"The weights of {loaded.name!r} do not fit on {device} all at once, which diffusers needs; {advice}."
        )
    progress = Progress(len(prior) * settings.steps)
    texts = list(tokens.texts) or [""] * len(prior)
    with runtime.memory_freed_on_error(), at_work_on(device):
        made = list(loaded.decoder.pictures(prior, texts, tokens.size, settings, progress.update))
    return torch.cat(made).movedim(1, -1).contiguous()
