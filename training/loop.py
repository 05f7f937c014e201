"""The training loop of all models: schedule, optimiser steps, checkpoints that an interrupted run goes on from, log, report.

A training brings a `Task`; the loop knows no model and no data. Budgets are minutes of wall time or numbers of steps.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mcsjd_core.whole_files import replace_whole

from .muon import Muon

CHECKPOINT = "training.pt"


class Task(Protocol):
    """What a training brings."""

    modules: dict[str, nn.Module]  # whose weights are trained and saved, on the run's device
    optimizers: list[torch.optim.Optimizer]

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        """Loss (scalar) of a fresh batch. `rng` is keyed by seed and step, so a resumed run repeats nothing."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
        ...


@dataclass
class RunSettings:
    """How a training runs; what it learns from is the task's matter."""

    minutes: float = 60.0
    steps: int | None = None  # in place of the minutes
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False  # autocast; worth it on GPUs and on CPUs with AMX or AVX-512 BF16 only
    threads: int | None = None  # of the CPU; torch's choice if None
    warmup_steps: int = 50
    fall_from: float = 0.6  # share of the budget after which the learning rates fall
    clip: float = 1.0  # largest norm of all gradients together
    log_every: int = 25
    save_every: int = 100
    evaluate_every: int = 500


class Budget:
    """Share of a run that is done, by the clock or by steps; time spent by earlier, interrupted runs counts."""

    def __init__(self, settings: RunSettings, step: int = 0, spent: float = 0.0):
        self.settings, self.step, self.started = settings, step, time.perf_counter() - spent

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """0 to 1."""
        s = self.settings
        done, whole = (self.step, s.steps) if s.steps is not None else (self.seconds, 60 * s.minutes)
        return done / whole if done < whole else 1.0


def rate_factor(progress: float, step: int, settings: RunSettings) -> float:
    """Factor on the learning rates: a ramp, then 1, then a straight line to a fiftieth. It forgives a moved end."""
    ramp = min(1.0, (step + 1) / settings.warmup_steps)
    fall = 1.0 if progress < settings.fall_from else 0.02 + 0.98 * (1 - progress) / (1 - settings.fall_from)
    return ramp * fall


def train(task: Task, out: Path, settings: RunSettings) -> dict:
    """Run or continue the task in the folder `out`; the last log record, which is also written to `out`/report.json."""
    out.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    budget, log = restored(task, out / CHECKPOINT, settings), Log(out / "log.jsonl")
    losses: list[Tensor] = []
    while budget.progress < 1:
        losses.append(one_step(task, settings, budget))
        budget.step += 1
        if budget.step % settings.log_every == 0:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            figures = task.evaluate() if budget.step % settings.evaluate_every == 0 else {}
            log(step=budget.step, seconds=budget.seconds, loss=mean, **figures)
            check_loss(mean, budget.step)
        if budget.step % settings.save_every == 0:
            save(task, budget, out)
    if losses:
        check_loss(torch.stack(losses).mean().item(), budget.step)
    save(task, budget, out)
    report = {"steps": budget.step, "seconds": budget.seconds, **task.evaluate(), "run": asdict(settings)}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)
    return report


def check_loss(mean: float, step: int) -> None:
    """End a run that has gone astray before it replaces a good checkpoint."""
    if not math.isfinite(mean):
        raise SystemExit(f"The loss is {mean} at step {step}; try a smaller learning rate.")


def one_step(task: Task, settings: RunSettings, budget: Budget) -> Tensor:
    """One step of every optimiser; the loss (scalar, detached)."""
    rng = np.random.default_rng((settings.seed, budget.step))
    with torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16, enabled=settings.bf16):
        loss = task.loss(rng, budget.step)
    for optimizer in task.optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learned = [p for o in task.optimizers for group in o.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(learned, settings.clip)
    factor = rate_factor(budget.progress, budget.step, settings)
    for optimizer in task.optimizers:
        set_rate(optimizer, factor)
        optimizer.step()
    return loss.detach()


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate to `factor` of its first one."""
    for group in optimizer.param_groups:
        group.setdefault("first_lr", group["lr"])
        group["lr"] = group["first_lr"] * factor


def muon_and_adamw(
    model: nn.Module, matrix_rate: float, vector_rate: float, weight_decay: float = 0.05
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the projections of the layers, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    rest = [p for name, p in model.named_parameters() if not name.endswith("_proj.weight")]
    return [
        Muon(matrices, lr=matrix_rate, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def save(task: Task, budget: Budget, out: Path) -> None:
    """Write what `restored` reads; an interruption leaves the older checkpoint whole."""
    state = {
        "modules": {name: module.state_dict() for name, module in task.modules.items()},
        "optimizers": [optimizer.state_dict() for optimizer in task.optimizers],
        "step": budget.step,
        "seconds": budget.seconds,
    }
    replace_whole(out / CHECKPOINT, lambda part: torch.save(state, part))


def restored(task: Task, checkpoint: Path, settings: RunSettings) -> Budget:
    """The budget left after what the checkpoint holds, and the task as it was then; a whole one without a checkpoint."""
    if not checkpoint.exists():
        return Budget(settings)
    state = torch.load(checkpoint, weights_only=True, map_location=settings.device)
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for optimizer, saved in zip(task.optimizers, state["optimizers"], strict=True):
        rates = [
            group["lr"] for group in optimizer.param_groups
        ]  # this run's own: the saved ones may be an earlier choice
        optimizer.load_state_dict(saved)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = group["first_lr"] = rate
    return Budget(settings, state["step"], state["seconds"])


def report_of(folder: Path) -> Path | None:
    """The report beside a training's weights, if it is of these and not of those before the training went on."""
    report = folder / "report.json"
    if not report.exists():
        return None
    steps = torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu")["step"]
    return report if json.loads(report.read_text())["steps"] == steps else None


def weights(folder: Path, module: str = "model") -> dict[str, Tensor]:
    """Weights of a task's module in a training's folder, finished or not."""
    return torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu")["modules"][module]


class Log:
    """One JSON object a line, in a file and on the terminal."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, **record) -> None:
        rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in record.items()}
        line = json.dumps(rounded)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def add_options(parser: argparse.ArgumentParser, minutes: float | None) -> None:
    """Command-line options of RunSettings; those of a recipe of several parts have no minutes in common (None)."""
    if minutes is not None:
        parser.add_argument("--minutes", type=float, default=minutes, help="time budget")
    parser.add_argument("--steps", type=int, help="budget in steps, in place of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="bfloat16 autocast (default: on CUDA)")
    parser.add_argument("--threads", type=int, help="CPU threads")


def settings_from(arguments: argparse.Namespace) -> RunSettings:
    names = ("minutes", "steps", "seed", "device", "bf16", "threads")
    values = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if values["bf16"] is None:
        values["bf16"] = torch.device(values["device"]).type == "cuda"
    return RunSettings(**values)
