"""Pictures and tokens from and to files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..families.interface import Family
from ..families.sizes import choose_size, side_lengths

TOKEN_SUFFIXES = (".safetensors", ".json")


def to_image(pixels: Tensor) -> Image.Image:
    """An RGB image of pixels [3, H, W] in 0..1."""
    return Image.fromarray((pixels * 255).round().byte().movedim(0, -1).cpu().numpy())


def on_white(image: Image.Image) -> Image.Image:
    """In RGB, with white behind what is transparent."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """Pixels [3, H, W] in 0..1 of an RGB image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).movedim(-1, 0).float() / 255


def read_codes(path: Path, model: Family, size: str | None = None) -> Tensor:
    """Codes [1, rows, columns] of the picture in a file, on white where it is transparent, resized to `size`."""
    try:
        with Image.open(path) as file:
            image = on_white(file)
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file.") from None
    resized = image.resize(side_lengths(choose_size(size, model.sizes)), Image.Resampling.LANCZOS)
    return model.codec.encode(to_pixels(resized)[None].to(model.codec.input_device))


def write_tokens(path: Path, tokens: Tensor, others: Mapping[str, Tensor] | None = None) -> None:
    """Tokens [B, num_tokens] as safetensors (tensor `tokens`) or JSON (key `tokens`), by the file's suffix; and `others`."""
    tensors = {"tokens": tokens, **(others or {})}
    if path.suffix.lower() == ".json":
        text = json.dumps({name: tensor.tolist() for name, tensor in tensors.items()})
        path.write_text(text + "\n", encoding="utf-8")
    else:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def read_tokens(path: Path) -> Tensor:
    """What `write_tokens` wrote."""
    try:
        if path.suffix.lower() == ".json":
            return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["tokens"])
        return load_file(path)["tokens"]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; --save-tokens writes such a file.") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        raise InputError(f"{path} does not hold tokens; give a file that --save-tokens wrote.") from None
