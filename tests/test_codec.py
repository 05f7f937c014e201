"""The codec against transformers' VQ models with the same random weights; names and sizes of the public checkpoints."""

import re
from dataclasses import replace

import pytest
import torch

from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig
from mcsjd_core.errors import InputError
from mcsjd_core.families.chameleon import codec_config
from oracle import relative
from tiny_checkpoint import randomise

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

CHAMELEON = VQGANConfig()
JANUS = VQGANConfig(embed_dim=8, codebook_size=16384, normalize_codebook=True, attention_levels=(4,))
MOVQ = VQGANConfig(
    channels=256, channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), z_channels=4, embed_dim=4,
    codebook_size=16384, spatial_norm=True,
)  # fmt: skip
TINY = VQGANConfig(
    channels=32, channel_multipliers=(1, 2, 2), res_blocks=1, z_channels=6, embed_dim=5, codebook_size=40
)


def random_codes(config: VQGANConfig, *shape: int) -> torch.Tensor:
    return torch.randint(config.codebook_size, shape, generator=torch.Generator().manual_seed(1))


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


# -- names and sizes of the public checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tensors", "values"),
    [(CHAMELEON, 293, 68_718_467), (JANUS, 343, 71_883_403), (MOVQ, 431, 270_669_103)],
    ids=["Chameleon", "Janus and LlamaGen", "MoVQ 270M"],
)
def test_tensors_are_as_many_as_published(config, tensors, values):
    state = VQGAN(config, device="meta").state_dict()
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == values


def test_chameleon_names_and_shapes_are_those_of_taming_transformers():
    shapes = {name: list(tensor.shape) for name, tensor in VQGAN(CHAMELEON, device="meta").state_dict().items()}
    published = {
        "encoder.conv_in.weight": [128, 3, 3, 3],
        "encoder.conv_out.weight": [256, 512, 3, 3],
        "encoder.norm_out.weight": [512],
        "encoder.down.2.block.0.nin_shortcut.weight": [256, 128, 1, 1],
        "encoder.down.4.block.0.nin_shortcut.weight": [512, 256, 1, 1],
        "encoder.down.3.downsample.conv.weight": [256, 256, 3, 3],
        "encoder.mid.attn_1.proj_out.weight": [512, 512, 1, 1],
        "decoder.conv_in.weight": [512, 256, 3, 3],
        "decoder.norm_out.weight": [128],
        "decoder.conv_out.weight": [3, 128, 3, 3],
        "decoder.mid.attn_1.q.weight": [512, 512, 1, 1],
        "decoder.up.0.block.2.conv2.weight": [128, 128, 3, 3],
        "decoder.up.4.block.2.conv2.weight": [512, 512, 3, 3],
        "decoder.up.3.block.0.nin_shortcut.weight": [256, 512, 1, 1],
        "decoder.up.1.block.0.nin_shortcut.weight": [128, 256, 1, 1],
        "decoder.up.1.upsample.conv.weight": [128, 128, 3, 3],
        "decoder.up.4.upsample.conv.weight": [512, 512, 3, 3],
        "quantize.embedding.weight": [8192, 256],
        "quant_conv.weight": [256, 256, 1, 1],
        "post_quant_conv.weight": [256, 256, 1, 1],
    }
    assert {name: shapes.get(name) for name in published} == published
    block = r"(norm1|conv1|norm2|conv2|nin_shortcut)"
    middle = rf"mid\.(block_[12]\.{block}|attn_1\.(norm|q|k|v|proj_out))"
    encoder = rf"encoder\.(conv_in|conv_out|norm_out|{middle}|down\.[0-4]\.block\.[01]\.{block}|down\.[0-3]\.downsample\.conv)"
    decoder = (
        rf"decoder\.(conv_in|conv_out|norm_out|{middle}|up\.[0-4]\.block\.[012]\.{block}|up\.[1-4]\.upsample\.conv)"
    )
    pattern = re.compile(
        rf"({encoder}|{decoder}|quant_conv|post_quant_conv)\.(weight|bias)|quantize\.embedding\.weight"
    )
    assert [name for name in shapes if not pattern.fullmatch(name)] == []
    assert [name for name in shapes if "nin_shortcut.weight" in name] == [
        "encoder.down.2.block.0.nin_shortcut.weight",
        "encoder.down.4.block.0.nin_shortcut.weight",
        "decoder.up.1.block.0.nin_shortcut.weight",
        "decoder.up.3.block.0.nin_shortcut.weight",
    ]


