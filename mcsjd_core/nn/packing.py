"""Matrices in the layout that oneDNN multiplies with, so that a CPU does not bring them into it for every forward.

A forward of a few tokens is bound by reading the weights, and torch's own product of two rows with a matrix reads it badly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Entries of a matrix that pays: a smaller one lies in the caches, and oneDNN's call costs more than torch's own.
LEAST = 2**18


class PackedLinear(nn.Module):
    """The same map as a `Linear` on the CPU; `weight` keeps its name, shape and dtype, and `to_dense()` gives its values."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class ShortRMSNorm(nn.Module):
    """The same norm as an `RMSNorm` of float32, in fewer operations than torch makes of it on a CPU."""

    def __init__(self, norm: nn.RMSNorm):
        super().__init__()
        self.weight, self.share = norm.weight, 1 / norm.normalized_shape[0]
        self.eps: Tensor
        self.register_buffer("eps", torch.tensor(norm.eps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, length, length, value=self.share).rsqrt_()
        return (x * scale).mul_(self.weight)


def pack(model: nn.Module) -> nn.Module:
    """Replace every large plain `Linear` of `model` by a packed one, one after the other, and the norms; what cannot be stays.

    Layers of a host or in 8 bits are not plain and stay, too. A packed model cannot be moved, trained or compiled.
    """
    for parent in [*model.modules()]:
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear and _can_be_packed(layer.weight):
                setattr(parent, name, PackedLinear(layer))
            elif type(layer) is nn.RMSNorm and _can_be_shortened(layer):
                setattr(parent, name, ShortRMSNorm(layer))
    return model


def _can_be_packed(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.numel() < LEAST or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    bfloat16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or bfloat16


def _can_be_shortened(norm: nn.RMSNorm) -> bool:
    if norm.weight is None or norm.weight.ndim != 1 or norm.eps is None:
        return False
    return norm.weight.dtype == torch.float32 and norm.weight.device.type == "cpu"
