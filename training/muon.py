"""Muon (Jordan et al., 2024) in float32.

torch.optim.Muon orthogonalises in bfloat16, which a CPU without instructions for it emulates at a fortieth of the speed.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic iteration


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Matrices [n, rows, columns] with all singular values moved near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, at the size of an AdamW step (`match_rms_adamw`).

    Kernels of convolutions are taken for matrices [out, in x places].
    """

    def __init__(self, params, lr: float, weight_decay: float = 0.05, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[Tensor], group: dict) -> None:
        """One step of matrices of one shape: their orthogonalisations are one batch."""
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(buffer, group["momentum"]).flatten(1))
        size = 0.2 * max(directions[0].shape) ** 0.5
        for parameter, update in zip(parameters, orthogonalised(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(
                update.view_as(parameter), alpha=group["lr"] * size
            )
