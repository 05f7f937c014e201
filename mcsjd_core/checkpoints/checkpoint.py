"""Reading checkpoint directories: JSON files, single or sharded weights, and filling a module with every key checked."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..file_contents import check_contents
from .tensor_files import is_mapped, open_tensors

LISTED = 10  # names shown of a longer list of missing or wrong tensors


class Placing(Protocol):
    """Which part of every tensor a module is filled with."""

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The part to read of a whole tensor."""
        ...

    def held(self, name: str, local: Tensor, whole: torch.Size) -> Tensor:
        """What the module holds for a part of a tensor of shape `whole`."""
        ...


class _Whole:
    """All of it."""

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        return tensor

    def held(self, name: str, local: Tensor, whole: torch.Size) -> Tensor:
        return local


_placing: ContextVar[Callable[[nn.Module], Placing]] = ContextVar("placing", default=lambda module: _Whole())
_before_tensor: ContextVar[Callable[[], None]] = ContextVar("before_tensor", default=lambda: None)
MAPPED = 2**27  # bytes read of a file before it is opened anew


def read_json(path: Path) -> dict:
    """The JSON object in a file; a missing or broken file is named."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; a checkpoint directory needs it, so download the whole directory."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it has to be a file that you may read.") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        check_contents(path)
        raise InputError(f"{path} is not valid JSON ({error}); download it again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__} where an object was expected; download it again.")
    return data


class Fields:
    """The fields of a JSON object, each checked when it is asked for; null counts as absent.

    A field that is absent and has no default, or that holds something else than asked for, is an InputError naming it.
    """

    def __init__(self, data: dict, where: str):
        self.data, self.where = data, where

    @classmethod
    def of_file(cls, path: Path) -> Fields:
        return cls(read_json(path), str(path))

    def over(self, defaults: dict) -> Fields:
        """The same with defaults for what is absent."""
        return Fields(defaults | {name: value for name, value in self.data.items() if value is not None}, self.where)

    def count(self, name: str, default: int | None = None) -> int:
        return self._get(name, default, "a whole number above 0", _is_count)

    def counts(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return tuple(self._get(name, default, "a list of whole numbers above 0", _are_counts))

    def number(self, name: str, default: float | None = None) -> float:
        return self._get(name, default, "a number", _is_number)

    def flag(self, name: str, default: bool) -> bool:
        return self._get(name, default, "true or false", lambda value: isinstance(value, bool))

    def text(self, name: str, default: str | None = None) -> str:
        return self._get(name, default, "a text", lambda value: isinstance(value, str))

    def part(self, name: str, default: dict | None = None) -> Fields:
        """The fields of an object inside this one."""
        data = self._get(name, default, "an object", lambda value: isinstance(value, dict))
        return Fields(data, f"`{name}` in {self.where}")

    def _get(self, name: str, default, kind: str, fits: Callable[[object], bool]) -> Any:
        value = self.data.get(name)
        if value is None and default is None:
            raise InputError(f"{self.where} lacks the field `{name}`; it belongs to another model, or is incomplete.")
        if value is None:
            return default
        if not fits(value):
            raise InputError(f"`{name}` in {self.where} has to be {kind}, got {value!r}.")
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


class Checkpoint:
    """The tensors of a checkpoint, by name, in one or several files; each is read when asked for."""

    def __init__(self, files: Iterable[Path]):
        self.files: dict[str, Path] = {}
        self._shapes: dict[Path, dict[str, list[int]]] = {}
        for file in files:
            with open_tensors(file) as opened:
                self.files |= dict.fromkeys(opened.names(), file)

    @classmethod
    def of_directory(cls, directory: Path) -> Checkpoint:
        """`model.safetensors` or the shards that its index names, else the same of `pytorch_model.bin`."""
        for name in ("model.safetensors", "pytorch_model.bin"):
            single, index = directory / name, directory / f"{name}.index.json"
            if single.exists():
                return cls([single])
            if index.exists():
                return cls(_shards(index))
        raise InputError(
            f"{directory} holds neither model.safetensors nor its index, and no pytorch_model.bin; "
            "download the whole directory."
        )

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def shape(self, name: str) -> list[int]:
        if name not in self.files:
            raise InputError(f"The checkpoint has no tensor {name}; it belongs to another model, or is incomplete.")
        file = self.files[name]
        if file not in self._shapes:  # one opening for all of them: that of a large torch file takes long
            with open_tensors(file) as opened:
                self._shapes[file] = {each: opened.shape(each) for each in opened.names()}
        return self._shapes[file][name]

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every wanted name, file by file, memory-mapped."""
        return self.renamed(lambda name: name if wanted(name) else None)

    def renamed(self, rename: Callable[[str], str | None]) -> Iterator[tuple[str, Tensor]]:
        """(rename(name), tensor), file by file, memory-mapped; what is renamed to None is passed over, unread."""
        new_names: dict[Path, dict[str, str]] = {}
        for name, file in self.files.items():
            if (new := rename(name)) is not None:
                new_names.setdefault(file, {})[name] = new
        for file, names in new_names.items():
            for name, tensor in _mapped(file, list(names)):
                yield names[name], tensor


