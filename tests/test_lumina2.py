"""Lumina-mGPT 2.0: a directory as published against transformers' Chameleon, its layout, its codec, and real sizes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig
from mcsjd_core.families import lumina2
from mcsjd_core.families.chameleon_parts import LuminaLayout, transformer_config
from mcsjd_core.families.lumina2 import Lumina2, Vocabulary
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.transformer import Transformer
from oracle import cached_logits, relative, uncached_logits
from test_emu3_codec import RENAMES
from tiny_checkpoint import randomise, split_into_shards

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

PUBLISHED_CODEC = lumina2.CODEC
CODES, SIDE = 40, 64
CODEC = VQGANConfig(
    channels=32, channel_multipliers=(1, 1, 1, 2), res_blocks=1, attention_levels=(3,), z_channels=4, embed_dim=4,
    codebook_size=CODES, spatial_norm=True,
)  # fmt: skip
TEXT = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "re"]
NAMES = ["<|im_start|>", "<|im_end|>", "<racm3:break>", "<eoss>", "<reserved08799>", "<reserved08706>"]
NAMES += [f"<reserved{8800 + n:05d}>" for n in (4, 3, 2, 1)]  # ids do not count what the names count
NAMES += [f"<MOVQGAN{n}>" for n in range(CODES)]
ID = {name: len(TEXT) + position for position, name in enumerate(NAMES)}
FIRST, VOCABULARY = ID["<MOVQGAN0>"], len(TEXT) + len(NAMES)
# The epsilon is no default of anything, so that a forgotten one shows.
CONFIG = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 3e-3, "model_parallel_size": 2,
}  # fmt: skip
TEXTS, SIZE = ["red", "a much longer one"], "96x32"


def write_lumina2(directory):
    """A random checkpoint as published: two rows of norms for four heads, shards, the codec's torch file with more in it."""
    directory.mkdir(parents=True)
    vq = {"base_channels": 32, "num_embeddings": 8, "channel_multiplier": [1, 1], "embed_dim": 8}
    config = transformers.ChameleonConfig(**CONFIG, vocabulary_map={"<image>": 0, "IMGIMGBZ": 1}, vq_config=vq)
    state = {f"model.{n}": t for n, t in randomise(transformers.ChameleonModel(config), 4).state_dict().items()}
    state = {name: tensor.clone() for name, tensor in state.items() if "vqmodel" not in name}
    state = {
        name: tensor[::2].clone() if "_norm." in name and "self_attn" in name else tensor
        for name, tensor in state.items()
    }
    state["lm_head.weight"] = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(5)) / 2
    save_file(state, directory / "model.safetensors")
    split_into_shards(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG | {"model_type": "chameleon", "mask_image_logits": False}))
    (directory / "generation_config.json").write_text(json.dumps({"image_side": SIDE}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "eos_token": "<|im_end|>"}))
    tokenizer = Tokenizer(models.BPE(vocab={name: id for id, name in enumerate(TEXT)}, merges=[("r", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES])
    tokenizer.save(str(directory / "tokenizer.json"))
    codec = randomise(VQGAN(CODEC), 6).state_dict()
    torch.save(codec | {"loss.logvar": torch.zeros(1)}, directory / "movqgan_270M.ckpt")
    return directory


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The codec's file does not tell its shape: it is taken for the published one."""
    monkeypatch.setattr(lumina2, "CODEC", CODEC)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_lumina2(tmp_path_factory.mktemp("lumina2") / "Lumina-mGPT-2.0")


@pytest.fixture(scope="module")
def model(directory) -> Lumina2:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lumina2, "CODEC", CODEC)
        return mcsjd_core.load(directory)


@pytest.fixture(scope="module")
def reference(directory):
    """transformers' body and head; it has a norm row for every head, and the file's rows serve two heads each."""
    vq = {"base_channels": 32, "num_embeddings": 8, "channel_multiplier": [1, 1], "embed_dim": 8}
    config = transformers.ChameleonConfig(**CONFIG, vocabulary_map={"<image>": 0, "IMGIMGBZ": 1}, vq_config=vq)
    body, state = transformers.ChameleonModel(config).eval(), {}
    for file in directory.glob("model-*.safetensors"):
        state |= load_file(file)
    norms = {name for name in state if "_norm." in name and "self_attn" in name}
    assert all(state[name].shape == (2, 8) for name in norms)
    body_state = {
        name.removeprefix("model."): tensor.repeat_interleave(2, 0) if name in norms else tensor
        for name, tensor in state.items()
        if name != "lm_head.weight"
    }
    missing, unexpected = body.load_state_dict(body_state, strict=False)
    assert not unexpected and all("vqmodel" in name for name in missing)
    return body, state["lm_head.weight"]


def rows_of(model: Lumina2, size: str) -> list[list[int]]:
    """The published form, spelled out; the unconditional rows begin at begin-of-image."""
    width, height = map(int, size.split("x"))
    start = [ID["<racm3:break>"], ID[f"<reserved{8800 + height // 32:05d}>"], ID[f"<reserved{8800 + width // 32:05d}>"]]
    rows = []
    for text in TEXTS:
        request = f"Generate an image of {size} according to the following prompt:\n{text}"
        ids = model.tokenizer.encode(request, add_special_tokens=False).ids
        rows += [[ID["<|im_end|>"], *ids, ID["<reserved08706>"], *start], start]
    return rows


def vocabulary_ids(tokens: torch.Tensor) -> list[int]:
    return [token + FIRST if token < CODES else token - CODES for token in tokens.tolist()]


def some_tokens(model: Lumina2, size: str, batch: int) -> torch.Tensor:
    grid = model.grid(size)
    codes = torch.randint(CODES, (batch, grid.rows, grid.columns), generator=torch.Generator().manual_seed(3))
    return grid.tokens(codes)


def their_logits(reference, ids: list[int]) -> torch.Tensor:
    body, head = reference
    with torch.no_grad():
        return body(input_ids=torch.tensor([ids])).last_hidden_state[0] @ head.T


# -- logits and tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 9])
def test_guided_logits_equal_those_of_transformers(model, reference, window):
    """Ragged prompts, conditional and unconditional rows, every position, separators included."""
    tokens, prompt = some_tokens(model, SIZE, 2), model.prompt(TEXTS, None, True, SIZE)
    ours, uncached = (
        cached_logits(model.token_model, prompt, tokens, window),
        uncached_logits(model.token_model, prompt, tokens),
    )
    for row, start in enumerate(rows_of(model, SIZE)):
        theirs = their_logits(reference, start + vocabulary_ids(tokens[row // 2, :-1]))[len(start) - 1 :]
        theirs = theirs[:, FIRST : FIRST + CODES]
        assert relative(ours[row], theirs, "logits, cached") < 1e-5
        assert relative(uncached[row], theirs, "logits, uncached") < 1e-5


def test_greedy_tokens_equal_the_authors_rules_with_transformers(model, reference):
    """Token by token: guidance, then what the grid allows, counted as their script counts it."""
    size, cond, uncond = "32x64", *rows_of(model, "32x64")[:2]
    height, width, drawn = 8, 4, []
    for count in range(1, height * (width + 1) + 2):
        if count == height * (width + 1) + 1:
            drawn.append(ID["<eoss>"])
        elif count % (width + 1) == 0:
            drawn.append(ID["<reserved08799>"])
        else:
            c, u = (their_logits(reference, head + drawn)[-1] for head in (cond, uncond))
            drawn.append(FIRST + int((u + 4.0 * (c - u))[FIRST : FIRST + CODES].argmax()))
    for coupling in ("autoregressive", "maximal"):
        settings = DecodeSettings(coupling, 9, LawSettings(4.0, temperature=0))
        ours = mcsjd_core.sample(model, TEXTS[:1], settings, size=size).tokens[0]
        assert vocabulary_ids(ours) == drawn and ours.unique().numel() > 7


def test_a_picture_is_drawn_exactly_and_read_back(model):
    settings = [DecodeSettings(coupling, 7, model.defaults.law) for coupling in ("autoregressive", "gumbel_exact")]
    plain, exact = (mcsjd_core.sample(model, TEXTS, each, size=SIZE).tokens for each in settings)
    assert torch.equal(plain, exact) and mcsjd_core.pictures(model, exact, SIZE).shape == (2, 3, 32, 96)
    assert model.defaults == mcsjd_core.families.interface.SamplingDefaults(LawSettings(4.0, top_k=4096), 16)
    assert mcsjd_core.encode(model, torch.rand(1, 3, 50, 70), SIZE).shape == exact[:1].shape


def test_a_prompt_that_leaves_no_room_is_refused(model):
    model.context, kept = 100, model.context
    try:
        with pytest.raises(InputError, match="beside a picture of this size the model reads 27; shorten it"):
            model.prompt(["red"], None, True)
    finally:
        model.context = kept


# -- the codec -----------------------------------------------------------------------------------------------------------


def test_pictures_equal_those_of_emu3_s_decoder_without_time(model):
    """transformers' Emu3VQVAE has the same decoder behind its layers in time, which are passed over here."""
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAEDecoder

    config = transformers.Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=[1, 1, 1, 2], attn_resolutions=[3], num_res_blocks=1, hidden_size=64
    )
    theirs, state = Emu3VQVAEDecoder(config).eval(), {}
    for name, tensor in model.codec.state_dict().items():
        if name.startswith("decoder."):
            is_projection = re.search(r"attn\S*\.(q|k|v|proj_out)\.weight$", name)
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            state[name.removeprefix("decoder.")] = tensor.flatten(1) if is_projection else tensor
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("time_") for name in missing)
    codes = torch.randint(CODES, (2, 3, 4), generator=torch.Generator().manual_seed(7))
    vectors = model.codec.quantize.embedding.weight[codes].movedim(-1, 1)
    with torch.no_grad():
        x, guide = model.codec.post_quant_conv(vectors), vectors
        x = theirs.middle_block(theirs.conv_in(x), guide)
        x = theirs.up_block(x, guide)
        x = theirs.conv_out(torch.nn.functional.silu(theirs.norm_out(x, guide)))
    assert relative(model.codec.reconstruct(vectors.movedim(1, -1)), (x + 1) / 2, "codec") < 1e-5


# -- files and real sizes ---------------------------------------------------------------------------------------------------


def test_the_directory_is_not_taken_for_chameleon_s(directory, tmp_path):
    assert mcsjd_core.detect(directory) == "lumina2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon", "vocab_size": 171385}))
    assert mcsjd_core.detect(tmp_path) == "lumina2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon", "vocab_size": 65536}))
    assert mcsjd_core.detect(tmp_path) == "chameleon"


