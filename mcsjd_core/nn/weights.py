"""How a transformer's matrices are held in memory: as they are computed with, or in fewer bits.

Each form is a `Linear` that is put in place of the given layers' own. Its `pack` gets the public weight while a
checkpoint is read, one matrix after the other, so that the whole model is never there in its wide form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SMALLEST_FACTOR = 2.0**-10  # on inputs in float16, whose normal numbers begin at 2^-14
PACKED_AT_ONCE = (
    2**18
)  # weights that are wide while a matrix becomes small: what is this small leaves no holes in the heap


class _CastingLinear(nn.Linear):
    """Computes in the dtype of its input, whatever the weight is held in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), self.bias)


class _Layers:
    """The given layers, with another `Linear`."""

    def __init__(self, operations, linear: type[nn.Linear]):
        self._operations, self.Linear = operations, linear

    def __getattr__(self, name: str):
        return getattr(self._operations, name)


def bf16_layers(operations):
    """Matrices as bfloat16, widened where they are used: with float32 activations, half the memory of float32.

    Of a checkpoint that was published in bfloat16 that is float32's own result. For a host's `Linear` see `fp8_layers`.
    """
    base: Any = _CastingLinear if operations.Linear is nn.Linear else operations.Linear

    class Linear(base):
        def pack(self, weight: Tensor, dtype: torch.dtype, device) -> Tensor:
            return weight.to(device=device, dtype=torch.bfloat16)

    return _Layers(operations, Linear)


def fp8_layers(operations):
    """Matrices as float8 e4m3 with one scale each; half the memory of bfloat16.

    A host's `Linear` has to cast its weight to the dtype of its input by itself; torch's own is replaced by one that does.
    """
    base: Any = _CastingLinear if operations.Linear is nn.Linear else operations.Linear

    class Linear(base):
        scale = 1.0

        def pack(self, weight: Tensor, dtype: torch.dtype, device) -> Tensor:
            """What to hold for a weight: its largest value becomes the largest of the format."""
            step = max(PACKED_AT_ONCE // weight.shape[1], 1)
            largest = max(part.float().abs().amax().item() for part in weight.split(step))  # float8 cannot be compared
            self.scale = max(largest, torch.finfo(torch.float32).tiny * FP8_MAX) / FP8_MAX
            packed = torch.empty(weight.shape, dtype=FP8, device=device)
            for start in range(0, len(weight), step):
                rows = weight[start : start + step].to(device=device, dtype=torch.float32, copy=True)
                packed[start : start + step] = rows.div_(self.scale)
            return packed

        def forward(self, x: Tensor) -> Tensor:
            # Scaled before the product, which would leave float16's range, but not by so much that x leaves it below.
            before = max(self.scale, SMALLEST_FACTOR)
            after = self.scale / before
            y = super().forward(x * before) * after
            # The base added the bias as well, and it was scaled with the rest.
            return y if self.bias is None else y + self.bias.to(y) * (1 - after)

    return _Layers(operations, Linear)


def int8_layers(operations):
    """Matrices as int8 with a scale for every output channel, by torchao, which computes with them."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # optional, and slow to import
    except ImportError:
        raise InputError(
            "int8 weights need the package torchao, which is not installed; install it, or use fp8."
        ) from None

    class Linear(operations.Linear):
        def pack(self, weight: Tensor, dtype: torch.dtype, device) -> Tensor:
            """Rows have a scale each, so a matrix may become small part by part."""
            step, whole = max(PACKED_AT_ONCE // weight.shape[1], 1), {}
            small: Any = None
            context: Any = None
            for start in range(0, len(weight), step):
                rows = weight[start : start + step].to(device=device, dtype=dtype)
                small = quantized(rows)
                names, context = small.__tensor_flatten__()
                for name in names:
                    part = getattr(small, name)
                    if name not in whole:
                        whole[name] = part.new_empty(len(weight), *part.shape[1:])
                    whole[name][start : start + step] = part
            return type(small).__tensor_unflatten__(whole, context, weight.shape, weight.stride())

    def quantized(weight: Tensor) -> Tensor:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))  # no settings of the whole process
        return layer.weight

    return _Layers(operations, Linear)


def mapped_layers(operations):
    """Matrices that stay in their file, as it has them: right where a model is asked once or twice."""

    class Linear(_CastingLinear):
        def pack(self, weight: Tensor, dtype: torch.dtype, device) -> Tensor:
            return weight

    return _Layers(operations, Linear)


WEIGHT_FORMATS = {"full": lambda operations: operations, "bf16": bf16_layers, "fp8": fp8_layers, "int8": int8_layers}


def stored_bytes(module: nn.Module) -> int:
    """Bytes that a module's parameters and buffers really take: a packed tensor reports those of the wide one it stands for."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(map(tensor_bytes, tensors.values()))


def tensor_bytes(tensor: Tensor) -> int:
    """As `stored_bytes`, of one."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        inner = (getattr(tensor, name) for name in flatten()[0])
        return sum(tensor_bytes(part) for part in inner if isinstance(part, Tensor))  # a DTensor lists its mesh, too
    return tensor.numel() * tensor.element_size()
