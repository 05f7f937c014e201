"""What every part of a GPU day is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from ...families.interface import Family
from ...laws.law import LawSettings
from ..failures import why
from ..plan import Bench, Plan
from ..shapes import LARGE_SHAPES, SHAPES, ModelShape

LAW = LawSettings(cfg_scale=3.0, top_k=100)


@dataclass
class Day:
    """A loaded model for pictures, the device, the shapes and windows to time, and the seconds that a part may take.

    `seeds` pictures are compared with plain AR. `layers` of a shape are timed, None for all of them. `peak` is the card's
    memory bandwidth in bytes a second, None if it is not known.
    """

    model: Family
    model_name: str
    device: str
    plan: Plan
    dtype: torch.dtype = torch.bfloat16
    shapes: Mapping[str, ModelShape] = field(default_factory=lambda: {**SHAPES, **LARGE_SHAPES})
    windows: tuple[int, ...] = (1, 16, 32, 64, 128, 256)
    weights: tuple[str, ...] = ("full", "fp8", "int8")
    executions: tuple[str, ...] = ("eager", "compiled", "captured")
    layers: int | None = None
    seeds: int = 100
    seconds: float = 500.0
    peak: float | None = None
    tell: Callable[[str], None] = lambda text: None
    left_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ends: float = 0.0

    @property
    def on_gpu(self) -> bool:
        return str(self.device).startswith("cuda")

    @property
    def law(self) -> LawSettings:
        """What the checks draw from, guided if the model can be."""
        return LAW if self.model.clip.takes_guidance else replace(LAW, cfg_scale=1.0)

    @property
    def bench(self) -> Bench:
        """What the sections of the bench are given."""
        return Bench(self.model, self.model_name, self.plan, self.device, self.dtype, self.tell)

    def begin(self) -> None:
        self.left_out, self.failed, self.ends = [], {}, time.perf_counter() + self.seconds

    def attempt(self, what: str, work: Callable[..., dict], *arguments) -> dict | None:
        """What `work` gives, or `why_not` if it fails; None if no time is left. Both are noted under the name `what`."""
        if time.perf_counter() >= self.ends:
            self.left_out.append(what)
            return None
        self.tell(what)
        try:
            return work(*arguments)
        except Exception as error:
            return self.note_failure(what, error)

    def note_failure(self, what: str, error: Exception) -> dict:
        """Note and tell it; gives what stands in place of figures."""
        self.failed[what] = why(error)
        self.tell(f"failed: {self.failed[what]}")
        return {"why_not": self.failed[what]}
