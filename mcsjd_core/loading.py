"""From a path to a loaded model: which family it is, and how its weights are to be held."""

from __future__ import annotations

from pathlib import Path

import torch

from .errors import InputError
from .models import FAMILIES
from .models.interface import Family

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent / "embedded" / "emoji-256"


def detect(path: Path | str) -> str | None:
    """Name of the family whose checkpoint lies at `path`, None if no family recognises it."""
    path = Path(path)
    return next((name for name, family in FAMILIES.items() if family.detect(path)), None)


def load(path: Path | str, *, dtype: torch.dtype = torch.float32, device="cpu", operations=torch.nn) -> Family:
    """Load the checkpoint at `path` onto `device`.

    `dtype` is that of the transformer's weights and activations. `operations` provides the layer classes (`Linear`,
    `Embedding`, `RMSNorm`, `Conv2d`, `GroupNorm`), so that a host can cast and offload weights its own way.
    Raises InputError if the path, a file in it or a tensor is not what a supported checkpoint has.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no checkpoint at {path}; give the directory that holds its config.json.")
    if not dtype.is_floating_point:
        raise InputError(f"Weights can be held in a floating-point dtype only, got {dtype}; use torch.float32 or torch.bfloat16.")
    name = detect(path)
    if name is None:
        raise InputError(f"{path} is not a checkpoint of a supported family ({', '.join(FAMILIES)}); check its config.json.")
    return FAMILIES[name].load(path, dtype=dtype, device=device, operations=operations)
