"""What stands for a codec where another model makes pixels of the codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError


@dataclass(frozen=True)
class NoSize:
    def activation_bytes(self, count: int, frames: int, rows: int, columns: int) -> int:
        return 0


class AbsentCodec(nn.Module):
    """A codec without weights; whatever it is asked for is refused with `reason`."""

    config, input_device = NoSize(), torch.device("cpu")

    def __init__(self, reason: str):
        super().__init__()
        self.reason = reason

    def encode(self, pixels: Tensor) -> Tensor:
        raise InputError(self.reason)

    def decode(self, codes: Tensor) -> Tensor:
        raise InputError(self.reason)

    decode_clips = decode
