"""The Chameleon family: our directories are transformers' format, defaults, dtypes and injected layers."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import mcsjd_core
from live_bytes import LiveBytes
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.families.chameleon import (
    Chameleon,
    ChameleonTransformer,
    Vocabulary,
    transformer_config,
)
from mcsjd_core.families.interface import SamplingDefaults
from oracle import cached_logits, relative, uncached_logits
from tiny_checkpoint import (
    CODEC,
    TRANSFORMER,
    build_tokenizer,
    split_into_shards,
    write_tiny_checkpoint,
)

BOS, BEGIN, TURN = 0, 29, 30  # with 24 codes


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(directory) -> Chameleon:
    return mcsjd_core.load(directory)


def logits_by_window(model: Chameleon, codes: torch.Tensor, window: int = 3) -> torch.Tensor:
    """Logits [B, N, codebook] after the prompt and every code but the last, through the cache as decoding does it."""
    token_model, prompt = model.token_model, model.prompt(["red", "a much longer one"][: len(codes)], None, False)
    x = torch.cat((prompt.embeddings, token_model.embed(codes[:, :-1], None)), 1)
    slots = torch.arange(x.shape[1]).expand(len(codes), -1)
    cache, first, result = token_model.new_cache(prompt, x.shape[1]), prompt.embeddings.shape[1] - 1, []
    with torch.no_grad():
        token_model.hidden(x[:, :first], slots[:, :first], cache, first)
        for start in range(first, x.shape[1], window):
            part = slice(start, min(start + window, x.shape[1]))
            hidden = token_model.hidden(x[:, part], slots[:, part], cache, part.stop)
            result.append(token_model.logits(hidden, None))
    return torch.cat(result, 1)


def some_codes(rows: int = 2, count: int = 10) -> torch.Tensor:
    return torch.randint(CODEC.codebook_size, (rows, count), generator=torch.Generator().manual_seed(1))


# -- the public format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swin", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("sharded", [False, True])
def test_logits_equal_those_of_transformers_on_the_same_directory(tmp_path, sharded, kv_heads, swin):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    write_tiny_checkpoint(tmp_path, transformer=replace(TRANSFORMER, kv_heads=kv_heads, norm_after=swin))
    head = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    if sharded:
        split_into_shards(tmp_path)
    reference = transformers.ChameleonModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model, codes, texts = mcsjd_core.load(tmp_path), some_codes(), ["red", "a much longer one"]
    first, theirs = model.token_model.vocabulary.first_code, []
    conditional = [[BOS, *model.text_ids(text), TURN, BEGIN] for text in texts]
    for row, start in enumerate(ids for ids in conditional for ids in (ids, [BOS, BEGIN])):
        ids = torch.tensor([start + (codes[row // 2, :-1] + first).tolist()])
        with torch.no_grad():
            hidden = reference(input_ids=ids).last_hidden_state[0, len(start) - 1 :]
        theirs.append(hidden @ head[first : first + CODEC.codebook_size].T)
    prompt, theirs = model.prompt(texts, None, True), torch.stack(theirs)
    assert relative(uncached_logits(model.token_model, prompt, codes), theirs) < 1e-5
    for window in (1, 3, 100):
        assert relative(cached_logits(model.token_model, prompt, codes, window), theirs) < 1e-5


def test_config_that_transformers_writes_is_read_the_same(directory, model, tmp_path):
    """Version 5 writes rope_parameters in place of rope_theta."""
    transformers = pytest.importorskip("transformers", reason="transformers writes the config")
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / "config.json", rope_theta=250.0)
    transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert "rope_theta" not in json.loads((tmp_path / "config.json").read_text())
    again = mcsjd_core.load(tmp_path)
    rows = TRANSFORMER.heads  # the file has a row of norm weights for every head
    assert again.token_model.model.config == replace(TRANSFORMER, rope_theta=250.0, qk_norm_groups=rows)
    assert again.codec.config == model.codec.config


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_norm_rows_may_be_shared_by_heads(directory, model, tmp_path, rows):
    """Lumina-mGPT stores a row for every model-parallel shard, transformers one for every head."""
    from safetensors.torch import save_file

    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(directory / "model.safetensors")
    norms = [name for name in tensors if "_norm." in name]
    assert norms and all(tensors[name].shape[0] == 4 for name in norms)
    tensors |= {name: tensors[name][:: 4 // rows].clone() for name in norms}
    save_file(tensors, tmp_path / "model.safetensors")
    shared = mcsjd_core.load(tmp_path)
    assert shared.token_model.model.config.qk_norm_groups == rows
    assert torch.equal(logits_by_window(shared, some_codes()), logits_by_window(model, some_codes()))


def test_codec_weights_inside_the_transformer_file_are_passed_over(directory, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"model.vqmodel.encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    mcsjd_core.load(tmp_path)


LUMINA_7B = {
    "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "swin_norm": False,
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 32])
def test_lumina_mgpt_7b_has_the_published_names_and_shapes(rows):
    config = transformer_config(Fields(LUMINA_7B, "config.json"), rows)
    model = ChameleonTransformer(config, 65536, Vocabulary(0, 8197, 8710, 4), 8192, device="meta", dtype=torch.bfloat16)
    published = {"model.embed_tokens.weight": [65536, 4096], "model.norm.weight": [4096]}
    published["lm_head.weight"] = [8192, 4096]  # of 65536 rows those of the image tokens, which alone are read
    for n in range(32):
        layer = f"model.layers.{n}."
        published |= {f"{layer}self_attn.{x}_proj.weight": [4096, 4096] for x in "qkvo"}
        published |= {f"{layer}self_attn.{x}_norm.{kind}": [rows, 128] for x in "qk" for kind in ("weight", "bias")}
        published |= {f"{layer}mlp.{x}_proj.weight": [11008, 4096] for x in ("gate", "up")}
        published[f"{layer}mlp.down_proj.weight"] = [4096, 11008]
        published |= {f"{layer}{x}_layernorm.weight": [4096] for x in ("input", "post_attention")}
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == published
    whole_head = (65536 - 8192) * 4096
    assert round((sum(t.numel() for t in state.values()) + whole_head) / 1e9, 3) == 7.013 + (0.001 if rows == 32 else 0)


# -- defaults ------------------------------------------------------------------------------------------------------------


def edit(path, **changes) -> None:
    """Change fields of a JSON file; None removes one."""
    data = json.loads(path.read_text()) if path.exists() else {}
    data = {name: value for name, value in (data | changes).items() if value is not None}
    path.write_text(json.dumps(data))


def test_grid_and_sampling_defaults_come_from_the_generation_config(directory, tmp_path):
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "generation_config.json"
    edit(file, image_grid=[3, 5], guidance_scale=4.5, temperature=0.7, top_k=50, top_p=0.9)
    model = mcsjd_core.load(tmp_path)
    assert model.grid() == Grid(3, 5)
    d = model.defaults.law
    assert (d.cfg_scale, d.temperature, d.top_k, d.top_p) == (4.5, 0.7, 50, 0.9)
    file.write_text('{"temperature": null, "top_k": null}')  # as transformers writes what is not set
    assert mcsjd_core.load(tmp_path).defaults == SamplingDefaults(LawSettings(3.0, 0.7, 0, 0.9))  # Anole's own
    file.unlink()
    assert mcsjd_core.load(tmp_path).grid() == Grid(32, 32)


def test_the_size_follows_from_the_grid_and_no_other_is_drawn(directory, tmp_path, model):
    assert model.sizes == ("12x8",)  # width x height of 4 x 6 codes of 2 px
    assert model.grid("12x8") == model.grid()
    for refused in (
        lambda: model.grid("8x12"),
        lambda: model.prompt(["red"], None, True, "8x12"),
        lambda: mcsjd_core.sample(model, ["red"], DecodeSettings(), size="8x12"),
        lambda: mcsjd_core.pictures(model, torch.zeros(1, 24, dtype=torch.long), "8x12"),
    ):
        with pytest.raises(InputError, match="'8x12'; its sizes are 12x8"):
            refused()


# -- dtypes, injected layers, memory -------------------------------------------------------------------------------------


def test_a_whole_picture_is_drawn(model):
    settings = DecodeSettings(window=5)
    picture = mcsjd_core.pictures(model, mcsjd_core.sample(model, ["red apple", "owl"], settings).tokens)
    assert picture.shape == (2, 3, 4 * 2, 6 * 2) and picture.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_decodes_and_stays_near_float32(directory, model, dtype):
    half = mcsjd_core.load(directory, dtype=dtype)
    assert {p.dtype for p in half.token_model.parameters()} == {dtype}
    assert {p.dtype for p in half.codec.parameters()} == {torch.float32}
    assert half.prompt(["red"], None, False).embeddings.dtype == dtype
    exact, ours = (logits_by_window(m, some_codes()) for m in (model, half))
    assert ours.dtype == dtype
    assert ((ours - exact).square().mean() / exact.square().mean()).sqrt() < 5 * torch.finfo(dtype).eps
    tokens = mcsjd_core.sample(half, ["red apple"], DecodeSettings(window=5)).tokens
    assert mcsjd_core.pictures(half, tokens).dtype == torch.float32


LAYERS = ("Linear", "Embedding", "RMSNorm", "Conv2d", "GroupNorm")


def test_every_layer_comes_from_the_given_operations(directory, model):
    made, used = Counter(), set()

    def recording(kind: str) -> type:
        class Layer(getattr(torch.nn, kind)):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made[kind] += 1

            def forward(self, x):
                used.add(id(self))
                return super().forward(x)

        return Layer

    operations = type("Recording", (), {kind: recording(kind) for kind in LAYERS})
    recorded = mcsjd_core.load(directory, operations=operations)
    parts = [recorded.token_model, recorded.codec]
    layers = [m for part in parts for m in part.modules() if isinstance(m, tuple(getattr(torch.nn, k) for k in LAYERS))]
    assert sum(made.values()) == len(layers) and set(made) == set(LAYERS)
    owned = {id(p) for layer in layers for p in layer.parameters()}
    others = {n for part in parts for n, p in part.named_parameters() if id(p) not in owned}
    assert all("q_norm" in name or "k_norm" in name for name in others)  # these follow their input by themselves
    tokens = mcsjd_core.sample(recorded, ["red apple"], DecodeSettings(window=5)).tokens
    recorded.codec.encode(mcsjd_core.pictures(recorded, tokens))
    assert used == {id(layer) for layer in layers}
    assert torch.equal(logits_by_window(recorded, some_codes()), logits_by_window(model, some_codes()))


def casting_operations(where: set[torch.dtype]) -> type:
    """Layers in the manner of a host that casts: stored in one dtype, computed in that of their input."""

    def casting(kind: str) -> type:
        class Layer(getattr(torch.nn, kind)):
            def forward(self, x):
                where.add(self.weight.dtype)
                target = x.dtype if x.is_floating_point() else self.weight.dtype
                cast = {name: p.to(device=x.device, dtype=target) for name, p in self.named_parameters()}
                return torch.func.functional_call(Plain(self), {f"layer.{n}": p for n, p in cast.items()}, x)

        return Layer

    class Plain(torch.nn.Module):
        """Runs the torch forward of a casting layer."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return super(type(self.layer), self.layer).forward(x)

    return type("Casting", (), {kind: casting(kind) for kind in LAYERS})