def _mapped(file: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file by name, memory-mapped.

    What was read of a mapping stays in memory as long as the mapping does. So the file is mapped anew from time to time,
    unless tensors of the last mapping are kept: those that need no conversion cost no memory of their own.
    """
    waiting, tensor = iter(names), None
    name = next(waiting, None)
    while name is not None:
        with open_tensors(file) as opened:
            read, given, keep_open = 0, [], not is_mapped(file)
            while name is not None and (keep_open or read < MAPPED or _any_kept(given)):
                tensor = opened.tensor(name)
                read += tensor.nbytes
                given.append(weakref.ref(tensor))
                yield name, tensor
                name = next(waiting, None)
        tensor = None  # or it would keep the mapping


def _any_kept(given: list[weakref.ref]) -> bool:
    """Whether tensors that were given out are still there, beside the last one, which the caller may yet be busy with."""
    return any(tensor() is not None for tensor in given[:-1])


def _shards(index: Path) -> list[Path]:
    """The files that an index names; each has to lie beside it."""
    directory = index.parent
    names = sorted(set(map(str, Fields.of_file(index).part("weight_map").data.values())))
    _check_shard_names(names, index)
    missing = [name for name in names if not (directory / name).exists()]
    if missing or not names:
        raise InputError(f"{directory} lacks {_some(missing) or 'every shard'}; download the missing files.")
    return [directory / name for name in names]


def _check_shard_names(shards: list[str], index: Path) -> None:
    """Shard names come from the net: each has to be a plain file name, so that none leads out of the directory."""
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for shard in shards:
        # Windows rules take both kinds of slash, and drive letters, for what they are.
        if PureWindowsPath(shard).name != shard or not shard.endswith(suffix):
            raise InputError(
                f"{index} names the shard {shard!r}, which is no {suffix[1:]} file beside it; download it again."
            )


@contextmanager
def calling(before_tensor: Callable[[], None]) -> Iterator[None]:
    """Inside, `before_tensor` is called for every tensor that a module is filled with, and wherever other long work calls back;
    what it raises ends that."""
    token = _before_tensor.set(before_tensor)
    try:
        yield
    finally:
        _before_tensor.reset(token)


def call_back() -> None:
    """Call what `calling` was given, if anything: long work beside loading does so now and then, so that it can be stopped."""
    _before_tensor.get()()


@contextmanager
def placing(of_module: Callable[[nn.Module], Placing]) -> Iterator[None]:
    """Inside, `of_module` prepares every module that is filled, while it is on the meta device, and says with what."""
    token = _placing.set(of_module)
    try:
        yield
    finally:
        _placing.reset(token)


def fill(module: nn.Module, tensors: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype, device, source: Path) -> None:
    """Give `module`, built on the meta device, its weights: every tensor converted to `dtype` on `device`, none left over.

    Raises InputError that lists what is missing, unexpected, of another shape or no floating-point tensor.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    missing, weights, place = dict(shapes), {}, _placing.get()(module)
    packers: dict[str, Any] = {
        f"{name}.weight": layer.pack for name, layer in module.named_modules() if hasattr(layer, "pack")
    }
    unexpected, misshaped, quantised = [], [], []
    for name, tensor in tensors:
        _before_tensor.get()()
        if missing.pop(name, None) is None:
            unexpected.append(name)
        elif shapes[name] != tensor.shape:
            misshaped.append(f"{name} {list(tensor.shape)} instead of {list(shapes[name])}")
        elif not tensor.is_floating_point():
            quantised.append(f"{name} {tensor.dtype}")
        else:
            # Some layers hold their weight in a form of their own (weights.py). The rest is copied then: one tensor that
            # stays mapped keeps what was read of its mapping in memory, wide matrices among it.
            part = place.cut(name, tensor)
            if name in packers:
                local = packers[name](part, dtype, device)
            else:
                # A slice of a mapping would keep the whole of it.
                local = part.to(device=device, dtype=dtype, copy=bool(packers) or part is not tensor)
            weights[name] = place.held(name, local, tensor.shape)
    found = {
        "missing": list(missing),
        "unexpected": unexpected,
        "of wrong shape": misshaped,
        "not floating-point": quantised,
    }
    _check_nothing_found(found, source)
    module.load_state_dict(weights, strict=False, assign=True)
    module.requires_grad_(False).eval()


def _check_nothing_found(wrong: dict[str, list[str]], source: Path) -> None:
    """Raise InputError if any kind of wrong tensors has a name in it."""
    problems = [f"{len(names)} {what}: {_some(names)}" for what, names in wrong.items() if names]
    if problems:
        raise InputError(
            f"The tensors in {source} do not fit ({'; '.join(problems)}); it belongs to another model, or is damaged."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
