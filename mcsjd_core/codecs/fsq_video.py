"""The discrete video tokenizer of Cosmos (arXiv 2501.03575): causal, factorised in space and time, quantised by FSQ.

Frame 0 stands alone in the first frame of codes, every later one holds `temporal_compression` frames. No code depends on
frames after its own, and no frame on codes after its own. Module names are those of the published state dicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .fsq import FiniteScalarQuantizer
from .haar import haar, inverse_haar

NORM_EPS = 1e-6
FEATURE_MAPS, CLIP_COPIES = 16, 8  # alive at once: feature maps after the patches, and copies of a clip of pixels


@dataclass(frozen=True)
class FSQVideoConfig:
    """Shape of one tokenizer; the defaults are DV8x16x16. Levels are counted from the finest (0) to the deepest one.

    `local_encoder`: the encoder looks at the pixels of a code's own cell alone (kernels of 1, norms over the channels of
    a cell, no attention), so that equal cells get equal codes wherever they are.
    """

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (2, 4, 4)
    res_blocks: int = 2  # per level in the encoder, one more in the decoder
    z_channels: int = 16
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    patch_size: int = 4  # side of the Haar patches, in pixels and frames
    spatial_compression: int = 16  # pixels per code along each side
    temporal_compression: int = 8  # frames per frame of codes
    local_encoder: bool = False

    def __post_init__(self):
        sizes = (self.channels, self.res_blocks, self.z_channels)
        if not self.channel_multipliers or min(*sizes, *self.channel_multipliers) < 1:
            raise InputError(f"Every size of a video tokenizer has to be at least 1, got {self}.")
        powers = (self.patch_size, self.temporal_compression, self.spatial_compression)
        if any(size < 1 or size & (size - 1) for size in powers) or list(powers) != sorted(powers):
            raise InputError(
                "Patch size, temporal and spatial compression have to be powers of 2, none below the one before it, "
                f"got {', '.join(map(str, powers))}."
            )
        space, time, deepest = self.space_levels, self.time_levels, len(self.channel_multipliers) - 1
        # The decoder doubles time one level after space: as often as the encoder halves it, if it does so less often.
        if not time < space <= deepest and (space or time):
            raise InputError(
                f"After patching, a video tokenizer must halve time less often than space (got {time} and {space} times), "
                f"and space at most once per level except the deepest (got {deepest} such levels)."
            )
        FiniteScalarQuantizer(self.levels)

    @property
    def space_levels(self) -> int:
        """How often the levels halve height and width, after the patches."""
        return int(log2(self.spatial_compression) - log2(self.patch_size))

    @property
    def time_levels(self) -> int:
        return int(log2(self.temporal_compression) - log2(self.patch_size))

    @property
    def codebook_size(self) -> int:
        return FiniteScalarQuantizer(self.levels).codebook_size

    @property
    def widths(self) -> list[int]:
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    def activation_bytes(self, count: int, frames: int, rows: int, columns: int) -> int:
        """About what coding one of `count` clips after the other takes, in float32; the clips themselves are kept."""
        frames += self.patch_size - 1  # the first one fills a patch alone
        pixels = frames * rows * columns * self.spatial_compression**2
        maps = max(self.widths[:2]) * FEATURE_MAPS / self.patch_size**3
        return int(pixels * 4 * (maps + 3 * CLIP_COPIES + 3 * count))


class CausalConv3d(nn.Module):
    """Convolution of x [B, C, T, H, W] that looks back in time only: copies of the first frame stand in front."""

    def __init__(self, inp: int, out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int], side: int,
                 operations, **factory):  # fmt: skip
        super().__init__()
        self.front, self.side = kernel[0] - stride[0], side
        self.conv3d = operations.Conv3d(inp, out, kernel, stride=stride, **factory)

    def forward(self, x: Tensor) -> Tensor:
        if self.front > 0:
            x = torch.cat((x[:, :, :1].expand(-1, -1, self.front, -1, -1), x), 2)
        return self.conv3d(F.pad(x, (self.side,) * 4) if self.side else x)


class CausalNorm(nn.Module):
    """Group norm in one group: over each frame, or over the channels of each cell alone."""

    def __init__(self, channels: int, per_place: bool, operations, **factory):
        super().__init__()
        self.per_place = per_place
        self.norm = operations.GroupNorm(1, channels, eps=NORM_EPS, **factory)

    def forward(self, x: Tensor) -> Tensor:
        if self.per_place:
            cells = x.movedim(1, -1)
            return self.norm(cells.flatten(0, 3)).view_as(cells).movedim(-1, 1)
        frames = x.transpose(1, 2)
        return self.norm(frames.flatten(0, 1)).view_as(frames).transpose(1, 2)


class _Builder:
    """Makes the layers of one half of the tokenizer, so that every block below receives one argument instead of four."""

    def __init__(self, operations, factory: dict, local: bool = False):
        self.operations, self.factory, self.local = operations, factory, local

    def conv(self, inp: int, out: int, time: int = 1, space: int = 1, stride: tuple[int, int, int] = (1, 1, 1),
             side: int | None = None) -> CausalConv3d:  # fmt: skip
        side = space // 2 if side is None else side
        return CausalConv3d(inp, out, (time, space, space), stride, side, self.operations, **self.factory)

    def pair(self, inp: int, out: int) -> nn.Sequential:
        """A convolution in space and one in time."""
        kernel = 1 if self.local else 3
        return nn.Sequential(self.conv(inp, out, space=kernel), self.conv(out, out, time=kernel))

    def norm(self, channels: int) -> CausalNorm:
        return CausalNorm(channels, self.local, self.operations, **self.factory)


class ResBlock(nn.Module):
    def __init__(self, build: _Builder, inp: int, out: int):
        super().__init__()
        self.norm1, self.conv1 = build.norm(inp), build.pair(inp, out)
        self.norm2, self.conv2 = build.norm(out), build.pair(out, out)
        self.nin_shortcut = build.conv(inp, out) if inp != out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head attention: over the cells of each frame, or `in_time` over the frames up to a cell's own."""

    def __init__(self, build: _Builder, channels: int, in_time: bool):
        super().__init__()
        self.in_time = in_time
        self.norm = build.norm(channels)
        self.q, self.k, self.v, self.proj_out = (build.conv(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (self._rows(proj(h)) for proj in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.in_time)
        return x + self.proj_out(self._volume(h, x))

    def _rows(self, x: Tensor) -> Tensor:
        """[rows, 1, L, C]: what may see each other is a row."""
        x = x.movedim(1, -1)  # B, T, H, W, C
        x = x.movedim(1, 3).flatten(0, 2) if self.in_time else x.flatten(2, 3).flatten(0, 1)
        return x[:, None]

    def _volume(self, rows: Tensor, like: Tensor) -> Tensor:
        batch, channels, frames, height, width = like.shape
        rows = rows[:, 0]
        if self.in_time:
            return rows.view(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2)
        return rows.view(batch, frames, height, width, channels).movedim(-1, 1)


class Middle(nn.Module):
    def __init__(self, build: _Builder, channels: int):
        super().__init__()
        self.block_1, self.block_2 = (ResBlock(build, channels, channels) for _ in range(2))
        blocks = () if build.local else (AttnBlock(build, channels, in_time) for in_time in (False, True))
        self.attn_1 = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Strided convolutions beside mean pooling: space, then time, as the level asks for."""

    def __init__(self, build: _Builder, channels: int, space: bool, time: bool):
        super().__init__()
        # A kernel of 3 needs one cell more, at the right and the bottom; a local one covers the pooled cells exactly.
        self.margin = 0 if build.local else 1
        kernel = 2 + self.margin
        self.conv1 = build.conv(channels, channels, space=kernel, stride=(1, 2, 2), side=0) if space else None
        self.conv2 = build.conv(channels, channels, time=3, stride=(2, 1, 1)) if time else None
        self.conv3 = build.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is not None:
            x = self.conv1(F.pad(x, (0, self.margin, 0, self.margin))) + _halved_space(x)
        if self.conv2 is not None:
            x = torch.cat((x[:, :, :1], x), 2)
            x = self.conv2(x) + _halved_time(x)
        return self.conv3(x)


# By avg_pool2d, for Apple's GPUs lack avg_pool3d in torch 2.7.
def _halved_space(x: Tensor) -> Tensor:
    """Means of two by two cells of x [B, C, T, H, W]."""
    return F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3])


def _halved_time(x: Tensor) -> Tensor:
    """Means of two frames of x [B, C, T, H, W]."""
    return F.avg_pool2d(x.flatten(3), (2, 1)).unflatten(3, x.shape[3:])


class Upsample(nn.Module):
    """Repetition and convolution: time, then space, as the level asks for."""

    def __init__(self, build: _Builder, channels: int, space: bool, time: bool):
        super().__init__()
        self.conv1 = build.conv(channels, channels, time=3) if time else None
        self.conv2 = build.conv(channels, channels, space=3) if space else None
        self.conv3 = build.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is not None:
            if x.shape[2] > 1:  # frame 0 stands alone and stays one frame
                x = x.repeat_interleave(2, 2)[:, :, 1:]
            x = x + self.conv1(x)
        if self.conv2 is not None:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = x + self.conv2(x)
        return self.conv3(x)


class Level(nn.Module):
    def __init__(self, build: _Builder, inp: int, out: int, blocks: int):
        super().__init__()
        self.block = nn.ModuleList(ResBlock(build, inp if i == 0 else out, out) for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: FSQVideoConfig, build: _Builder):
        super().__init__()
        widths, self.patch = config.widths, config.patch_size
        self.conv_in = build.pair(3 * self.patch**3, config.channels)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level(build, widths[i - 1] if i else config.channels, width, config.res_blocks)
            if i < config.space_levels:
                level.downsample = Downsample(build, width, True, i < config.time_levels)
            self.down.append(level)
        self.mid = Middle(build, widths[-1])
        self.norm_out, self.conv_out = build.norm(widths[-1]), build.pair(widths[-1], config.z_channels)

    def forward(self, video: Tensor) -> Tensor:
        x = torch.cat((video[:, :, :1].expand(-1, -1, self.patch - 1, -1, -1), video), 2)
        for _ in range(int(log2(self.patch))):
            x = haar(x)
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            x = level.get_submodule("downsample")(x) if hasattr(level, "downsample") else x
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: FSQVideoConfig, build: _Builder):
        super().__init__()
        widths, self.patch = config.widths, config.patch_size
        deepest = len(widths) - 1
        self.conv_in = build.pair(config.z_channels, widths[-1])
        self.mid = Middle(build, widths[-1])
        self.up = nn.ModuleList()  # index 0 is the finest; run from the deepest to 0
        for i, width in enumerate(widths):
            level, done = Level(build, widths[min(i + 1, deepest)], width, config.res_blocks + 1), deepest - i
            if i > 0 and done < config.space_levels:
                level.upsample = Upsample(build, width, True, 0 < done <= config.time_levels)
            self.up.append(level)
        self.norm_out, self.conv_out = build.norm(widths[0]), build.pair(widths[0], 3 * self.patch**3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            x = level.get_submodule("upsample")(x) if hasattr(level, "upsample") else x
        x = self.conv_out(F.silu(self.norm_out(x)))
        for _ in range(int(log2(self.patch))):
            x = inverse_haar(x)
        return x[:, :, self.patch - 1 :]


class FSQVideoCodec(nn.Module):
    """Codec between videos [B, 3, 1 + f (t - 1), H, W] in 0..1 and codes [B, t, H / s, W / s].

    f is `config.temporal_compression`, s `config.spatial_compression`.
    """

    def __init__(self, config: FSQVideoConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config, self.quantizer = config, FiniteScalarQuantizer(config.levels)
        plain, channels = _Builder(operations, factory), len(config.levels)
        self.encoder = Encoder(config, _Builder(operations, factory, config.local_encoder))
        self.decoder = Decoder(config, plain)
        self.quant_conv = plain.conv(config.z_channels, channels)
        self.post_quant_conv = plain.conv(channels, config.z_channels)

    @property
    def pixels_per_code(self) -> int:
        """Along each side."""
        return self.config.spatial_compression

    @property
    def frames_per_code(self) -> int:
        """Beyond frame 0, which has codes of its own."""
        return self.config.temporal_compression

    @property
    def input_device(self) -> torch.device:
        return self.quant_conv.conv3d.weight.device

    def latents(self, pixels: Tensor) -> Tensor:
        """What is rounded, [B, t, h, w, channels of the quantiser], for pixels in 0..1."""
        return self.quant_conv(self.encoder(pixels * 2 - 1)).movedim(1, -1)

    def reconstruct(self, vectors: Tensor) -> Tensor:
        """Unclamped video [B, 3, T, H, W] of rounded vectors [B, t, h, w, channels]; nominally 0..1."""
        return (self.decoder(self.post_quant_conv(vectors.movedim(-1, 1))) + 1) / 2

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, t, H / s, W / s] of pixels [B, 3, 1 + f (t - 1), H, W] in 0..1; both sides must be multiples of s."""
        self._check_pixels(pixels)
        return self.quantizer.codes(self.quantizer.quantize(self.latents(pixels).float()))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Videos [B, 3, 1 + f (t - 1), H, W] in 0..1 of codes [B, t, h, w]."""
        if codes.ndim != 4 or 0 in codes.shape or codes.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"The codec needs whole-number codes of shape [B, t, h, w], got {list(codes.shape)} {codes.dtype}."
            )
        # Read back once a video; a code that is too large would be taken for another one in silence.
        low, high = torch.stack(codes.aminmax()).tolist()
        if low < 0 or high >= self.quantizer.codebook_size:
            raise InputError(f"This codec has codes 0 to {self.quantizer.codebook_size - 1}, got {low} to {high}.")
        vectors = self.quantizer.vectors(codes).to(self.post_quant_conv.conv3d.weight.dtype)
        return self.reconstruct(vectors).clamp(0, 1)

    def decode_clips(self, codes: Tensor) -> Tensor:
        """Clips [B, T, 3, H, W] in 0..1 of codes [B, t, h, w]."""
        return self.decode(codes).movedim(2, 1)

    def _check_pixels(self, pixels: Tensor) -> None:
        if pixels.ndim != 5 or pixels.shape[1] != 3 or 0 in pixels.shape or not pixels.is_floating_point():
            raise InputError(
                f"The codec needs floating-point videos of shape [B, 3, T, H, W], got {list(pixels.shape)} {pixels.dtype}."
            )
        (frames, height, width), space, time = pixels.shape[2:], self.pixels_per_code, self.frames_per_code
        if height % space or width % space:
            raise InputError(
                f"The codec needs sides that are multiples of {space} px, got {width} x {height}; resize it."
            )
        if (frames - 1) % time:
            raise InputError(
                f"The codec needs 1 frame and a multiple of {time} after it, got {frames} frames; cut some."
            )