def test_weights_may_be_held_in_another_dtype_than_is_computed_in(directory):
    """bfloat16 weights computed in float32 equal a float32 model whose weights were rounded to bfloat16."""
    stored: set[torch.dtype] = set()
    cast = mcsjd_core.load(directory, dtype=torch.bfloat16, operations=casting_operations(stored))
    cast.token_model.compute_dtype = torch.float32
    rounded = mcsjd_core.load(directory)
    for parameter in rounded.token_model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ours, exact = (logits_by_window(m, some_codes()) for m in (cast, rounded))
    assert stored == {torch.bfloat16} and ours.dtype == torch.float32
    assert relative(ours, exact) < 1e-5
    settings = DecodeSettings(window=5, coupling="gumbel_exact")
    tokens = [mcsjd_core.sample(m, ["red apple"], settings).tokens for m in (cast, rounded)]
    assert torch.equal(*tokens)
    assert torch.equal(mcsjd_core.pictures(cast, tokens[0]), mcsjd_core.pictures(rounded, tokens[0]))


def test_prompts_go_to_the_device_that_a_host_computes_on(directory):
    """A host may keep every weight off the device and have its layers fetch them; `meta` stands for that device."""
    model = mcsjd_core.load(directory, operations=casting_operations(set()))
    model.token_model.compute_device = torch.device("meta")
    prompt = model.prompt(["red"], None, True)
    assert prompt.embeddings.device.type == prompt.padding.device.type == "meta"
    cache = model.token_model.new_cache(prompt, 40)
    slots = torch.arange(prompt.embeddings.shape[1], device="meta").expand(2, -1)
    hidden = model.token_model.hidden(prompt.embeddings, slots, cache, 40)
    assert model.token_model.logits(hidden, None).device.type == "meta"


def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    """Tensors are mapped from the file and go straight to their dtype: no float32 copy of the model ever exists."""
    write_tiny_checkpoint(tmp_path, transformer=replace(TRANSFORMER, dim=128, layers=8, head_dim=32, ffn_dim=512))
    with LiveBytes() as memory:
        model = mcsjd_core.load(tmp_path, dtype=torch.bfloat16)
    weights = sum(p.nbytes for part in (model.token_model, model.codec) for p in part.parameters())
    largest = max(p.nbytes for part in (model.token_model, model.codec) for p in part.parameters())
    assert sum(p.nbytes for p in model.token_model.parameters()) / 2 < memory.peak < weights + 2 * largest


def test_only_image_rows_of_the_head_are_held(model):
    assert model.token_model.lm_head.weight.shape == (CODEC.codebook_size, TRANSFORMER.dim)
    assert len(build_tokenizer().get_vocab()) == model.token_model.model.embed_tokens.num_embeddings
