"""Which device a model runs on, where ComfyUI offers a choice."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from .schema import advanced

DEFAULT = "default"


def device_input() -> io.Combo.Input:
    return advanced(
        io.Combo.Input(
            "device",
            optional=True,
            options=getattr(mm, "get_gpu_device_options", lambda: [DEFAULT, "cpu"])(),
            default=DEFAULT,
            tooltip="Where the model runs. default: where ComfyUI runs its own models. cpu: on the processor. Newer "
            "versions of ComfyUI list additional graphics cards, too.",
        )
    )


def device_of(choice: str) -> torch.device:
    """The device of a menu entry; one that this computer lacks is the default, with a line in the log."""
    if choice == "cpu":
        return torch.device("cpu")
    device = getattr(mm, "resolve_gpu_device_option", lambda _: None)(choice)
    if device is None and choice != DEFAULT:
        logging.info("MC-SJD: this computer has no device %s; the default is used.", choice)
    return device or mm.get_torch_device()


def at_work_on(device: torch.device) -> AbstractContextManager:
    """Wraps work on a device: kernels that ask for the current card get this one."""
    return getattr(mm, "cuda_device_context", lambda _: nullcontext())(device)


def free_memory(patcher: ModelPatcher) -> int:
    """Bytes free on the device of a model; newer patchers also count what can be unloaded at once."""
    own = getattr(patcher, "get_free_memory", None)
    return own(patcher.load_device) if own else mm.get_free_memory(patcher.load_device)
