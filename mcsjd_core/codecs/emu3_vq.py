"""Emu3's vision tokenizer for still pictures (arXiv 2409.18869): a MoVQ codec with a few causal convolutions in time.

It is made for video: four frames share one map of codes, and a picture is one map, of which frame 0 is shown. Everything
heavy is the 2-D codec of `vqgan.py`; what runs in time has four channels. It is causal, so frame 0 never depends on the
other three, which are therefore not computed. Module names are those of `BAAI/Emu3-VisionTokenizer`; those of transformers
are translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vqgan import VQGAN, VQGANConfig

FRAMES = 4  # that share one map of codes
BATCH_NORM_EPS = 1e-5
# Patterns in transformers' names, and what they are here; other names have none of them.
RENAMED = (
    (re.compile(r"\.(down|up)_block\.\1\."), r".\1."),
    (re.compile(r"\.middle_block\."), ".mid."),
    (re.compile(r"\.attn_norm\."), ".attn_1.norm."),
    (re.compile(r"\.attn_norms\.(\d+)\."), r".attn.\1.norm."),
    (re.compile(r"\.([qkv])_proj\."), r".\1."),
    (re.compile(r"\.out_proj\."), ".proj_out."),
)


class CausalConv3d(nn.Module):
    """Convolution of x [B, C, T, H, W] that looks back in time only: two empty frames stand in front."""

    def __init__(self, inp: int, out: int, kernel: tuple[int, int, int], time_stride: int = 1, **factory):
        super().__init__()
        self.conv = nn.Conv3d(inp, out, kernel, stride=(time_stride, 1, 1), **factory)
        self.side = kernel[1] // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.side,) * 4 + (2, 0)))


class StoredBatchNorm(nn.Module):
    """Batch norm by the statistics of the checkpoint, whatever mode the module is in."""

    def __init__(self, channels: int, **factory):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, **factory))
        self.bias = nn.Parameter(torch.zeros(channels, **factory))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels, **factory))
        self.register_buffer("running_var", torch.ones(channels, **factory))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=BATCH_NORM_EPS)


class TimeResBlock(nn.Module):
    def __init__(self, channels: int, **factory):
        super().__init__()
        self.norm1, self.norm2 = (StoredBatchNorm(channels, **factory) for _ in range(2))
        self.conv1, self.conv2 = (CausalConv3d(channels, channels, (3, 3, 3), **factory) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class TimeConv(nn.Module):
    """Halves or doubles the frames of a video; doubling is left out where only frame 0 is asked for."""

    def __init__(self, channels: int, kernel: int, stride: int, **factory):
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (kernel, 3, 3), stride, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


def _layers(half: nn.Module, *names: str) -> list[nn.Module]:
    """The layers of the named lists, in order."""
    return [layer for name in names for layer in half.get_submodule(name).children()]


class Emu3VQ(VQGAN):
    """`VQGAN` with the temporal layers around it; `config` needs `spatial_norm`."""

    def __init__(self, config: VQGANConfig, *, dtype=None, device=None, operations=nn):
        super().__init__(config, dtype=dtype, device=device, operations=operations)
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        z = config.z_channels
        # Plain layers, not the host's: they are too small to be worth moving one by one.
        for half in (self.encoder, self.decoder):
            half.time_res_stack = nn.ModuleList(TimeResBlock(z, **factory) for _ in range(config.res_blocks))
        self.encoder.time_conv = nn.ModuleList(TimeConv(z, 4, 2, **factory) for _ in range(2))
        self.decoder.time_conv = nn.ModuleList(TimeConv(z, 3, 1, **factory) for _ in range(2))
        self.quant_conv = CausalConv3d(z, config.embed_dim, (3, 1, 1), **factory)
        self.post_quant_conv = CausalConv3d(config.embed_dim, z, (3, 1, 1), **factory)

    def latents(self, pixels: Tensor) -> Tensor:
        frame = self.encoder(pixels * 2 - 1)
        x = frame[:, :, None].expand(-1, -1, FRAMES, -1, -1)  # a picture is a video that stands still
        for layer in _layers(self.encoder, "time_conv", "time_res_stack"):
            x = layer(x)
        return self.quant_conv(x)[:, :, 0].movedim(1, -1)

    def reconstruct(self, vectors: Tensor) -> Tensor:
        vectors = vectors.movedim(-1, 1)[:, :, None]
        x = torch.cat((self.post_quant_conv(vectors), vectors))  # the decoder's guide takes the same road in time
        for layer in _layers(self.decoder, "time_res_stack", "time_conv"):
            x = layer(x)
        z, guide = x[:, :, 0].chunk(2)
        return (self.decoder(z, guide) + 1) / 2


def emu3_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an `Emu3VQ` from those of a file in either layout."""
    for name, tensor in tensors:
        if name.endswith("num_batches_tracked"):  # of use in training only
            continue
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        is_matrix = ".attn" in name and tensor.ndim == 2  # transformers has matrices for 1 x 1 convolutions
        yield name, tensor[..., None, None] if is_matrix else tensor
