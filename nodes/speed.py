"""Inputs that change what a run costs, but not what it draws."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mcsjd_core import InputError
from ..mcsjd_core.decoding.settings import EXECUTIONS
from ..mcsjd_core.reporting.report import METHOD_LABELS
from .schema import advanced

MOST_TRAJECTORIES = 16


def trajectories_input() -> io.Int.Input:
    return advanced(
        io.Int.Input(
            "trajectories",
            optional=True,
            default=1,
            min=1,
            max=MOST_TRAJECTORIES,
            tooltip="How many sequences of guesses each forward checks. More: fewer forwards, each of them "
            "costlier; pictures from the same distribution, with seed-exact the same picture. 1 is "
            "usual; more can pay off on a device that a single window leaves idle.",
        )
    )


def execution_input() -> io.Combo.Input:
    return advanced(
        io.Combo.Input(
            "execution",
            optional=True,
            options=list(EXECUTIONS),
            default=EXECUTIONS[0],
            tooltip="How the iterations of this model are run; apart from rounding, no picture depends on it. "
            "eager: step by step. compiled: by torch.compile, which takes minutes in the first run of "
            "every size and needs a C++ compiler, or Triton on a graphics card. captured: recorded as "
            "CUDA graphs, on NVIDIA cards only.",
        )
    )


def check_execution(execution: str, device: torch.device) -> None:
    """Raise InputError if the device cannot run iterations this way; a missing compiler shows in the first run."""
    if execution not in EXECUTIONS:
        raise InputError(f"execution must be one of {', '.join(EXECUTIONS)}, got {execution!r}.")
    if execution == "captured" and device.type != "cuda":
        raise InputError(f"Iterations can be captured on NVIDIA cards only, not on {device}; set execution to eager.")


def check_trajectories(count: int, method: str, details: bool) -> None:
    """Raise InputError, in the words of the node, where several trajectories are not possible."""
    if count > 1 and method == "autoregressive":
        raise InputError(
            f"{METHOD_LABELS['autoregressive']} guesses nothing: choose another coupling, or set trajectories to 1."
        )
    if count > 1 and details:
        raise InputError(
            "Details can be recorded for a single trajectory only: turn record_details off, or set trajectories to 1."
        )
