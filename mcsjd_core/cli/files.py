"""Pictures and tokens from and to files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..families.interface import Family
from ..pipeline.image_files import frames_of, to_pixels
from ..pipeline.sampling import encode

TOKEN_SUFFIXES = (".safetensors", ".json")
# RuntimeError is what torch makes of entries that are no numbers, and Python of thousands of brackets.
UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError)


def read_codes(path: Path, model: Family, size: str | None = None) -> Tensor:
    """Codes [1, rows, columns] of the picture in a file, scaled and cropped to `size` as the Encode node does."""
    tokens = encode(model, to_pixels(next(frames_of(path)))[None], size)
    return model.grid(size).codes(tokens)


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
    except UNREADABLE:
        raise InputError(f"{path} does not hold tokens; give a file that --save-tokens wrote.") from None
