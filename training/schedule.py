"""Training by the clock: a budget in minutes that survives interruptions, and checkpoints that are never half written."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch


class Budget:
    """Minutes of training; seconds spent by earlier, interrupted runs count."""

    def __init__(self, minutes: float, spent: float = 0.0):
        self.total = minutes * 60
        self.started = time.perf_counter() - spent

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """0 to 1."""
        return min(1.0, self.seconds / self.total)


def cosine(progress: float) -> float:
    """Factor on the learning rate: 1 down to a fiftieth."""
    return 0.02 + 0.49 * (1 + math.cos(math.pi * progress))


def hold_then_fall(progress: float, fall_from: float = 0.7) -> float:
    """Factor on the learning rate: 1, then a straight line to a fiftieth (the schedule that forgives a moved end)."""
    return 1.0 if progress < fall_from else 0.02 + 0.98 * (1 - progress) / (1 - fall_from)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's rate to `factor` of its first one."""
    for group in optimizer.param_groups:
        group.setdefault("first_lr", group["lr"])
        group["lr"] = group["first_lr"] * factor


def save(path: Path, state: dict) -> None:
    """Write beside and rename: an interruption leaves the older checkpoint whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


class Log:
    """One JSON object a line, in a file and on the terminal."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, **record) -> None:
        line = json.dumps(
            {key: round(value, 5) if isinstance(value, float) else value for key, value in record.items()}
        )
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
