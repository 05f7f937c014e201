"""Layer classes for weights that come from a file: those of torch, which draw no random ones first.

What is drawn on the meta device is thrown away, and to draw there imports torch's compiler: two seconds for nothing.
"""

from __future__ import annotations

from torch import nn
from torch.nn import Conv2d, Conv3d, GroupNorm, Linear, RMSNorm

__all__ = ["Conv2d", "Conv3d", "Embedding", "GroupNorm", "Linear", "RMSNorm"]


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing: the file has the weights."""