def test_janus_attention_is_at_the_deepest_level_alone():
    names = VQGAN(JANUS, device="meta").state_dict()
    levels = {match[0] for name in names if (match := re.match(r"(en|de)coder\.(down|up)\.\d\.attn\.\d", name))}
    assert levels == {f"encoder.down.4.attn.{i}" for i in range(2)} | {f"decoder.up.4.attn.{i}" for i in range(3)}


# -- the same numbers as transformers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sides", "levels"), [(None, ()), ([], ()), ([16], (1,)), ([8, 32], (0, 2))])
@pytest.mark.parametrize("blocks", [1, 2])
def test_encoder_and_quantiser_equal_chameleon(sides, levels, blocks):
    settings = transformers.ChameleonConfig(
        vq_config={
            "base_channels": 32, "channel_multiplier": [1, 2, 2], "num_res_blocks": blocks, "latent_channels": 6,
            "embed_dim": 5, "num_embeddings": 40, "resolution": 32, "attn_resolutions": sides,
        }
    ).vq_config  # fmt: skip
    config = codec_config(Fields(settings.to_dict(), "config"))
    assert config == replace(TINY, res_blocks=blocks, attention_levels=levels)
    model = randomise(VQGAN(config))
    reference = transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE(settings)
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith("decoder.") for name in unexpected)
    pixels = random_pixels(2, 3, 24, 40)
    with torch.no_grad():
        theirs = reference.encode(pixels * 2 - 1)
        latents = model.latents(pixels)
        expected = reference.quant_conv(theirs.last_hidden_state).movedim(1, -1)
    assert relative(latents, expected) < 1e-5
    codes = model.encode(pixels)
    assert codes.shape == (2, 6, 10)
    assert torch.equal(codes.flatten(), theirs.image_tokens.flatten())
    assert len(codes.unique()) > 5  # the comparison has to mean something


def janus_vq(config: VQGANConfig, grid: int = 4):
    """transformers' JanusVQVAE of the same shape; its decoder counts levels from the deepest."""
    settings = transformers.JanusVQVAEConfig(
        base_channels=config.channels, channel_multiplier=list(config.channel_multipliers), num_patches=grid,
        num_res_blocks=config.res_blocks, latent_channels=config.z_channels, embed_dim=config.embed_dim,
        num_embeddings=config.codebook_size,
    )  # fmt: skip
    return transformers.models.janus.modeling_janus.JanusVQVAE(settings).eval()


