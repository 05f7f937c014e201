"""Emu3.5: a directory as published against transformers' Qwen3, its layout, its codec, and real sizes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from mcsjd_core import DecodeSettings, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.families import emu3_5
from mcsjd_core.families.emu3_5 import Emu35, Vocabulary, body_config
from mcsjd_core.families.emu_vocabulary import SPECIAL, code_name
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.transformer import Transformer
from oracle import cached_logits, relative, uncached_logits
from test_emu3_codec import RENAMES
from test_rank_tokenizer import WORDS, write_ranks
from tiny_checkpoint import randomise, split_into_shards

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

PUBLISHED_CODEC, PUBLISHED_SIZES = emu3_5.CODEC, emu3_5.SIZES
CODES = 48
CODEC = VQGANConfig(
    channels=32, channel_multipliers=(1, 1, 1, 1, 2), res_blocks=1, attention_levels=(4,), z_channels=8, embed_dim=8,
    codebook_size=CODES, product_search=True,
)  # fmt: skip
TEXT_TOKENS = 256 + len(WORDS)
VISION_NAMES = ["<|image token|>", "<|image start|>", "<|image end|>", *(code_name(code) for code in range(CODES))]
ID = {name: TEXT_TOKENS + position for position, name in enumerate((*SPECIAL, *VISION_NAMES))}
BOS, BSS, EOL = (ID[f"<|extra_{number}|>"] for number in (203, 100, 200))
IMG, BOI, EOI, FIRST = (ID[name] for name in VISION_NAMES[:4])
# The epsilon is no default of anything, so that a forgotten one shows.
CONFIG = {
    "vocab_size": FIRST + CODES, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 3e-3, "max_position_embeddings": 200,
}  # fmt: skip
TEXTS, NEGATIVES, SIZE = ["the cat", "a <|image start|> in the cat"], ["", "cat"], "64x48"


def reference_config():
    return transformers.Qwen3Config(**CONFIG, rope_parameters={"rope_type": "default", "rope_theta": 1e6})


def write_emu3_5(directory):
    """A random checkpoint in the published layout, written by transformers' Qwen3, whose names are the published ones."""
    directory.mkdir(parents=True)
    model = randomise(transformers.Qwen3ForCausalLM(reference_config()), 7)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["lm_head.weight"] *= 3
    save_file(state, directory / "model.safetensors")
    split_into_shards(directory)
    extra = {"model_type": "Emu3", "rope_theta": 1e6, "rope_scaling": None, "sliding_window": 8, "max_window_layers": 1}
    (directory / "config.json").write_text(json.dumps(CONFIG | extra))
    write_ranks(directory / "emu3.tiktoken")
    (directory / "emu3_vision_tokens.txt").write_text("\n".join(VISION_NAMES) + "\n")
    (directory / "Emu3.5-VisionTokenizer").mkdir()
    codec = randomise(VQGAN(CODEC), 8).state_dict() | {"loss.logvar": torch.zeros(1)}
    torch.save({"state_dict": codec}, directory / "Emu3.5-VisionTokenizer" / "model.ckpt")
    return directory


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The codec is taken for the published one, and pictures are small."""
    monkeypatch.setattr(emu3_5, "CODEC", CODEC)
    monkeypatch.setattr(emu3_5, "SIZES", (SIZE, "32x64"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_emu3_5(tmp_path_factory.mktemp("emu3_5") / "Emu3.5-Image")


@pytest.fixture
def model(directory) -> Emu35:
    return mcsjd_core.load(directory)


@pytest.fixture(scope="module")
def reference(directory):
    model, state = transformers.Qwen3ForCausalLM(reference_config()).eval(), {}
    for file in directory.glob("model-*.safetensors"):
        state |= load_file(file)
    model.load_state_dict(state)
    return model


def rows_of(model: Emu35, size: str) -> list[list[int]]:
    """The published form, spelled out: names in a text are text, size rows first."""
    width, height = (side // 16 for side in map(int, size.split("x")))
    rows = []
    for text, negative in zip(TEXTS, NEGATIVES, strict=True):
        for request in (f"You are a helpful assistant for t2i task. USER: {text} ASSISTANT: ",
                        f"You are a helpful assistant. USER: {negative} ASSISTANT: "):  # fmt: skip
            rows.append([BOS, *model.encode(request), BSS, BOI, *model.encode(f"{height}*{width}"), IMG])
    return rows


def vocabulary_ids(tokens: torch.Tensor) -> list[int]:
    return [token + FIRST if token < CODES else token - CODES for token in tokens.tolist()]


def allowed_ids(count: int, height: int, width: int) -> list[int]:
    """What the authors allow as token number `count` after the image token, from 1."""
    if count == height * (width + 1):
        return [EOI]
    return [EOL] if count % (width + 1) == 0 else list(range(FIRST, FIRST + CODES))


@pytest.mark.parametrize("window", [1, 6])
def test_logits_of_ragged_guided_prompts_equal_those_of_transformers(model, reference, window):
    grid = model.grid(SIZE)
    codes = torch.randint(CODES, (2, grid.rows, grid.columns), generator=torch.Generator().manual_seed(3))
    tokens, prompt = grid.tokens(codes), model.prompt(TEXTS, NEGATIVES, True, SIZE)
    assert torch.equal(grid.codes(tokens), codes)
    ours, uncached = (
        cached_logits(model.token_model, prompt, tokens, window),
        uncached_logits(model.token_model, prompt, tokens),
    )
    for row, head in enumerate(rows_of(model, SIZE)):
        with torch.no_grad():
            theirs = reference(input_ids=torch.tensor([head + vocabulary_ids(tokens[row // 2, :-1])])).logits[0]
        theirs = theirs[len(head) - 1 :, FIRST:]
        assert relative(ours[row], theirs, "logits, cached") < 1e-5
        assert relative(uncached[row], theirs, "logits, uncached") < 1e-5


def test_greedy_tokens_equal_the_authors_rules_with_transformers(model, reference):
    """Token by token: guidance on the whole vocabulary, then what the grid allows."""
    height, width, drawn = 4, 2, []
    cond, uncond = rows_of(model, "32x64")[:2]
    for count in range(1, height * (width + 1) + 1):
        allowed = allowed_ids(count, height, width)
        with torch.no_grad():
            c, u = (
                reference(input_ids=torch.tensor([head + drawn])).logits[0, -1].log_softmax(-1)
                for head in (cond, uncond)
            )
        drawn.append(allowed[int((u + 5.0 * (c - u))[allowed].argmax())])
    for coupling in ("autoregressive", "maximal"):
        settings = DecodeSettings(coupling, 5, LawSettings(5.0, temperature=0))
        ours = mcsjd_core.sample(model, TEXTS[:1], settings, size="32x64", negatives=[""]).tokens[0]
        assert vocabulary_ids(ours) == drawn and ours.unique().numel() > 4


def test_every_position_of_every_size_allows_what_the_authors_allow(model):
    for size in PUBLISHED_SIZES:
        grid = model.picture_grid(size)
        assert grid.num_tokens == grid.rows * (grid.columns + 1)
        for position, forced in enumerate(grid.forced().tolist()):
            allowed = allowed_ids(position + 1, grid.rows, grid.columns)
            assert [forced] == [allowed[0] + CODES] if len(allowed) == 1 else forced == FREE
    assert PUBLISHED_SIZES == (
        "1168x880",
        "1024x1024",
        "880x1168",
        "1248x832",
        "832x1248",
        "1360x752",
        "752x1360",
        "1552x656",
    )


def test_a_picture_is_drawn_exactly_and_read_back(model):
    settings = [DecodeSettings(coupling, 7, model.defaults.law) for coupling in ("autoregressive", "gumbel_exact")]
    plain, exact = (mcsjd_core.sample(model, TEXTS, each).tokens for each in settings)
    assert torch.equal(plain, exact) and mcsjd_core.pictures(model, exact).shape == (2, 3, 48, 64)
    assert model.defaults.law == LawSettings(5.0, top_k=5120)
    model.context = 60
    with pytest.raises(InputError, match="beside a picture of this size the model reads 45; shorten it"):
        model.prompt(TEXTS, None, False)


def test_a_request_that_rows_have_in_common_is_encoded_once(model, monkeypatch):
    asked, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda text: asked.append(text) or encode(text))
    monkeypatch.setattr(model, "context", 10**6)
    prompt = model.prompt(TEXTS * 3, NEGATIVES * 3, True)
    requests = [text for text in asked if "USER" in text]
    assert len(requests) == len(set(requests)) == 4
    for row in range(12):
        assert torch.equal(prompt.embeddings[row], prompt.embeddings[row % 4])


def test_pictures_and_codes_equal_emu3_s_decoder_with_neutral_guides(model):
    """transformers' Emu3 decoder is this one where its norms multiply by 1 and add 0; codes are found by the largest product."""
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAEDecoder

    config = transformers.Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=[1, 1, 1, 1, 2], attn_resolutions=[4], num_res_blocks=1, hidden_size=64,
        latent_channels=8, embed_dim=8,
    )  # fmt: skip
    theirs, state = Emu3VQVAEDecoder(config).eval(), {}
    for name, tensor in model.codec.state_dict().items():
        if name.startswith("decoder."):
            is_projection = re.search(r"attn\S*\.(q|k|v|proj_out)\.weight$", name)
            norm = re.search(r"norm\d?\.(weight|bias)$|norm_out\.(weight|bias)$", name)
            name = re.sub(r"\.(weight|bias)$", r".norm_layer.\1", name) if norm else name
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            state[name.removeprefix("decoder.")] = tensor.flatten(1) if is_projection else tensor
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(
        name.startswith("time_") or ".conv_y." in name or ".conv_b." in name for name in missing
    )
    for name, parameter in theirs.named_parameters():
        if ".conv_y." in name or ".conv_b." in name:
            torch.nn.init.constant_(parameter, float(name.endswith("conv_y.bias")))
    codes = torch.randint(CODES, (2, 3, 4), generator=torch.Generator().manual_seed(9))
    vectors = model.codec.quantize.embedding.weight[codes].movedim(-1, 1)
    with torch.no_grad():
        x = theirs.middle_block(theirs.conv_in(model.codec.post_quant_conv(vectors)), vectors)
        x = theirs.up_block(x, vectors)
        x = theirs.conv_out(torch.nn.functional.silu(theirs.norm_out(x, vectors)))
    assert relative(model.codec.reconstruct(vectors.movedim(1, -1)), (x + 1) / 2, "codec") < 1e-5
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(10))
    products = model.codec.latents(pixels) @ model.codec.quantize.embedding.weight.T
    assert torch.equal(model.codec.encode(pixels), products.argmax(-1))
    distances = torch.cdist(model.codec.latents(pixels).flatten(0, 2), model.codec.quantize.embedding.weight)
    assert not torch.equal(distances.argmin(-1), products.flatten(0, 2).argmax(-1))


