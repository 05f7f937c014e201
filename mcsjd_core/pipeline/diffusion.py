"""Pictures of tokens that a diffusion transformer makes pixels of: diffusers' `GlmImagePipeline` without its autoregressive part.

diffusers, transformers and accelerate are needed for it and are imported when a pipeline is loaded; nothing is downloaded. Of
the repository `zai-org/GLM-Image` the folders of PARTS are read, safetensors alone. Run with small random weights; the published
ones were not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import InputError, first_line, is_out_of_memory
from ..families.sizes import side_lengths
from ..file_contents import check_contents

INDEX = "model_index.json"
WITH_WEIGHTS = ("text_encoder", "transformer", "vae")  # folders with weights
PARTS = (*WITH_WEIGHTS, "tokenizer", "scheduler")
PRIOR = "prior_token_ids"
# Numbers at once for each pixel while the VAE makes it: ComfyUI's own count for VAEs of this shape.
VAE_NUMBERS_PER_PIXEL = 2178
PACKAGES = ("diffusers", "transformers", "accelerate")
INSTALL = 'pip install "diffusers>=0.42" "transformers>=5" accelerate'


@dataclass(frozen=True)
class DiffusionSettings:
    """Of the diffusion transformer, the defaults being those of diffusers; row b of a batch has the seed `seed + b`."""

    steps: int = 50
    guidance_scale: float = 1.5
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"The diffusion transformer needs at least 1 step, got {self.steps}.")
        if not 1 <= self.guidance_scale < float("inf"):
            raise InputError(
                f"The diffusion transformer's guidance must be 1 (off) or more, got {self.guidance_scale}."
            )


class DiffusionDecoder:
    """A loaded pipeline. `parts` are its modules with weights, for a host to move; all of them have to be on one device."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.parts: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in WITH_WEIGHTS}

    def memory_bytes(self, size: str) -> int:
        """About what making one picture takes beside the weights: that of the VAE, which takes the most."""
        width, height = side_lengths(size)
        return VAE_NUMBERS_PER_PIXEL * width * height * next(self.parts["vae"].parameters()).element_size()

    @torch.no_grad()
    def pictures(
        self, prior_token_ids: Tensor, texts: list[str], size: str, settings: DiffusionSettings = DiffusionSettings(),
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Pictures [1, 3, H, W] float32 in 0..1 on the CPU, one for each row of prior_token_ids [B, n] and its text.

        They are made one by one: the pipeline has no mask for texts of unequal length, so that a batch would change them. Of a
        text it reads what stands in quotation marks, to be written in the picture. `on_step` is told the steps done, over all
        pictures, and may raise to cancel.
        """
        width, height = side_lengths(size)
        device = next(self.parts["transformer"].parameters()).device
        done = 0

        def step_end(pipeline: Any, step: int, sigma: Any, tensors: dict) -> dict:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done)
            return tensors

        for row, (ids, text) in enumerate(zip(prior_token_ids, texts, strict=True)):
            result = self.pipeline(
                prompt=text,
                prior_token_ids=ids[None].to(device),
                height=height,
                width=width,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=torch.Generator().manual_seed((settings.seed + row) % 2**64),
                output_type="pt",
                callback_on_step_end=step_end,
            )
            picture = result.images.float().cpu()
            if not picture.isfinite().all():
                raise InputError(
                    "The diffusion transformer's picture has values that are not numbers (NaN); load it in bf16 or fp32."
                )
            yield picture


def is_diffusion_directory(path: Path) -> bool:
    """Whether `path` holds the index and the parts of such a pipeline."""
    return (path / INDEX).is_file() and all((path / part).is_dir() for part in PARTS)


def check_packages() -> None:
    """Raise InputError if a package that pictures need is not there; looks for them without importing any."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise _lacking(f"No module named {name!r}")


def _lacking(reason: str) -> InputError:
    return InputError(f"GLM-Image's pictures need further packages ({reason}): install them with `{INSTALL}`.")


def load_diffusion(path: Path, *, dtype: torch.dtype, fp8: bool = False) -> DiffusionDecoder:
    """Read a pipeline's directory to the CPU; with `fp8` the transformer's matrices are held in float8 and cast as they are used.

    Raises InputError if a package or a part is missing, or a file cannot be read.
    """
    missing = [name for name in (INDEX, *PARTS) if not (path / name).exists()]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; GLM-Image's diffusion transformer is published in the same repository as its "
            "autoregressive stage: download it there."
        )
    for name in WITH_WEIGHTS:
        for file in (path / name).glob("*.safetensors"):
            check_contents(file)
    pipeline_class = _pipeline_class()
    try:
        # Without its own autoregressive part, whose tokens are given.
        absent = {"vision_language_encoder": None, "processor": None}
        pipeline = pipeline_class.from_pretrained(
            str(path), **absent, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise InputError(f"diffusers cannot read {path} ({reason}); download it again.") from None
    pipeline.set_progress_bar_config(disable=True)
    if fp8:
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    return DiffusionDecoder(pipeline)


def _pipeline_class() -> Any:
    """diffusers' class, if a version that takes tokens is installed with what it needs."""
    try:
        import accelerate  # noqa: F401 - without it, weights would be read twice
        from diffusers import GlmImagePipeline
    except (ImportError, RuntimeError) as error:  # RuntimeError: diffusers' own, of an import that failed inside of it
        raise _lacking(first_line(error)) from None
    if PRIOR not in signature(GlmImagePipeline.__call__).parameters:
        raise InputError(f"This version of diffusers takes no {PRIOR}; update it to 0.42 or newer.")
    return GlmImagePipeline
