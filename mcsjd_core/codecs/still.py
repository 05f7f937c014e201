"""A video codec used for pictures: a picture is a clip of one frame (SimpleAR uses Cosmos' tokenizer so).

Pictures pass one after the other, as clips do: that is the memory that the codec's `config` tells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fsq_video import FSQVideoCodec, FSQVideoConfig
from .torchscript_video import TorchScriptVideoCodec


class StillCodec(nn.Module):
    """Between pictures [B, 3, H, W] in 0..1 and codes [B, h, w], by the codec `video`."""

    def __init__(self, video: FSQVideoCodec | TorchScriptVideoCodec):
        super().__init__()
        self.video: FSQVideoCodec | TorchScriptVideoCodec = video
        self.config: FSQVideoConfig = video.config

    @property
    def input_device(self) -> torch.device:
        return self.video.input_device

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, h, w] of pictures [B, 3, H, W]."""
        return torch.cat([self.video.encode(picture[:, :, None]) for picture in pixels.split(1)])[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of codes [B, h, w]."""
        return torch.cat([self.video.decode(picture[:, None]) for picture in codes.split(1)])[:, :, 0]

    def decode_clips(self, codes: Tensor) -> Tensor:
        """Clips [B, t, 3, H, W] of codes [B, t, h, w], every frame a picture by itself."""
        return self.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
