"""Janus: both layouts, and logits, tokens and pictures against transformers' own implementation."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode
from mcsjd_core.codecs.vq16 import VQ16
from mcsjd_core.families.janus import JanusTransformer
from mcsjd_core.laws.noise import Noise, row_seeds
from mcsjd_core.nn.transformer import TransformerConfig
from oracle import cached_logits, relative, uncached_logits
from tiny_janus import (
    BEGIN,
    BOS,
    CODES,
    PAD,
    build_tokenizer,
    prompt_ids,
    rows_of,
    write_native,
    write_original,
)

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

TEXTS = ["red apple", "a much longer one, with commas"]


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return write_native(tmp_path_factory.mktemp("janus") / "Janus-Pro-1B")


@pytest.fixture(scope="module")
def original(native, tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("janus") / "original", native)


@pytest.fixture(scope="module")
def model(native):
    return mcsjd_core.load(native)


@pytest.fixture(scope="module")
def reference(native):
    return transformers.JanusForConditionalGeneration.from_pretrained(native, dtype=torch.float32).eval()


def some_codes(batch: int, count: int) -> torch.Tensor:
    return torch.randint(CODES, (batch, count), generator=torch.Generator().manual_seed(1))


def their_logits(reference, ids: list[int], codes: torch.Tensor) -> torch.Tensor:
    """Logits [N, codebook] after the prompt and all but the last of codes [N], in one forward of transformers."""
    with torch.no_grad():
        text = reference.get_input_embeddings()(torch.tensor([ids]))
        image = reference.prepare_embeddings_for_image_generation(codes[None, :-1])
        hidden = reference.model.language_model(inputs_embeds=torch.cat((text, image), 1)).last_hidden_state
        return reference.model.generation_head(hidden)[0, len(ids) - 1 :]


# -- logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 7, 100])
def test_logits_of_ragged_guided_prompts_equal_those_of_transformers(model, reference, window):
    codes = some_codes(2, 40)
    ours = cached_logits(model.token_model, model.prompt(TEXTS, None, True), codes, window)
    theirs = [their_logits(reference, ids, codes[row // 2]) for row, ids in enumerate(rows_of(model, TEXTS))]
    assert relative(ours, torch.stack(theirs)) < 1e-5


def test_uncached_logits_equal_those_of_transformers(model, reference):
    codes = some_codes(2, 30)
    ours = uncached_logits(model.token_model, model.prompt(TEXTS, None, True), codes)
    theirs = [their_logits(reference, ids, codes[row // 2]) for row, ids in enumerate(rows_of(model, TEXTS))]
    assert relative(ours, torch.stack(theirs)) < 1e-5


def test_grouped_keys_and_other_ids_load_as_transformers_reads_them(tmp_path):
    path = write_native(tmp_path / "other", seed=3, kv_heads=2, order=3)
    reference = transformers.JanusForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    model, codes = mcsjd_core.load(path), some_codes(1, 20)
    assert model.tokenizer.token_to_id(PAD) != build_tokenizer().token_to_id(PAD)
    ours = cached_logits(model.token_model, model.prompt(TEXTS[:1], None, True), codes, 4)
    theirs = [their_logits(reference, ids, codes[0]) for ids in rows_of(model, TEXTS[:1])]
    assert relative(ours, torch.stack(theirs)) < 1e-5


# -- tokens --------------------------------------------------------------------------------------------------------------


def sample_with_transformers(reference, rows, settings: DecodeSettings, count: int) -> torch.Tensor:
    """Tokens [1, count] drawn one by one: transformers' forward and cache, the Gumbel-max trick with our noise."""
    cond, uncond = torch.tensor([rows[0]]), torch.tensor([rows[1]])
    with torch.no_grad():
        embeddings = reference.get_input_embeddings()(torch.cat((cond, uncond)))
        cache, tokens = transformers.DynamicCache(), []
        for position in range(count):
            output = reference.model.language_model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            logits = reference.model.generation_head(output.last_hidden_state[:, -1]).double()
            guided = logits[1] + settings.law.cfg_scale * (logits[0] - logits[1])
            kept = guided.topk(settings.law.top_k or CODES).values[-1]
            log_probs = guided.masked_fill(guided < kept, float("-inf")).div(settings.law.temperature).log_softmax(-1)
            noise = Noise(row_seeds(settings.seed, 1, "cpu"), torch.tensor([[position]]), 0)
            gumbel = -noise.exponentials(torch.arange(CODES))[0, 0].double().log()
            tokens.append((log_probs + gumbel).argmax())
            embeddings = reference.prepare_embeddings_for_image_generation(tokens[-1].expand(2, 1))
    return torch.stack(tokens)[None]


