"""The table of model families. A new one is a file in this folder and a row here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from .interface import Family


class FamilyModule(Protocol):
    """What the file of a family offers.

    Optional: `companions(path)`, if it reads more than what lies at `path`, or `parts(path)`, if it reads only some of that;
    `DRAWS_VIDEO = True`, if it draws no pictures.
    """

    def detect(self, path: Path) -> bool:
        """Whether the checkpoint at `path` is of this family; reads no tensors."""
        ...

    load: Callable[..., Family]  # load(path, dtype, device, operations)


class Families(Mapping[str, FamilyModule]):
    """Modules by name of the family, in the order in which they are asked; each is imported when it is first asked for."""

    def __init__(self, *names: str):
        self._names = names

    def __getitem__(self, name: str) -> FamilyModule:
        if name not in self._names:
            raise KeyError(name)
        module: Any = importlib.import_module(f".{name}", __package__)
        return module

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


FAMILIES = Families("lumina2", "chameleon", "janus", "llamagen", "emu3_5", "emu3", "cosmos", "simplear", "glm_image")
