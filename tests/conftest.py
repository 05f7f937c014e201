"""Fixtures that several test files share."""

import torch

from comfy_host import comfyui, model, model_folder, pack, tiny_checkpoint  # noqa: F401

# Tensors of this size gain nothing from threads, and wait for one another for minutes where the cores are busy.
torch.set_num_threads(1)