@pytest.mark.parametrize("window", [1, 5, 64])
@pytest.mark.parametrize(
    "law", [LawSettings(5.0), LawSettings(2.0, temperature=0.8, top_k=20)], ids=["official", "cut"]
)
def test_exact_coupling_equals_sampling_through_transformers(model, reference, law, window):
    settings = DecodeSettings("gumbel_exact", window, law, seed=11)
    theirs = sample_with_transformers(reference, rows_of(model, TEXTS[:1]), settings, 60)
    ours = decode(model.token_model, model.prompt(TEXTS[:1], None, True), Grid(6, 10), settings).tokens
    assert torch.equal(ours, theirs) and theirs.unique().numel() > 5


def test_greedy_decoding_equals_transformers_generate(model, reference):
    """The whole picture of 576 tokens with guidance, through `generate(generation_mode="image")`."""
    ids = torch.tensor([prompt_ids(model.tokenizer, TEXTS[1])])
    config = reference.generation_config
    config.bos_token_id, config.pad_token_id = (model.tokenizer.token_to_id(name) for name in (BOS, PAD))
    config.guidance_scale, config.generation_kwargs = 5.0, {"boi_token_id": model.tokenizer.token_to_id(BEGIN)}
    theirs = reference.generate(
        ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=False, generation_config=config
    )
    law = LawSettings(cfg_scale=5.0, temperature=0)
    ours = mcsjd_core.sample(model, [TEXTS[1]], DecodeSettings("maximal", 64, law)).tokens
    assert theirs.shape == ours.shape == (1, 576)
    assert torch.equal(ours, theirs) and theirs.unique().numel() > 5


# -- pictures ------------------------------------------------------------------------------------------------------------


def test_pictures_equal_those_of_transformers(model, reference):
    codes = some_codes(1, 576)
    with torch.no_grad():
        theirs = (reference.model.vqmodel.decode(codes) / 2 + 0.5).clamp(0, 1)
    assert relative(mcsjd_core.pictures(model, codes), theirs) < 1e-4
    assert theirs.std() > 0.05


# -- layouts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_original_layout_holds_the_same_model(native, model, tmp_path, binary):
    path = write_original(tmp_path / "original", native, binary=binary)
    again = mcsjd_core.load(path)
    assert mcsjd_core.detect(path) == mcsjd_core.detect(native) == "janus"
    for part in ("token_model", "codec"):
        ours, theirs = (getattr(m, part).state_dict() for m in (again, model))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.codec.config == model.codec.config and again.token_model.model.config == model.token_model.model.config


def test_bin_shards_are_read(original, model, tmp_path):
    path = shutil.copytree(original, tmp_path / "shards")
    tensors, weight_map = load_file(path / "model.safetensors"), {}
    for i in (1, 2):
        part = {name: tensor for n, (name, tensor) in enumerate(sorted(tensors.items())) if n % 2 == i - 1}
        torch.save(part, path / f"pytorch_model-0000{i}-of-00002.bin")
        weight_map |= dict.fromkeys(part, f"pytorch_model-0000{i}-of-00002.bin")
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    codes = some_codes(1, 10)
    prompts = [m.prompt(TEXTS[:1], None, False) for m in (mcsjd_core.load(path), model)]
    assert torch.equal(prompts[0].embeddings, prompts[1].embeddings) and codes.shape == (1, 10)
    weight_map[next(iter(weight_map))] = "../outside.bin"
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=r"'../outside.bin', which is no bin file beside it"):
        mcsjd_core.load(path)


def test_flow_models_of_the_same_type_are_not_taken_for_janus(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "multi_modality", "vision_gen_enc_config": {}}))
    assert mcsjd_core.detect(tmp_path) is None


def test_misfits_are_named_as_the_file_or_the_model_names_them(original, tmp_path):
    path = shutil.copytree(original, tmp_path / "damaged")
    tensors = load_file(path / "model.safetensors")
    del tensors["gen_head.vision_head.bias"], tensors["gen_embed.weight"]
    tensors["gen_aligner.layers.2.bias"] = torch.zeros(7)
    save_file(tensors | {"something.new": torch.zeros(1)}, path / "model.safetensors")
    with pytest.raises(InputError) as refused:
        mcsjd_core.load(path)
    for words in (
        "2 missing: gen_embed.weight, gen_head.vision_head.bias",
        "1 unexpected: something.new",
        "1 of wrong shape: gen_aligner.layers.2.bias [7] instead of [32]",
    ):
        assert words in str(refused.value)