def janus_names(state: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    return {re.sub(r"(?<=decoder\.up\.)\d", lambda m: str(levels - 1 - int(m[0])), k): v for k, v in state.items()}


def test_decoder_equals_janus_without_level_attention():
    """The taming decoder is Janus' with the attention of the deepest level taken out and the levels counted backwards."""
    model, reference = randomise(VQGAN(TINY)), janus_vq(TINY)
    reference.encoder.down[-1].attn = reference.decoder.up[0].attn = torch.nn.ModuleList()
    reference.load_state_dict(janus_names(model.state_dict(), 3))
    codes = random_codes(TINY, 2, 3, 5)
    with torch.no_grad():
        vectors = model.quantize.lookup(codes)
        assert torch.equal(vectors, model.quantize.embedding.weight[codes])  # this codebook is used as stored
        theirs = reference.decoder(reference.post_quant_conv(vectors.movedim(-1, 1)))
        ours = model.reconstruct(vectors)
    assert relative(ours * 2 - 1, theirs) < 1e-5
    assert torch.equal(model.decode(codes), ours.clamp(0, 1))


JANUS_TINY = replace(TINY, embed_dim=8, normalize_codebook=True, attention_levels=(2,))


def test_decoding_equals_janus():
    model, reference = randomise(VQGAN(JANUS_TINY)), janus_vq(JANUS_TINY)
    reference.load_state_dict(janus_names(model.state_dict(), 3))
    codes = random_codes(JANUS_TINY, 2, 4, 4)
    with torch.no_grad():
        theirs = reference.decode(codes.flatten(1))
        ours = model.reconstruct(model.quantize.lookup(codes)) * 2 - 1
    assert relative(ours, theirs) < 1e-5


def test_janus_encoder_and_normalised_search():
    """transformers searches without normalising, the original with it; the latter is what the weights were trained for."""
    model, reference = randomise(VQGAN(JANUS_TINY)), janus_vq(JANUS_TINY)
    reference.load_state_dict(janus_names(model.state_dict(), 3))
    pixels = random_pixels(2, 3, 24, 16)
    with torch.no_grad():
        latents = reference.quant_conv(reference.encoder(pixels * 2 - 1)).movedim(1, -1)
        assert relative(model.latents(pixels), latents) < 1e-5
    rows = torch.nn.functional.normalize(reference.quantize.embedding.weight, dim=-1)
    cosines = torch.nn.functional.normalize(latents, dim=-1) @ rows.T
    assert torch.equal(model.encode(pixels), cosines.argmax(-1))


EMU = VQGANConfig(
    channels=32, channel_multipliers=(1, 2, 2), res_blocks=2, attention_levels=(2,), z_channels=4, embed_dim=4,
    codebook_size=40, spatial_norm=True,
)  # fmt: skip


def emu_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of transformers' Emu3VQVAE, whose 1 x 1 attention convolutions are linear layers."""
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"mid\.attn_1\.norm", "mid.attn_norm", name)
        new = re.sub(r"\.attn\.(\d)\.norm\.", r".attn_norms.\1.", new)
        new = re.sub(r"(attn_1|attn\.\d)\.([qkv])\.", r"\1.\2_proj.", new).replace(".proj_out.", ".out_proj.")
        new = re.sub(r"\.mid\.", ".middle_block.", new)
        new = new.replace(".down.", ".down_block.down.").replace(".up.", ".up_block.up.")
        renamed[new] = tensor.flatten(1) if "_proj.weight" in new else tensor
    return renamed


def test_spatial_norm_decoder_equals_emu3():
    """With its temporal part taken out Emu3's decoder is the MoVQ decoder, guided by the codebook vectors."""
    model = randomise(VQGAN(EMU))
    settings = transformers.Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=[1, 2, 2], num_res_blocks=2, attn_resolutions=[2], hidden_size=64,
        latent_channels=4, embed_dim=4, codebook_size=40,
    )  # fmt: skip
    reference = transformers.Emu3VQVAE(settings).eval()
    for half in (reference.encoder, reference.decoder):
        half.time_conv = half.time_res_stack = torch.nn.ModuleList()
    state = {name: t for name, t in emu_names(model.state_dict()).items() if "quant_conv" not in name}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert unexpected == [] and all("quant_conv" in name for name in missing)  # those are convolutions over time
    codes, pixels = random_codes(EMU, 2, 3, 5), random_pixels(2, 3, 24, 16)
    with torch.no_grad():
        vectors = model.quantize.lookup(codes)
        guide = vectors.movedim(-1, 1)
        theirs = reference.decoder(model.post_quant_conv(guide)[:, None], guide[:, None])
        ours = model.reconstruct(vectors) * 2 - 1
        encoded = model.encoder(pixels), reference.encoder(pixels[:, None])[:, 0]
    assert relative(ours, theirs) < 1e-5
    assert relative(*encoded) < 1e-5


