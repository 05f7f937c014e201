"""Files that ComfyUI wrote in 8 bits: read as what they stand for where that is fp8, refused in one sentence otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from comfy_host import sentence
from mcsjd_core import InputError
from tiny_checkpoint import write_tiny_checkpoint

FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


@pytest.fixture
def directory(tmp_path) -> Path:
    return write_tiny_checkpoint(tmp_path / "tiny")


def matrices(tensors: dict) -> list[str]:
    """Layers of the transformer that are matrices in every block."""
    return [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]


def quantise(directory: Path, kind: str, *, marked: bool = True, as_bytes: bool = False) -> dict[str, torch.Tensor]:
    """Rewrite the matrices as ComfyUI does; gives the weights that they stand for, by layer."""
    file = directory / "model.safetensors"
    tensors, meant, storage = load_file(file), {}, FP8[kind]
    for layer in matrices(tensors):
        weight = tensors[f"{layer}.weight"]
        scale = weight.abs().max() / torch.finfo(storage).max
        small = (weight / scale).to(storage)
        meant[layer] = small.float() * scale
        tensors[f"{layer}.weight"] = small.view(torch.uint8) if as_bytes else small
        tensors[f"{layer}.weight_scale"], tensors[f"{layer}.input_scale"] = scale, torch.tensor(1.0)
        if marked:
            tensors[f"{layer}.comfy_quant"] = torch.tensor(
                list(json.dumps({"format": kind}).encode()), dtype=torch.uint8
            )
    layers = {layer: {"format": kind} for layer in meant}
    said = {} if marked else {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(tensors, file, {"format": "pt"} | said)
    return meant


def plain(directory: Path, meant: dict[str, torch.Tensor]) -> None:
    """The same weights without any format."""
    file = directory / "model.safetensors"
    save_file(load_file(file) | {f"{layer}.weight": weight for layer, weight in meant.items()}, file, {"format": "pt"})


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("kind", FP8)
def test_fp8_weights_are_what_they_stand_for(directory, tmp_path, kind, marked, as_bytes):
    same = write_tiny_checkpoint(tmp_path / "same")
    meant = quantise(directory, kind, marked=marked, as_bytes=as_bytes)
    assert len(meant) > 4
    plain(same, meant)
    ours, theirs = (mcsjd_core.load(path).token_model.state_dict() for path in (directory, same))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["full", "fp8"])
def test_they_can_be_held_in_every_form(directory, dtype, weights):
    quantise(directory, "float8_e4m3fn")
    assert mcsjd_core.load(directory, dtype=dtype, weights=weights)


def test_held_in_fp8_again_they_lose_nothing(directory):
    """The largest number of a matrix is the format's largest already, so the scale is the same."""
    meant = quantise(directory, "float8_e4m3fn")
    held = mcsjd_core.load(directory, weights="fp8").token_model
    layers = [
        layer for layer in held.modules() if hasattr(layer, "scale") and layer.weight.dtype == torch.float8_e4m3fn
    ]
    found = [layer.weight.float() * layer.scale for layer in layers]
    for weight in meant.values():
        assert any(weight.shape == other.shape and torch.allclose(weight, other, rtol=1e-6) for other in found)


@pytest.mark.parametrize("kind", ["nvfp4", "int8_tensorwise", "mxfp8", "something new"])
def test_other_formats_are_refused(directory, kind):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    mark = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    save_file(tensors | {f"{matrices(tensors)[0]}.comfy_quant": mark}, file, {"format": "pt"})
    with pytest.raises(InputError) as error:
        mcsjd_core.load(directory)
    assert kind in sentence(error) and "bf16" in sentence(error)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, layer: tensors.pop(f"{layer}.weight_scale"),
        lambda tensors, layer: tensors.update({f"{layer}.weight_scale": torch.ones(3)}),
        lambda tensors, layer: tensors.update({f"{layer}.comfy_quant": torch.tensor([123, 1], dtype=torch.uint8)}),
        lambda tensors, layer: tensors.update({f"{layer}.comfy_quant": torch.tensor([91, 93], dtype=torch.uint8)}),
    ],
)
def test_damaged_ones_are_named(directory, damage):
    quantise(directory, "float8_e4m3fn")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    damage(tensors, matrices(tensors)[0])
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError) as error:
        mcsjd_core.load(directory)
    assert "model.safetensors" in sentence(error)
