"""What a run over a prompt file draws with: plain values, which travel to other processes and are compared by a later run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..decoding.settings import DecodeSettings
from ..errors import InputError
from ..families.interface import Family, SamplingDefaults
from ..families.loading import load

# Between a run and the one that goes on with it: but for rounding, tokens do not depend on them.
FREE_TO_CHANGE = ("device", "rows", "execution")
AHEAD = 8  # times the rows: pictures that one feed is given, so that its batch stays full most of the time


@dataclass(frozen=True)
class Job:
    """`law` and `window` hold what was asked for, None where the checkpoint's own is meant. `seed` is that of row 1, if it has
    none of its own, row 2 then has seed + 1. `rows` pictures are drawn side by side."""

    model: Path
    dtype: str = "float32"
    device: str = "cpu"
    weights: str = "full"
    coupling: str = "maximal"
    window: int | str | None = None
    initialiser: str = "random"
    trajectories: int = 1
    execution: str = "eager"
    law: dict[str, float | None] = field(default_factory=dict)
    seed: int = 0
    size: str | None = None
    negative: str = ""
    rows: int = 1

    def __post_init__(self):
        if self.rows < 1:
            raise InputError(f"At least one row has to be drawn at a time, got {self.rows}.")
        self.settings(SamplingDefaults())  # refuses what no checkpoint's defaults can mend

    def settings(self, defaults: SamplingDefaults) -> DecodeSettings:
        """For the rows' seeds see `seed_of`."""
        return DecodeSettings(
            coupling=self.coupling,
            window=defaults.window if self.window is None else self.window,
            law=replace(defaults.law, **{name: value for name, value in self.law.items() if value is not None}),
            initialiser=self.initialiser,
            seed=self.seed,
            trajectories=self.trajectories,
            execution=self.execution,
        )

    def seed_of(self, number: int) -> int:
        """That of row `number` of the file, counted from 1, if it has none of its own."""
        return (self.seed + number - 1) % 2**64

    @property
    def chunk(self) -> int:
        """Rows that are taken in at a time. Alone, a picture's numbers are those of its single run to the last bit."""
        return 1 if self.rows == 1 else self.rows * AHEAD

    def load(self) -> Family:
        packed = self.execution != "compiled"  # torch.compile chooses layouts of its own
        dtype = getattr(torch, self.dtype)
        model = load(self.model, dtype=dtype, device=self.device, weights=self.weights, packed=packed)
        model.clip.require_pixels()
        return model

    def kept(self) -> dict[str, Any]:
        """What a run that goes on has to have in common with the first, as JSON has it."""
        law = {name: value for name, value in self.law.items() if value is not None}
        values = asdict(self) | {"model": str(self.model), "law": law}
        return {name: value for name, value in values.items() if name not in FREE_TO_CHANGE}
