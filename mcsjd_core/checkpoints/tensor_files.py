"""One file of named tensors, opened so that nothing in it can run: safetensors, or a torch file read with weights_only."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, first_line, is_out_of_memory
from ..file_contents import check_contents
from .quantised import seen_through

SAFETENSORS, TORCH = (".safetensors",), (".bin", ".ckpt", ".pt", ".pth")
SUFFIXES = SAFETENSORS + TORCH
WRAPPERS = ("model", "module", "state_dict", "ema")  # keys of a torch file under which training code puts the weights
ARCHIVE, PICKLE, PROTOCOLS = b"PK", b"\x80", (b"\x02", b"\x03", b"\x04", b"\x05")  # first bytes of a torch file
PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put in front of every name
SETTINGS = [argparse.Namespace]  # beside tensors: the settings that training code saves with them; a bag of values


class TensorFile(Protocol):
    """An open file; tensors are read when they are asked for."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> list[int]: ...

    def tensor(self, name: str) -> Tensor: ...


class _Safetensors:
    def __init__(self, handle):
        self.handle = handle

    def names(self) -> list[str]:
        return list(self.handle.keys())

    def shape(self, name: str) -> list[int]:
        return self.handle.get_slice(name).get_shape()

    def tensor(self, name: str) -> Tensor:
        return self.handle.get_tensor(name)


class _TorchTensors:
    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> list[int]:
        return list(self.tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name].detach()  # another object on the same memory, so that it shows who keeps it


@contextmanager
def open_tensors(file: Path) -> Iterator[TensorFile]:
    """The tensors of a file, memory-mapped; raises InputError if it is not there, not whole, or more than tensors."""
    if not file.is_file():
        raise InputError(f"{file} is {'not a file' if file.exists() else 'missing'}; download it.")
    check_contents(file)
    if file.suffix in TORCH:
        yield _TorchTensors(_read_torch(file))
        return
    try:
        handle = safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a whole safetensors file ({error}); download it again.") from None
    with handle:
        yield seen_through(_Safetensors(handle), handle.metadata(), file)


def _read_torch(file: Path) -> dict[str, Tensor]:
    """Tensors of a torch file, of the first of WRAPPERS that it has."""
    start = _first_bytes(file)
    if start != ARCHIVE and not (start[:1] == PICKLE and start[1:] in PROTOCOLS):
        # Torch's reader would take it for a pickle, and find things in it that could run code.
        raise InputError(f"{file} is not a torch file, or a damaged one; download it again.")
    try:
        data = _load_torch(file)
    except pickle.UnpicklingError:
        raise InputError(
            f"{file} is not opened: it holds more than tensors, and reading that could run code; "
            "use a safetensors file of the same weights."
        ) from None
    except Exception as error:  # what is no torch file can end torch's reader in almost any way
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise InputError(f"{file} is not a whole torch file ({reason}); download it again.") from None
    inner = (data[key] for key in WRAPPERS if isinstance(data.get(key), dict)) if isinstance(data, dict) else ()
    state = next(iter(inner), data)
    named = state.items() if isinstance(state, dict) else ()
    tensors = {name: t for name, t in named if isinstance(name, str) and isinstance(t, Tensor)}
    if not tensors:
        raise InputError(f"{file} holds no named tensors; it is not a file of weights.")
    return _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of the model itself, if all bear what training code puts in front."""
    for prefix in (*PREFIXES, *PREFIXES):  # in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def is_mapped(file: Path) -> bool:
    """Whether opening the file reads next to nothing of it; torch files older than torch 1.6 are no archives, so all is read."""
    return file.suffix not in TORCH or _first_bytes(file) == ARCHIVE


def _first_bytes(file: Path) -> bytes:
    """Two, or what there is: they tell an archive from a bare pickle."""
    with file.open("rb") as stream:
        return stream.read(2)


def _load_torch(file: Path):
    allowed: list[Any] = list(SETTINGS)
    with torch.serialization.safe_globals(allowed):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped(file))
