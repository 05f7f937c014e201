"""VQGAN: pictures to codes and back, in the layout of taming-transformers (Esser et al., 2021, arXiv 2012.09841).

One encoder and one decoder serve every 2-D codec of the supported families; they differ by `VQGANConfig` alone:
Chameleon (plain codebook), Janus and LlamaGen (normalised codebook, attention at the deepest level), MoVQ, Emu3 and IBQ
(`spatial_norm`). Module names are those of the public checkpoints: `encoder.down.0.block.1.conv2`, `decoder.up.0 ...`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError

NORM_GROUPS = 32
NORM_EPS = 1e-6

PRODUCTS = 2**25  # of cells and codes that are there at once while codes are searched: 128 MiB
CODEC_PARTS = (
    "encoder.",
    "decoder.",
    "quantize.",
    "quant_conv.",
    "post_quant_conv.",
)  # first names of a checkpoint's tensors
FEATURE_MAPS = 8  # alive at once, at full resolution


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of one codec. Levels are counted from full resolution (0) to the deepest one."""

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2  # per level in the encoder, one more in the decoder
    attention_levels: tuple[int, ...] = ()  # beside the attention in the middle, which is always there
    z_channels: int = 256
    embed_dim: int = 256
    codebook_size: int = 8192
    normalize_codebook: bool = False
    product_search: bool = False  # IBQ (arXiv 2412.02692): the code is that with the largest product, not the nearest
    spatial_norm: bool = False  # decoder norms guided by the codebook vectors (MoVQ, arXiv 2209.09002)

    def __post_init__(self):
        sizes = (self.channels, self.res_blocks, self.z_channels, self.embed_dim, self.codebook_size)
        if not self.channel_multipliers or min(*sizes, *self.channel_multipliers) < 1:
            raise InputError(f"Every size of a codec has to be at least 1, got {self}.")
        if self.channels % NORM_GROUPS:
            raise InputError(
                f"channels has to be a multiple of {NORM_GROUPS}, which the group norms need, got {self.channels}."
            )
        if not set(self.attention_levels) <= set(range(len(self.channel_multipliers))):
            levels = len(self.channel_multipliers)
            raise InputError(f"attention_levels have to lie in 0 to {levels - 1}, got {list(self.attention_levels)}.")

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def activation_bytes(self, count: int, frames: int, rows: int, columns: int) -> int:
        """About what coding `count` clips of that many frames takes, with rows x columns codes a frame, in float32.

        Two feature maps are at full resolution; a copy of one is alive at the worst moment beside its convolution.
        """
        pixels = rows * columns * self.downsampling**2
        return count * frames * pixels * self.channels * max(self.channel_multipliers[:2]) * FEATURE_MAPS * 4


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are drawn from the codebook vectors `guide` (B, embed_dim, h, w)."""

    def __init__(self, channels: int, guide_channels: int, operations, **factory):
        super().__init__()
        self.norm_layer = operations.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS, **factory)
        self.conv_y = operations.Conv2d(guide_channels, channels, 1, **factory)
        self.conv_b = operations.Conv2d(guide_channels, channels, 1, **factory)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        guide = F.interpolate(guide, size=x.shape[-2:], mode="nearest")
        return self.norm_layer(x) * self.conv_y(guide) + self.conv_b(guide)


class _Builder:
    """Makes the layers of one half of the codec, so that every block below receives one argument instead of five."""

    def __init__(self, operations, factory: dict, guide_channels: int | None):
        self.operations, self.factory, self.guide_channels = operations, factory, guide_channels

    def conv(self, inp: int, out: int, kernel: int = 3, stride: int = 1, padding: int | None = None) -> nn.Module:
        padding = kernel // 2 if padding is None else padding
        return self.operations.Conv2d(inp, out, kernel, stride=stride, padding=padding, **self.factory)

    def norm(self, channels: int) -> nn.Module:
        if self.guide_channels is None:
            return self.operations.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS, **self.factory)
        return SpatialNorm(channels, self.guide_channels, self.operations, **self.factory)


def _normalize(norm: nn.Module, x: Tensor, guide: Tensor | None) -> Tensor:
    return norm(x) if guide is None else norm(x, guide)


class ResBlock(nn.Module):
    def __init__(self, build: _Builder, inp: int, out: int):
        super().__init__()
        self.norm1, self.conv1 = build.norm(inp), build.conv(inp, out)
        self.norm2, self.conv2 = build.norm(out), build.conv(out, out)
        self.nin_shortcut = build.conv(inp, out, 1) if inp != out else None

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(_normalize(self.norm1, x, guide)))
        h = self.conv2(F.silu(_normalize(self.norm2, h, guide)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head attention over all cells of the feature map."""

    def __init__(self, build: _Builder, channels: int):
        super().__init__()
        self.norm = build.norm(channels)
        self.q, self.k, self.v, self.proj_out = (build.conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        h = _normalize(self.norm, x, guide)
        q, k, v = (proj(h).flatten(2).transpose(1, 2).unsqueeze(1) for proj in (self.q, self.k, self.v))  # B, 1, hw, C
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Middle(nn.Module):
    def __init__(self, build: _Builder, channels: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            ResBlock(build, channels, channels),
            AttnBlock(build, channels),
            ResBlock(build, channels, channels),
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, guide), guide), guide)


