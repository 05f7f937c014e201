"""Weights that ComfyUI has written in 8 bits, read as the numbers that they stand for.

Format (ComfyUI's QUANTIZATION.md): beside `<layer>.weight` lie its scale, and `<layer>.comfy_quant` with JSON as bytes; or the
metadata of the file name the layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .tensor_files import TensorFile

FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
MARK, METADATA = "comfy_quant", "_quantization_metadata"
SCALE = "weight_scale"
BESIDE = (MARK, SCALE, "weight_scale_2", "input_scale", "pre_quant_scale")  # what lies beside a weight


def seen_through(file: TensorFile, metadata: dict[str, str] | None, path: Path) -> TensorFile:
    """`file` itself, or if some of its layers are in 8 bits, one that gives their weights [out, in] as float32.

    Raises InputError if a layer is in a format that is not read, or if what says so is damaged.
    """
    formats = _formats(file, metadata or {}, path)
    if not formats:
        return file
    unread = sorted({kind for kind in formats.values() if kind not in FORMATS})
    if unread:
        raise InputError(
            f"{path} holds weights in the format {', '.join(unread)}, which is not read here; use the model's file in bf16, or "
            f"one in {' or '.join(FORMATS)}."
        )
    return _Quantised(file, formats, path)


def _formats(file: TensorFile, metadata: dict[str, str], path: Path) -> dict[str, str]:
    """The format of every layer that has one."""
    try:
        layers = dict(json.loads(metadata[METADATA])["layers"]) if METADATA in metadata else {}
        for name in file.names():
            if name.endswith(f".{MARK}"):
                layers[name.removesuffix(f".{MARK}")] = json.loads(bytes(file.tensor(name).tolist()))
        return {layer: str(said["format"]) for layer, said in layers.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} does not name the format of its weights as ComfyUI's files do ({error!r}); download it again."
        ) from None


class _Quantised:
    """An open file whose layers in `formats` are given as float32; what only says how to read them is hidden."""

    def __init__(self, file: TensorFile, formats: dict[str, str], path: Path):
        self.file, self.formats, self.path = file, formats, path
        self.hidden = {f"{layer}.{name}" for layer in formats for name in BESIDE}
        self.present = set(file.names())

    def names(self) -> list[str]:
        return [name for name in self.file.names() if name not in self.hidden]

    def shape(self, name: str) -> list[int]:
        return self.file.shape(name)

    def tensor(self, name: str) -> Tensor:
        layer = name.removesuffix(".weight")
        if name == layer or layer not in self.formats:
            return self.file.tensor(name)
        weight, kind = self.file.tensor(name), FORMATS[self.formats[layer]]
        if weight.dtype == torch.uint8:  # some write the bytes as they are
            weight = weight.view(kind)
        return weight.float() * self._scale(layer)

    def _scale(self, layer: str) -> Tensor:
        """One number."""
        name = f"{layer}.{SCALE}"
        scale = self.file.tensor(name).float() if name in self.present else torch.empty(0)
        if scale.numel() != 1:
            raise InputError(
                f"{self.path} has no single scale {name} for the 8-bit weights of {layer}; download it again."
            )
        return scale.reshape(())
