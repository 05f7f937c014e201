"""The image codec's encoder and codebook: every 8 x 8 patch by its own low frequencies, and the nearest of 2,048 of them.

A patch's code then depends on that patch alone. A thing keeps its nearest codes wherever on the 8 px grid it lies, whatever is
around it, which makes codes far easier to learn than those of a network that sees the whole picture. The features are linear,
so the encoder of an ordinary VQGAN holds them with weights set by hand (`write_encoder`), and the codebook is k-means.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig

from .precision import full_precision

PATCH = 8
CODES = 2048
CODEBOOK = "codebook.safetensors"
LUMA, CHROMA = 20, 6  # kept frequencies of brightness, and of each of the two colour differences
FEATURES = LUMA + 2 * CHROMA
# At full resolution the format's 32 norm groups have three channels each: with one or two, the decoder's last norm would
# take away what the whole picture has in common, its colour.
CONFIG = VQGANConfig(
    channels=32, channel_multipliers=(3, 1, 2, 4), res_blocks=1, z_channels=FEATURES, embed_dim=FEATURES,
    codebook_size=CODES,
)  # fmt: skip
CHROMA_WEIGHT = 1.4
SOFTNESS, CHOICES = 0.01, 16  # squared distance over which a patch's codes spread, and how many share it
FALL = 0.35  # how fast the weight of a frequency falls; the eye does not miss where each blade of grass is
ANCHOR = 64.0  # a constant channel that keeps the last group norm from changing the features

# Rows: brightness and the two colour differences of an RGB pixel, orthonormal.
OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
OPPONENT = OPPONENT / OPPONENT.norm(dim=1, keepdim=True)


def cosines(size: int, count: int) -> tuple[Tensor, Tensor]:
    """The `count` lowest frequencies of a size x size patch: an orthonormal basis [count, size, size], and weights [count]."""
    pairs = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda p: (p[0] + p[1], abs(p[0] - p[1]), p))
    places = (torch.arange(size) + 0.5) * math.pi / size
    waves = torch.stack([(u * places).cos() * (2 / size if u else 1 / size) ** 0.5 for u in range(size)])
    basis = torch.stack([waves[u][:, None] * waves[v] for u, v in pairs[:count]])
    return basis, torch.tensor([1 / (1 + FALL * (u + v)) for u, v in pairs[:count]])


def feature_weights() -> tuple[Tensor, Tensor]:
    """Linear map of a patch's brightness [LUMA, 8, 8], and of a colour difference at half size [CHROMA, 4, 4]."""
    luma, luma_weight = cosines(PATCH, LUMA)
    chroma, chroma_weight = cosines(PATCH // 2, CHROMA)
    # A half-size pixel is the mean of four, so its orthonormal waves are twice as large at full size.
    luma = luma * luma_weight[:, None, None]
    chroma = 2 * CHROMA_WEIGHT * chroma * chroma_weight[:, None, None]
    return luma / PATCH, chroma / PATCH


def k_means(rows: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """`count` centres [count, d] of rows [n, d]. Centres that nobody chose are moved onto random rows."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cat([nearest_row(part, centres) for part in rows.split(16384)])
        counts = torch.bincount(nearest, minlength=count).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = sums / counts[:, None].clamp_min(1)
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = rows[torch.randint(len(rows), (len(empty),), generator=generator)]
    return centres


def nearest_row(rows: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre of every row [n]."""
    return (centres.square().sum(-1) - 2 * rows @ centres.T).argmin(-1)


@torch.no_grad()
def write_encoder(model: VQGAN) -> None:
    """Set the weights of the model's encoder so that `model.latents` gives the features of every patch [B, h, w, FEATURES].

    Residual blocks and attention are switched off; the strided convolutions gather a patch: pixels, then 2 x 2, 4 x 4, and at
    last the whole patch's features. Before the last norm every feature f stands as (f, ANCHOR, -ANCHOR, -f) in a group of
    its own: mean 0 and a variance of ANCHOR ** 2 / 2 whatever f is. silu(f) - silu(-f) = f undoes the activation.
    """
    encoder = model.encoder
    for parameter in (*encoder.parameters(), *model.quant_conv.parameters()):
        parameter.zero_()
    encoder.conv_in.weight[:3, :, 1, 1] = OPPONENT
    for level, channels in ((0, 3), (1, 6)):
        encoder.down[level].block[0].nin_shortcut.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    gather_quarters(encoder.down[0].downsample.conv)
    gather_sixteenths(encoder.down[1].downsample.conv)
    encoder.down[2].block[0].nin_shortcut.weight[:32, :, 0, 0] = torch.eye(32)
    gather_features(encoder.down[2].downsample.conv)
    spread_out(encoder.down[3].block[0].nin_shortcut)
    encoder.norm_out.weight.fill_(ANCHOR / 2**0.5)
    feature = torch.arange(FEATURES)
    encoder.conv_out.weight[feature, 4 * feature, 1, 1] = 1.0
    encoder.conv_out.weight[feature, 4 * feature + 3, 1, 1] = -1.0
    model.quant_conv.weight[feature, feature, 0, 0] = 1.0


def gather_quarters(conv: nn.Conv2d) -> None:
    """3 channels to 6: the brightness of 2 x 2 pixels, and the mean of each colour difference."""
    for tap in range(4):
        conv.weight[tap, 0, tap // 2, tap % 2] = 1.0
    conv.weight[4, 1, :2, :2] = 0.25
    conv.weight[5, 2, :2, :2] = 0.25


def gather_sixteenths(conv: nn.Conv2d) -> None:
    """6 channels to 24: those of 2 x 2 places, in the order (row, column, channel)."""
    for tap in range(4):
        for channel in range(6):
            conv.weight[6 * tap + channel, channel, tap // 2, tap % 2] = 1.0


def gather_features(conv: nn.Conv2d) -> None:
    """24 channels of 2 x 2 places to FEATURES."""
    luma, chroma = feature_weights()
    for row in range(4):  # of 2 x 2 pixels in the patch
        for column in range(4):
            tap = (slice(None), row // 2, column // 2)
            first = 6 * (2 * (row % 2) + column % 2)
            for pixel in range(4):
                weight = luma[:, 2 * row + pixel // 2, 2 * column + pixel % 2]
                conv.weight[:LUMA, first + pixel][tap] = weight
            conv.weight[LUMA : LUMA + CHROMA, first + 4][tap] = chroma[:, row, column]
            conv.weight[LUMA + CHROMA : FEATURES, first + 5][tap] = chroma[:, row, column]


def spread_out(conv: nn.Conv2d) -> None:
    """Feature f of every place to (f, ANCHOR, -ANCHOR, -f), one group of the last norm each."""
    feature = torch.arange(FEATURES)
    conv.weight[4 * feature, feature, 0, 0] = 1.0
    conv.weight[4 * feature + 3, feature, 0, 0] = -1.0
    conv.bias[4 * feature + 1], conv.bias[4 * feature + 2] = ANCHOR, -ANCHOR


class PatchEncoder:
    """The same features and codes as the encoder's, quicker: one matrix product a picture."""

    def __init__(self, centres: Tensor | None = None):
        luma, chroma = feature_weights()
        chroma = F.interpolate(chroma[None], scale_factor=2, mode="nearest")[0] / 4
        weight = torch.zeros(FEATURES, 3, PATCH, PATCH)
        weight[:LUMA] = luma[:, None] * OPPONENT[0][:, None, None]
        weight[LUMA : LUMA + CHROMA] = chroma[:, None] * OPPONENT[1][:, None, None]
        weight[LUMA + CHROMA :] = chroma[:, None] * OPPONENT[2][:, None, None]
        self.weight, self.centres = weight, centres

    def features(self, pixels: Tensor) -> Tensor:
        """[B, h, w, FEATURES] of pixels [B, 3, H, W] in 0..1."""
        with full_precision(pixels.device):
            return F.conv2d(pixels * 2 - 1, self.weight.to(pixels.device), stride=PATCH).movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, h, w]."""
        features = self.features(pixels)
        with full_precision(pixels.device):
            return nearest_row(features.flatten(0, 2), self.centres.to(pixels.device)).view(features.shape[:3])

    def spread(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The CHOICES nearest codes of every patch [B, h, w, CHOICES], and how probable each is: a softmax of the negative
        squared distance over SOFTNESS.

        Codes that look alike stand for one another (soft labels and stochastic sampling of RQ-Transformer, arXiv 2203.01941).
        """
        features = self.features(pixels)
        with full_precision(pixels.device):
            centres = self.centres.to(pixels.device)
            rows = features.flatten(0, 2)
            # The rows' own squares are the same for all of a row's codes.
            nearest = (centres.square().sum(-1) - 2 * rows @ centres.T).topk(CHOICES, largest=False)
            shares = (-nearest.values / SOFTNESS).softmax(-1)
        shape = (*features.shape[:3], CHOICES)
        return nearest.indices.view(shape), shares.view(shape)


def load_encoder(folder: Path) -> PatchEncoder:
    """The encoder with the codebook that `train_scene_codec` wrote to the folder."""
    return PatchEncoder(load_file(folder / CODEBOOK)["centres"])