class Downsample(nn.Module):
    def __init__(self, build: _Builder, channels: int):
        super().__init__()
        self.conv = build.conv(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only, as the public weights expect


class Upsample(nn.Module):
    def __init__(self, build: _Builder, channels: int):
        super().__init__()
        self.conv = build.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution; `attn` is empty where the level has no attention."""

    def __init__(self, build: _Builder, inp: int, out: int, blocks: int, attention: bool):
        super().__init__()
        self.block = nn.ModuleList(ResBlock(build, inp if i == 0 else out, out) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(build, out) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x, guide)
            if self.attn:
                x = self.attn[i](x, guide)
        return x


class Encoder(nn.Module):
    def __init__(self, config: VQGANConfig, build: _Builder):
        super().__init__()
        widths = [config.channels * m for m in config.channel_multipliers]
        self.conv_in = build.conv(3, config.channels)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            inp = widths[i - 1] if i else config.channels
            level = Level(build, inp, width, config.res_blocks, i in config.attention_levels)
            if i < len(widths) - 1:
                level.downsample = Downsample(build, width)
            self.down.append(level)
        self.mid = Middle(build, widths[-1])
        self.norm_out, self.conv_out = build.norm(widths[-1]), build.conv(widths[-1], config.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, level in enumerate(self.down):
            x = level(x)
            if i < len(self.down) - 1:
                x = level.get_submodule("downsample")(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: VQGANConfig, build: _Builder):
        super().__init__()
        widths = [config.channels * m for m in config.channel_multipliers]
        deepest = len(widths) - 1
        self.guided = config.spatial_norm
        self.conv_in = build.conv(config.z_channels, widths[-1])
        self.mid = Middle(build, widths[-1])
        self.up = nn.ModuleList()  # index 0 is full resolution; run from the deepest to 0
        for i, width in enumerate(widths):
            inp = widths[min(i + 1, deepest)]
            level = Level(build, inp, width, config.res_blocks + 1, i in config.attention_levels)
            if i > 0:
                level.upsample = Upsample(build, width)
            self.up.append(level)
        self.norm_out, self.conv_out = build.norm(widths[0]), build.conv(widths[0], 3)

    def forward(self, z: Tensor, codebook_vectors: Tensor) -> Tensor:
        guide = codebook_vectors if self.guided else None
        x = self.mid(self.conv_in(z), guide)
        for i in reversed(range(len(self.up))):
            x = self.up[i](x, guide)
            if i > 0:
                x = self.up[i].get_submodule("upsample")(x)
        return self.conv_out(F.silu(_normalize(self.norm_out, x, guide)))


class Codebook(nn.Module):
    """Rows of `embedding.weight` [codebook_size, embed_dim]; every look-up normalises them where the model says so."""

    def __init__(self, config: VQGANConfig, operations, **factory):
        super().__init__()
        self.embedding = operations.Embedding(config.codebook_size, config.embed_dim, **factory)
        self.normalize, self.by_product = config.normalize_codebook, config.product_search

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors [..., embed_dim] of the codes [...]."""
        vectors = self.embedding(codes)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def nearest(self, z: Tensor) -> Tensor:
        """Code [...] whose row is nearest to z [..., embed_dim] by squared distance, or by product where the model says so."""
        # Where rows have length 1 the models normalise z too; that scales all products alike and moves no minimum.
        rows = self.lookup(torch.arange(self.embedding.num_embeddings, device=z.device))
        lengths = 0 if self.by_product else rows.square().sum(-1)
        parts = z.flatten(0, -2).split(max(PRODUCTS // len(rows), 1))
        return torch.cat([(lengths - 2 * part @ rows.T).argmin(-1) for part in parts]).view(z.shape[:-1])


class VQGAN(nn.Module):
    """Codec between pictures [B, 3, H, W] in 0..1 and codes [B, H / f, W / f], f = `config.downsampling`."""

    def __init__(self, config: VQGANConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        plain = _Builder(operations, factory, None)
        guided = _Builder(operations, factory, config.embed_dim) if config.spatial_norm else plain
        self.encoder = Encoder(config, plain)
        self.decoder = Decoder(config, guided)
        self.quantize = Codebook(config, operations, **factory)
        self.quant_conv = plain.conv(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = plain.conv(config.embed_dim, config.z_channels, 1)

    @property
    def input_device(self) -> torch.device:
        """Where codes and pictures have to be."""
        return self.quantize.embedding.weight.device

    def latents(self, pixels: Tensor) -> Tensor:
        """What the codebook is searched with, [B, h, w, embed_dim], for pixels in 0..1."""
        return self.quant_conv(self.encoder(pixels * 2 - 1)).movedim(1, -1)

    def reconstruct(self, vectors: Tensor) -> Tensor:
        """Unclamped picture [B, 3, H, W] of codebook vectors [B, h, w, embed_dim]; nominally 0..1."""
        vectors = vectors.movedim(-1, 1)
        return (self.decoder(self.post_quant_conv(vectors), vectors) + 1) / 2

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, H / f, W / f] of pixels [B, 3, H, W] in 0..1; both sides must be multiples of f."""
        factor = self.config.downsampling
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape or not pixels.is_floating_point():
            raise InputError(
                f"The codec needs floating-point pictures of shape [B, 3, H, W], got {list(pixels.shape)} {pixels.dtype}."
            )
        if pixels.shape[2] % factor or pixels.shape[3] % factor:
            height, width = pixels.shape[2:]
            raise InputError(
                f"The codec needs sides that are multiples of {factor} px, got {width} x {height}; resize it."
            )
        return self.quantize.nearest(self.latents(pixels))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 of codes [B, h, w]."""
        if codes.ndim != 3 or 0 in codes.shape or codes.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"The codec needs whole-number codes of shape [B, h, w], got {list(codes.shape)} {codes.dtype}."
            )
        # Read back once a picture: on a GPU a code out of range would end the whole process' use of the device.
        low, high = torch.stack(codes.aminmax()).tolist()
        if low < 0 or high >= self.config.codebook_size:
            raise InputError(f"This codec has codes 0 to {self.config.codebook_size - 1}, got {low} to {high}.")
        return self.reconstruct(self.quantize.lookup(codes)).clamp(0, 1)

    def decode_clips(self, codes: Tensor) -> Tensor:
        """Clips [B, t, 3, H, W] in 0..1 of codes [B, t, h, w], every frame a picture by itself."""
        return self.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
