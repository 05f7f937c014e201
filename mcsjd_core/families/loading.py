"""From a path to a loaded model: which family it is, and how its weights are to be held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.checkpoint import calling, read_json
from ..errors import InputError, first_line
from ..nn import operations as own_operations
from ..nn.packing import pack
from ..nn.weights import WEIGHT_FORMATS
from .interface import Family
from .registry import FAMILIES

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel they lie inside of the package, in a clone beside it.
EMBEDDED = next(
    (folder for folder in (_PACKAGE / "embedded", _PACKAGE.parent / "embedded") if folder.is_dir()), _PACKAGE
)
EMBEDDED_MODEL = EMBEDDED / "scenes"
EMBEDDED_VIDEO_MODEL = EMBEDDED / "motion"


def detect(path: Path | str) -> str | None:
    """Name of the family whose checkpoint lies at `path`, None if no family recognises it; `load` then says why."""
    try:
        return next((name for name, family in FAMILIES.items() if family.detect(Path(path))), None)
    except (InputError, OSError):  # what may not be entered or read is no one's; loading it says why
        return None


def draws_video(path: Path | str) -> bool | None:
    """Whether a checkpoint draws videos, told by its family; None if no family recognises it, which `load` then explains."""
    name = detect(path)
    return None if name is None else getattr(FAMILIES[name], "DRAWS_VIDEO", False)


def checkpoint_paths(path: Path) -> list[Path]:
    """The files and directories that the checkpoint at `path` is read from: mostly `path` itself, and what lies outside of it,
    such as a codec for several."""
    path = path.absolute()
    name = detect(path)
    if name is None:
        return [path]
    family = FAMILIES[name]
    if parts := getattr(family, "parts", None):
        return parts(path)
    companions = getattr(family, "companions", None)
    return [path, *(companions(path) if companions else ())]


def load(
    path: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device="cpu",
    operations: Any = own_operations,
    weights: str = "full",
    packed: bool = False,
    before_tensor: Callable[[], None] = lambda: None,
) -> Family:
    """Load the checkpoint at `path`, a directory or the file that some families keep it in, onto `device`.

    `dtype` is that of the transformer's weights and activations. `operations` provides the layer classes (`Linear`,
    `Embedding`, `RMSNorm`, `Conv2d`, `GroupNorm`), so that a host can cast and offload weights its own way.
    `weights` is one of WEIGHT_FORMATS, how the transformer's matrices are held: "full" in `dtype`, "bf16" widened
    to `dtype` where they are used, "fp8" or "int8" in 8 bits.
    `packed` lays matrices that a CPU holds in full out as it multiplies fastest with them, see `packing.pack`.
    `before_tensor` is called before every tensor that is taken in; what it raises ends the loading.
    On a CPU, weights that are stored in `dtype` already stay memory-mapped: leave the files alone while the model lives.
    Raises InputError if the path, a file in it or a tensor is not what a supported checkpoint has.
    """
    path = Path(path).absolute()  # `.` has no name, and nothing beside it; links stay, for their names count
    if not dtype.is_floating_point:
        raise InputError(
            f"Weights can be held in a floating-point dtype only, got {dtype}; use torch.float32 or torch.bfloat16."
        )
    if weights not in WEIGHT_FORMATS:
        raise InputError(f"weights must be one of {', '.join(WEIGHT_FORMATS)}, got {weights!r}.")
    _check_device(device)
    name = detect(path)
    if name is None:
        raise InputError(_why_unsupported(path))
    with calling(before_tensor):
        model = FAMILIES[name].load(path, dtype=dtype, device=device, operations=WEIGHT_FORMATS[weights](operations))
    if packed:
        pack(model.token_model)
    return model


def _check_device(device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without the device raises AssertionError
        reason = first_line(error)
        raise InputError(f"Device {device} cannot be used ({reason}); use 'cpu' or one that is there.") from None


def _why_unsupported(path: Path) -> str:
    """Why no family takes `path`, in one sentence; raises InputError itself if config.json is missing or broken."""
    try:
        return _what_lies_at(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); give yourself permission to read it."


def _what_lies_at(path: Path) -> str:
    if not path.exists():
        return f"There is no checkpoint at {path}; give the directory that holds its config.json."
    if not path.is_dir():
        return (
            f"{path} is a file; give the directory that holds the checkpoint's config.json, or a file of weights under the "
            "name that it was published with."
        )
    if len(inside := [file.name for file in sorted(path.iterdir()) if file.is_file() and detect(file)]) > 1:
        return f"{path} holds several checkpoints, {', '.join(inside)}; give one of these files."
    kind = read_json(path / "config.json").get("model_type")
    return f"{path} is a checkpoint of model_type {kind!r}; the supported families are {', '.join(FAMILIES)}."
