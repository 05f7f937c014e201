"""The causal video tokenizer: the published shape, exact patches, causality of both halves, and what a local encoder means."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from mcsjd_core.codecs.fsq_video import FSQVideoCodec, FSQVideoConfig
from mcsjd_core.codecs.haar import haar, inverse_haar
from mcsjd_core.errors import InputError

# 8 x 16 x 16 in miniature, and the shape of a small model: 4 x 8 x 8, codes of equal cells alike.
TINY = FSQVideoConfig(channels=8, channel_multipliers=(1, 2, 2), res_blocks=1, z_channels=8, levels=(5, 4, 4, 3))
LOCAL = FSQVideoConfig(
    channels=8, channel_multipliers=(1, 2), res_blocks=1, z_channels=8, levels=(5, 4, 4, 3), spatial_compression=8,
    temporal_compression=4, local_encoder=True,
)  # fmt: skip


def codec(config: FSQVideoConfig) -> FSQVideoCodec:
    """Random float64 weights, the latents spread so that codes differ from cell to cell."""
    torch.manual_seed(0)
    model = FSQVideoCodec(config, dtype=torch.float64).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".norm." in name:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    frames, side = 1 + 2 * config.temporal_compression, 2 * config.spatial_compression
    latents = model.latents(video(4, 3, frames, side, side, seed=7)).flatten(0, -2)
    layer = model.quant_conv.conv3d
    layer.weight /= latents.std(0).view(-1, 1, 1, 1, 1)
    layer.bias.copy_((layer.bias - latents.mean(0)) / latents.std(0))
    return model


def video(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_published_shape_has_the_published_tensors():
    """318 tensors, 45,537,158 parameters to encode, 65,361,136 to decode."""
    state = FSQVideoCodec(FSQVideoConfig(), device="meta").state_dict()
    count = {name: sum(t.numel() for key, t in state.items() if key.startswith(parts)) for name, parts in
             {"encode": ("encoder.", "quant_conv."), "decode": ("decoder.", "post_quant_conv.")}.items()}  # fmt: skip
    assert len(state) == 318 and count == {"encode": 45_537_158, "decode": 65_361_136}
    assert all(re.search(r"\.(conv3d|norm)\.(weight|bias)$", name) for name in state)
    shapes = {
        "encoder.conv_in.0.conv3d.weight": [128, 192, 1, 3, 3],
        "encoder.conv_in.1.conv3d.weight": [128, 128, 3, 1, 1],
        "encoder.down.0.block.0.nin_shortcut.conv3d.weight": [256, 128, 1, 1, 1],
        "encoder.down.0.downsample.conv2.conv3d.weight": [256, 256, 3, 1, 1],
        "encoder.mid.attn_1.1.proj_out.conv3d.bias": [512],
        "quant_conv.conv3d.weight": [6, 16, 1, 1, 1],
        "decoder.up.1.upsample.conv1.conv3d.weight": [512, 512, 3, 1, 1],
        "decoder.up.0.block.0.nin_shortcut.conv3d.weight": [256, 512, 1, 1, 1],
        "decoder.conv_out.0.conv3d.weight": [192, 256, 1, 3, 3],
    }
    assert {name: list(state[name].shape) for name in shapes} == shapes
    assert "encoder.down.1.downsample.conv2.conv3d.weight" not in state
    assert "decoder.up.2.upsample.conv1.conv3d.weight" not in state


@pytest.mark.parametrize("config", [TINY, LOCAL, replace(LOCAL, spatial_compression=16, channel_multipliers=(1, 1, 1))])
def test_shapes(config):
    model, f, s = codec(config), config.temporal_compression, config.spatial_compression
    assert (model.pixels_per_code, model.frames_per_code) == (s, f)
    pixels = video(2, 3, 1 + 2 * f, 2 * s, 3 * s)
    codes = model.encode(pixels)
    assert codes.shape == (2, 3, 2, 3) and codes.dtype == torch.int64 and len(codes.unique()) > 3
    decoded = model.decode(codes)
    assert decoded.shape == pixels.shape and decoded.min() >= 0 and decoded.max() <= 1
    assert torch.equal(model.decode(codes.int()), decoded)


def test_haar_is_exact_and_ordered_by_band():
    """Against sums written out: channel (band in time, height, width; colour), each band the mean of signed pixels."""
    pixels = video(1, 3, 4, 6, 8)
    bands = haar(pixels)
    assert bands.shape == (1, 24, 2, 3, 4)
    for t in (0, 1):
        for h in (0, 1):
            for w in (0, 1):
                expected = sum(
                    (-1) ** (t * i + h * j + w * k) * pixels[:, :, i::2, j::2, k::2]
                    for i in (0, 1) for j in (0, 1) for k in (0, 1)
                ) / 8  # fmt: skip
                first = 3 * (4 * t + 2 * h + w)
                assert torch.allclose(bands[:, first : first + 3], expected, atol=1e-12)
    assert torch.allclose(inverse_haar(bands), pixels, atol=1e-12)


@pytest.mark.parametrize("config", [TINY, LOCAL])
def test_no_code_depends_on_later_frames(config):
    model, f = codec(config), config.temporal_compression
    pixels = video(1, 3, 1 + 3 * f, 32, 32)
    codes = model.encode(pixels)
    for kept in range(4):
        changed = torch.cat((pixels[:, :, : 1 + kept * f], video(1, 3, (3 - kept) * f, 32, 32, seed=9)), 2)
        assert torch.equal(model.encode(changed)[:, : kept + 1], codes[:, : kept + 1])
        assert torch.equal(model.encode(pixels[:, :, : 1 + kept * f]), codes[:, : kept + 1])
    later = model.encode(torch.cat((video(1, 3, 1, 32, 32, seed=9), pixels[:, :, 1:]), 2))
    assert not torch.equal(later[:, :1], codes[:, :1])


@pytest.mark.parametrize("config", [TINY, LOCAL])
def test_no_frame_depends_on_later_codes(config):
    model, f, s = codec(config), config.temporal_compression, config.spatial_compression
    codes = torch.randint(config.codebook_size, (1, 4, 2, 3), generator=torch.Generator().manual_seed(2))
    whole = model.decode(codes)
    assert whole.shape == (1, 3, 1 + 3 * f, 2 * s, 3 * s)
    for kept in range(1, 5):
        shown = model.decode(codes[:, :kept])
        assert (shown - whole[:, :, : shown.shape[2]]).abs().max() < 1e-10
        changed = torch.cat((codes[:, :kept], codes[:, kept:].flip(1).add(1) % config.codebook_size), 1)
        assert (model.decode(changed)[:, :, : shown.shape[2]] - shown).abs().max() < 1e-10


def test_a_local_encoder_gives_equal_cells_equal_codes():
    model, pixels = codec(LOCAL), video(1, 3, 9, 32, 40)
    moved = torch.roll(pixels, (8, 16), (3, 4))
    assert torch.equal(model.encode(moved), torch.roll(model.encode(pixels), (1, 2), (2, 3)))
    alone = torch.cat(
        [model.encode(pixels[..., y : y + 8, x : x + 8]) for y in range(0, 32, 8) for x in range(0, 40, 8)]
    )
    assert torch.equal(alone.flatten(1).T.reshape(3, 4, 5), model.encode(pixels)[0])
    wide = codec(replace(LOCAL, local_encoder=False))
    assert not torch.equal(wide.encode(moved), torch.roll(wide.encode(pixels), (1, 2), (2, 3)))


def test_layers_come_from_the_given_operations():
    operations = type("Given", (), {kind: type(kind, (getattr(nn, kind),), {}) for kind in ("Conv3d", "GroupNorm")})
    for layer in FSQVideoCodec(TINY, device="meta", operations=operations).modules():
        if not list(layer.children()) and list(layer.parameters()):
            assert isinstance(layer, operations.Conv3d | operations.GroupNorm)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.rand(3, 9, 16, 16), r"shape \[B, 3, T, H, W\]"),
        (torch.rand(1, 4, 9, 16, 16), r"\[1, 4, 9, 16, 16\]"),
        (torch.zeros(1, 3, 9, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.rand(1, 3, 9, 16, 24), "multiples of 16 px, got 24 x 16"),
        (torch.rand(1, 3, 8, 16, 16), "a multiple of 8 after it, got 8 frames"),
    ],
)
def test_bad_videos_are_refused(pixels, message):
    with pytest.raises(InputError, match=message):
        codec(TINY).encode(pixels)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 2, 4, 4), "torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.long), r"shape \[B, t, h, w\], got \[2, 4, 4\]"),
        (torch.full((1, 2, 4, 4), 240), "codes 0 to 239, got 240 to 240"),
        (torch.full((1, 2, 4, 4), -1), "codes 0 to 239, got -1 to -1"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        codec(TINY).decode(codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "at least 1"),
        ({"channel_multipliers": ()}, "at least 1"),
        ({"patch_size": 3}, "powers of 2"),
        ({"temporal_compression": 2}, "none below the one before it, got 4, 2, 16"),
        ({"spatial_compression": 8}, r"halve time less often than space \(got 1 and 1 times\)"),
        ({"spatial_compression": 64}, r"got 1 and 4 times\), and space at most"),
        ({"levels": (8, 1)}, "at least 2 levels"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)