def test_the_directory_is_not_taken_for_emu3_s_and_a_missing_codec_is_named(directory, tmp_path):
    assert mcsjd_core.detect(directory) == "emu3_5"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "Emu3", "vocab_size": 282926}))
    assert mcsjd_core.detect(tmp_path) == "emu3_5"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "Emu3", "vocab_size": 184622}))
    assert mcsjd_core.detect(tmp_path) == "emu3"
    path = shutil.copytree(directory, tmp_path / "Emu3.5-Image")
    shutil.move(path / "Emu3.5-VisionTokenizer", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"model.safetensors is missing: .*BAAI/Emu3.5-VisionTokenizer"):
        mcsjd_core.load(path)
    shutil.move(tmp_path / "elsewhere", tmp_path / "Emu3.5-VisionTokenizer")
    assert mcsjd_core.load(path).sizes[0] == SIZE and mcsjd_core.checkpoint_paths(path)[1:] == [
        tmp_path / "Emu3.5-VisionTokenizer"
    ]


def test_ids_of_the_published_vocabulary():
    names = (
        *SPECIAL,
        "<|image token|>",
        "<|image start|>",
        "<|image end|>",
        *(code_name(code) for code in range(131072)),
    )
    ids = {name: 151643 + position for position, name in enumerate(names)}
    assert Vocabulary.of_ids(ids, 131072) == Vocabulary(151849, 151746, 151852, 151851, 151846, 151853, 151854)
    assert len(names) + 151643 == 282926