def shapes(module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("dim", "inner", "layers", "heads", "total"),
    [(2048, 5632, 24, 16, 2_076_636_811), (4096, 11008, 30, 32, 7_407_773_323)],
    ids=["1B", "7B"],
)
def test_full_size_names_and_shapes_are_the_published_ones(dim, inner, layers, heads, total):
    config = TransformerConfig(dim, layers, heads, heads, dim // heads, inner, norm_eps=1e-6)
    model = JanusTransformer(config, 102400, VQ16, device="meta", dtype=torch.bfloat16)
    published = {
        "model.embed_tokens.weight": [102400, dim],
        "model.norm.weight": [dim],
        "gen_embed.weight": [16384, 8],
        "gen_aligner.layers.0.weight": [dim, 8],
        "gen_aligner.layers.0.bias": [dim],
        "gen_aligner.layers.2.weight": [dim, dim],
        "gen_aligner.layers.2.bias": [dim],
        "gen_head.output_mlp_projector.weight": [dim, dim],
        "gen_head.output_mlp_projector.bias": [dim],
        "gen_head.vision_head.weight": [16384, dim],
        "gen_head.vision_head.bias": [16384],
    }
    for n in range(layers):
        layer = f"model.layers.{n}."
        published |= {f"{layer}self_attn.{x}_proj.weight": [dim, dim] for x in "qkvo"}
        published |= {f"{layer}mlp.{x}_proj.weight": [inner, dim] for x in ("gate", "up")}
        published[f"{layer}mlp.down_proj.weight"] = [dim, inner]
        published |= {f"{layer}{x}_layernorm.weight": [dim] for x in ("input", "post_attention")}
    assert shapes(model) == published
    # What is left of the published total: the text head, which is tied there, the codec, vision tower and its aligner.
    codec, vision, aligner = 71_883_403, 303_688_704, dim * 1024 + dim + dim * dim + dim
    ours = sum(tensor.numel() for tensor in model.state_dict().values())
    assert total - ours - codec - vision - aligner in (0, 102400 * dim)


@pytest.mark.parametrize("size", ["1B", "7B"])
def test_full_size_names_are_those_of_transformers(size):
    """transformers' model on the meta device: each of its tensors has its place in ours, or is one we leave out."""
    from mcsjd_core.families import janus

    dim, inner, layers, heads = {"1B": (2048, 5632, 24, 16), "7B": (4096, 11008, 30, 32)}[size]
    text = transformers.LlamaConfig(
        vocab_size=102400, hidden_size=dim, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads
    )
    sizes = {"projection_dim": dim, "image_token_embed_dim": dim}
    config = transformers.JanusConfig(
        text_config=text.to_dict(), vision_config={"projection_dim": dim}, vq_config=sizes
    )
    with torch.device("meta"):
        state = transformers.JanusForConditionalGeneration(config).state_dict()
    token_model = JanusTransformer(
        TransformerConfig(dim, layers, heads, heads, dim // heads, inner), 102400, VQ16, device="meta"
    )
    codec = mcsjd_core.codecs.vqgan.VQGAN(VQ16, device="meta")
    for ours, name_of in (
        (token_model, lambda name: janus._token_name(name, janus.NATIVE)),
        (codec, lambda name: janus._codec_name(name, VQ16)),
    ):
        theirs = {name_of(name): list(tensor.shape) for name, tensor in state.items() if name_of(name) is not None}
        assert theirs == shapes(ours)


# -- defaults ------------------------------------------------------------------------------------------------------------


def test_published_defaults_and_size(model):
    d = model.defaults.law
    assert (d.cfg_scale, d.temperature, d.top_k, d.top_p) == (5.0, 1.0, 0, 1.0)
    assert model.sizes == ("384x384",) and model.grid("384x384") == Grid(24, 24)
    with pytest.raises(InputError, match="its sizes are 384x384"):
        model.prompt(["red"], None, False, "512x512")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws(native, dtype):
    half = mcsjd_core.load(native, dtype=dtype)
    assert {p.dtype for p in half.token_model.parameters()} == {dtype}
    assert {p.dtype for p in half.codec.parameters()} == {torch.float32}
    prompt = half.prompt(TEXTS, None, True)
    assert prompt.embeddings.dtype == dtype
    settings = DecodeSettings(window=8, law=LawSettings(5.0))
    tokens = decode(half.token_model, prompt, Grid(2, 8), settings).tokens
    assert ((tokens >= 0) & (tokens < CODES)).all()
