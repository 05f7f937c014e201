"""Reading checkpoint directories: JSON files, single or sharded safetensors, and filling a module with every key checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .errors import InputError

LISTED = 10  # names shown of a longer list of missing or wrong tensors


def read_json(path: Path) -> dict:
    """The JSON object in a file; a missing or broken file is named."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; a checkpoint directory needs it, so download the whole directory.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); download it again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__} where an object was expected; download it again.")
    return data


class Checkpoint:
    """The tensors of a checkpoint, by name, in one or several safetensors files; each is read when asked for."""

    def __init__(self, files: Iterable[Path]):
        self.files: dict[str, Path] = {}
        for file in files:
            with _open(file) as handle:
                self.files |= dict.fromkeys(handle.keys(), file)

    @classmethod
    def of_directory(cls, directory: Path) -> Checkpoint:
        """`model.safetensors`, or the shards that `model.safetensors.index.json` names."""
        single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
        if single.exists():
            return cls([single])
        if not index.exists():
            raise InputError(f"{directory} holds neither model.safetensors nor its index; download the whole directory.")
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        # A shard name is data from the net: it must not lead out of the directory.
        files = [directory / Path(shard).name for shard in shards]
        missing = [file.name for file in files if not file.exists()]
        if missing or not files:
            raise InputError(f"{directory} lacks {_some(missing) or 'every shard'}; download the missing files.")
        return cls(files)

    def shape(self, name: str) -> list[int]:
        with _open(self._file(name)) as handle:
            return handle.get_slice(name).get_shape()

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterable[tuple[str, Tensor]]:
        """(name, tensor) of every wanted name, file by file, memory-mapped."""
        for file in dict.fromkeys(self.files.values()):
            with _open(file) as handle:
                for name in handle.keys():
                    if wanted(name):
                        yield name, handle.get_tensor(name)

    def _file(self, name: str) -> Path:
        if name not in self.files:
            raise InputError(f"The checkpoint has no tensor {name}; it is of another model, or incomplete.")
        return self.files[name]


def _open(file: Path):
    if not file.exists():
        raise InputError(f"{file} is missing; download it.")
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a whole safetensors file ({error}); download it again.") from None


def fill(module: nn.Module, tensors: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype, device, source: Path) -> None:
    """Give `module`, built on the meta device, its weights: every tensor converted to `dtype` on `device`, none left over.

    Raises InputError that lists what is missing, unexpected or of another shape.
    """
    expected = dict(module.state_dict(keep_vars=True))
    unexpected, misshaped = [], []
    for name, tensor in tensors:
        target = expected.pop(name, None)
        if target is None:
            unexpected.append(name)
        elif target.shape != tensor.shape:
            misshaped.append(f"{name} {list(tensor.shape)} instead of {list(target.shape)}")
        else:
            module.load_state_dict({name: tensor.to(device=device, dtype=dtype)}, strict=False, assign=True)
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", list(expected)), ("unexpected", unexpected), ("of wrong shape", misshaped))
        if names
    ]
    if problems:
        raise InputError(f"The tensors in {source} do not fit ({'; '.join(problems)}); it is of another model, or damaged.")
    module.requires_grad_(False).eval()


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