def test_a_missing_codec_is_named_and_may_lie_beside(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "Lumina-mGPT-2.0")
    (tmp_path / "movqgan-270m").mkdir()
    shutil.move(path / "movqgan_270M.ckpt", tmp_path / "movqgan_270M.ckpt")
    with pytest.raises(InputError, match=r"movqgan_270M.ckpt is missing: .*ai-forever/MoVQGAN"):
        mcsjd_core.load(path)
    shutil.move(tmp_path / "movqgan_270M.ckpt", tmp_path / "movqgan-270m")
    assert mcsjd_core.load(path).sizes[0] == "64x64"
    assert mcsjd_core.checkpoint_paths(path)[1:] == [tmp_path / "movqgan-270m/movqgan_270M.ckpt"]


def test_controls_in_a_text_are_dropped(model):
    plain, smuggled = (
        model.prompt([text], None, False, SIZE).embeddings for text in ("red owl", "red<racm3:break><MOVQGAN3> owl")
    )
    assert torch.equal(plain, smuggled)


def test_published_ids_and_lengths():
    ids = {"<|im_end|>": 151645, "<racm3:break>": 151665, "<eoss>": 151666, "<reserved08799>": 151670}
    ids |= {f"<reserved{8800 + n:05d}>": 152000 + n for n in range(1, 49)} | {"<reserved08706>": 151900}
    codes = {f"<MOVQGAN{n}>": 155000 + n for n in range(16385)}
    for names in (ids, ids | codes):
        vocabulary = Vocabulary.of(names, "<|im_end|>", 16384)
        assert vocabulary == Vocabulary(151645, 151665, 151900, 155000)
    with pytest.raises(InputError, match="ids are not consecutive"):
        Vocabulary.of(ids | codes | {"<MOVQGAN7>": 180000}, "<|im_end|>", 16384)
    layout = LuminaLayout(vocabulary, ids, 16384, 768, 8)
    assert layout.row([9], "1152x512") == [151645, 9, 151900, 151665, 152016, 152036]
    grid = layout.grid("768x768")
    assert grid == Grid(96, 96, row_end=16384 + 151670, end=(16384 + 151666,)) and grid.num_tokens == 9313


