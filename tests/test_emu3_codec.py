"""Emu3's vision tokenizer against transformers' Emu3VQVAE with the same random weights."""

import re

import pytest
import torch

from mcsjd_core.codecs.emu3_vq import Emu3VQ
from mcsjd_core.codecs.vqgan import VQGANConfig
from oracle import relative
from tiny_checkpoint import randomise

CONFIG = VQGANConfig(
    channels=32, channel_multipliers=(1, 2), res_blocks=2, attention_levels=(1,), z_channels=4, embed_dim=4,
    codebook_size=64, spatial_norm=True,
)  # fmt: skip
# Name in transformers of a name in `BAAI/Emu3-VisionTokenizer`, applied one after the other.
RENAMES = (
    (r"attn_1\.norm\.", "attn_norm."),
    (r"attn\.(\d)\.norm\.", r"attn_norms.\1."),
    (r"(attn\S*)\.(q|k|v)\.", r"\1.\2_proj."),
    (r"(attn\S*)\.proj_out\.", r"\1.out_proj."),
    (r"\.(down|up)\.(\d)", r".\1_block.\1.\2"),
    (r"\.mid\.", ".middle_block."),
)


def random_codec() -> Emu3VQ:
    codec = randomise(Emu3VQ(CONFIG))
    generator = torch.Generator().manual_seed(5)
    for name, buffer in codec.named_buffers():
        values = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(values + 0.5 if name.endswith("var") else values - 0.5)
    codec.double()
    # Codes amid what pictures come to: with random ones all cells of a picture are nearest to the same.
    pixels = torch.rand(1, 3, 16, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        codec.quantize.embedding.weight.copy_(codec.latents(pixels).flatten(0, -2))
    return codec


def transformers_state(codec: Emu3VQ) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in codec.state_dict().items():
        is_projection = re.search(r"attn\S*\.(q|k|v|proj_out)\.weight$", name)
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.flatten(1) if is_projection else tensor  # 1x1 convolutions are matrices there
    return state


@pytest.fixture(scope="module")
def codec() -> Emu3VQ:
    return random_codec()


@pytest.fixture(scope="module")
def reference(codec):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    config = transformers.Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=[1, 2], attn_resolutions=[1], hidden_size=64, codebook_size=64
    )
    model = transformers.Emu3VQVAE(config).double().eval()
    missing, unexpected = model.load_state_dict(transformers_state(codec), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return model


def test_pictures_equal_those_of_transformers(codec, reference):
    codes = torch.randint(64, (2, 3, 5), generator=torch.Generator().manual_seed(6))
    ours = codec.reconstruct(codec.quantize.lookup(codes))
    with torch.no_grad():
        theirs = (reference.decode(codes) + 1) / 2
    assert ours.shape == theirs.shape == (2, 3, 6, 10)
    assert relative(ours, theirs) < 1e-10
    assert torch.equal(codec.decode(codes), ours.clamp(0, 1))


def test_codes_equal_those_of_transformers(codec, reference):
    pixels = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        theirs = reference.encode(pixels * 2 - 1, image_sizes=torch.tensor([[8, 12]] * 2)).image_tokens
    assert torch.equal(codec.encode(pixels), torch.stack(theirs))
    assert codec.encode(pixels).unique().numel() > 8  # of 48 cells


def test_batch_norm_keeps_to_the_stored_statistics(codec):
    codes = torch.zeros(1, 2, 2, dtype=torch.long)
    before = codec.decode(codes)
    codec.train()
    assert torch.equal(codec.decode(codes), before)
    codec.eval()


def test_the_published_codec_has_the_published_number_of_tensors():
    shape = VQGANConfig(
        channels=256, channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), z_channels=4, embed_dim=4,
        codebook_size=32768, spatial_norm=True,
    )  # fmt: skip
    state = Emu3VQ(shape, device="meta").state_dict()
    batch_norms = sum(name.endswith("running_mean") for name in state)  # each has a counter in the file as well
    assert len(state) + batch_norms == 495
    assert sum(tensor.numel() for tensor in state.values()) + batch_norms == 270_740_359
    assert list(state["decoder.time_conv.1.conv.conv.weight"].shape) == [4, 4, 3, 3, 3]
    assert list(state["encoder.time_conv.0.conv.conv.weight"].shape) == [4, 4, 4, 3, 3]
    assert list(state["decoder.up.2.block.0.nin_shortcut.weight"].shape) == [512, 1024, 1, 1]
    assert list(state["decoder.up.3.attn.2.norm.conv_y.weight"].shape) == [1024, 4, 1, 1]