# -- behaviour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_any_grid_and_factor_fit(levels):
    config = replace(TINY, channel_multipliers=(1,) * levels)
    model, factor = randomise(VQGAN(config)), 2 ** (levels - 1)
    assert config.downsampling == factor
    pixels = random_pixels(1, 3, 2 * factor, 3 * factor)
    codes = model.encode(pixels)
    assert codes.shape == (1, 2, 3) and codes.dtype == torch.int64
    picture = model.decode(codes)
    assert picture.shape == pixels.shape and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(model.decode(codes.int()), picture)


def test_guided_layers_come_from_the_given_operations_too():
    kinds = ("Conv2d", "GroupNorm", "Embedding")
    operations = type("Given", (), {kind: type(kind, (getattr(torch.nn, kind),), {}) for kind in kinds})
    for layer in VQGAN(EMU, device="meta", operations=operations).modules():
        if not list(layer.children()) and list(layer.parameters()):
            assert isinstance(layer, tuple(getattr(operations, kind) for kind in kinds))


def test_batch_rows_are_independent():
    model, codes = randomise(VQGAN(TINY)), random_codes(TINY, 3, 4, 4)
    together, alone = model.decode(codes), torch.cat([model.decode(row[None]) for row in codes])
    assert (together - alone).abs().max() < 1e-5
    pixels = random_pixels(3, 3, 16, 16)
    assert torch.equal(model.encode(pixels), torch.cat([model.encode(row[None]) for row in pixels]))


@pytest.mark.parametrize("normalised", [False, True])
def test_search_finds_the_nearest_row(normalised):
    book = randomise(VQGAN(replace(TINY, normalize_codebook=normalised))).quantize.double()
    z = torch.randn(2, 7, 9, TINY.embed_dim, generator=torch.Generator().manual_seed(3)).double()
    rows, points = book.embedding.weight, z
    if normalised:
        rows, points = (t / t.norm(dim=-1, keepdim=True) for t in (rows, points))
    distances = (points[..., None, :] - rows).square().sum(-1)
    assert torch.equal(book.nearest(z), distances.argmin(-1))
    codes = torch.arange(TINY.codebook_size)
    assert torch.equal(book.nearest(book.lookup(codes)), codes)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.rand(3, 16, 16), r"shape \[B, 3, H, W\]"),
        (torch.rand(1, 4, 16, 16), r"\[1, 4, 16, 16\]"),
        (torch.rand(1, 16, 16, 3), r"\[1, 16, 16, 3\]"),
        (torch.rand(0, 3, 16, 16), r"\[0, 3, 16, 16\]"),
        (torch.rand(1, 3, 0, 16), r"\[1, 3, 0, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.rand(1, 3, 16, 18), "multiples of 4 px, got 18 x 16"),
        (torch.rand(1, 3, 17, 16), "multiples of 4 px, got 16 x 17"),
        (torch.rand(1, 3, 2, 2), "multiples of 4 px, got 2 x 2"),
    ],
)
def test_bad_pictures_are_refused(pixels, message):
    with pytest.raises(InputError, match=message):
        randomise(VQGAN(TINY)).encode(pixels)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 4, 4), "torch.float32"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), "torch.bool"),
        (torch.zeros(4, 4, dtype=torch.long), r"shape \[B, h, w\], got \[4, 4\]"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.long), r"got \[1, 1, 4, 4\]"),
        (torch.zeros(1, 0, 4, dtype=torch.long), r"got \[1, 0, 4\]"),
        (torch.zeros(0, 4, 4, dtype=torch.long), r"got \[0, 4, 4\]"),
        (torch.full((1, 4, 4), 40), "codes 0 to 39, got 40 to 40"),
        (torch.full((1, 4, 4), -1), "codes 0 to 39, got -1 to -1"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        randomise(VQGAN(TINY)).decode(codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 48}, "multiple of 32"),
        ({"codebook_size": 0}, "at least 1"),
        ({"channel_multipliers": ()}, "at least 1"),
        ({"attention_levels": (3,)}, r"0 to 2, got \[3\]"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)