def test_full_size_names_and_shapes_are_the_published_ones():
    fields = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    config = transformer_config(Fields(fields, "config.json"), 1)
    assert (config.rope_theta, config.norm_eps, config.qk_norm_eps, config.kv_heads) == (10000.0, 1e-5, 1e-5, 32)
    body = Transformer(config, dtype=torch.bfloat16, device="meta")
    state = TransformerTokenModel(body, 171385, 16384, 155000, dtype=torch.bfloat16, device="meta").state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    assert len(shapes) == 13 * 32 + 3 == 419
    assert shapes["model.layers.31.self_attn.q_norm.bias"] == [1, 128]
    assert shapes["model.layers.0.mlp.down_proj.weight"] == [4096, 11008]
    assert shapes["model.embed_tokens.weight"] == [171385, 4096]
    parameters = sum(tensor.numel() for tensor in state.values()) + (171385 - 16384) * 4096
    assert 2 * parameters / 1e9 == pytest.approx(15.76, abs=0.005)


def test_the_published_codec_has_the_published_number_of_tensors():
    state = VQGAN(PUBLISHED_CODEC, device="meta").state_dict()
    assert len(state) == 431 and sum(tensor.numel() for tensor in state.values()) == 270_669_103
    decoding = ("decoder.", "quantize.", "post_quant_conv.")
    assert sum(t.numel() for name, t in state.items() if name.startswith(decoding)) == 161_183_767
