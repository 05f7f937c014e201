"""How much a bench measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..families.interface import Family

PROMPTS = (
    "a red apple on grass", "a rocket in a starry sky", "a cat on wood", "a blue car in a city",
    "a sunflower in a meadow", "a penguin on water", "a yellow balloon in a cloudy sky", "a fox in a forest",
    "a hamburger on a white background", "a purple heart on sand", "a panda in front of autumn trees",
    "a house in the mountains", "a soccer ball on grass", "a pumpkin on pebbles", "a dog at sunset", "a cactus on sand",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The amount of work. `rows` are the token rows that are drawn of a picture, None all of them."""

    name: str
    prompts: int  # one picture of each, in the comparison of the couplings
    windows: tuple[int, ...]
    batches: tuple[int, ...] = (1, 4, 8)
    repeats: int = 5  # of what is timed on its own
    forward_repeats: int = 3  # of the forwards of large models, which take seconds
    auto_repeats: int = 3
    auto_windows: tuple[int, ...] = (4, 8, 16, 32)  # that the automatic one is held against
    rows: int | None = None
    trajectories: tuple[int, ...] = (1, 2, 4)
    trajectory_window: int = 64
    trajectory_prompts: int = 16
    forward_windows: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128)
    iterations: int = 16  # of a decode whose parts are clocked
    peer_side: int = 8  # tokens in a row and in a column
    timed_layers: int = 2  # of a model of 7 billion parameters; four times as many of one of 1 billion


FULL = Plan("full", prompts=16, windows=(16, 32, 64))
QUICK = Plan(
    "quick", prompts=2, windows=(16,), repeats=2, forward_repeats=2, auto_repeats=1, auto_windows=(8, 16), rows=4,
    trajectories=(1, 2), trajectory_window=32, trajectory_prompts=1, forward_windows=(1, 16, 32), iterations=4,
    peer_side=4, timed_layers=1,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every section is given: a loaded model for pictures, the plan, where and in which type to run, and whom to tell."""

    model: Family
    model_name: str
    plan: Plan
    device: str
    dtype: torch.dtype
    tell: Callable[[str], None] = lambda text: None