def test_full_size_names_and_shapes_are_the_published_ones():
    config = body_config(Fields(emu3_5.BODY, "config.json"))
    assert (config.rope_theta, config.norm_eps, config.qk_norm_eps, config.head_dim) == (1e6, 1e-6, 1e-6, 128)
    body = Transformer(config, dtype=torch.bfloat16, device="meta")
    state = TransformerTokenModel(body, 282926, 131072, 151854, dtype=torch.bfloat16, device="meta").state_dict()
    with torch.device("meta"):
        qwen = transformers.Qwen3Config(**emu3_5.BODY | {"vocab_size": 282926}, tie_word_embeddings=False)
        theirs = transformers.Qwen3ForCausalLM(qwen).state_dict()
    shapes = {
        name: list(t.shape[1:] if "_norm." in name and "self_attn" in name else t.shape) for name, t in state.items()
    }
    head = {"lm_head.weight": [131072, 5120]}  # of 282926 rows
    assert shapes == {name: list(tensor.shape) for name, tensor in theirs.items()} | head
    assert len(shapes) == 11 * 64 + 3 == 707 and sum(tensor.numel() for tensor in theirs.values()) == 34_103_460_864


def test_the_published_codec_has_the_published_number_of_tensors():
    state = VQGAN(PUBLISHED_CODEC, device="meta").state_dict()
    assert len(state) == 543 and sum(tensor.numel() for tensor in state.values()) == 455_336_963
    decoding = ("decoder.", "quantize.", "post_quant_conv.")
    assert sum(t.numel() for name, t in state.items() if name.startswith(decoding)) == 270_737_411
    assert list(state["decoder.up.3.block.0.nin_shortcut.weight"].shape) == [512, 1024, 1, 1]
