"""Fixtures that several test files share."""

from comfy_host import checkpoint_dir, comfyui, model_folder, pack, tiny_checkpoint  # noqa: F401
