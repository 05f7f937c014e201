"""GLM-Image's autoregressive stage: a repository as published against transformers, its two rasters, prompts, and real size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.decoding.feed import decode_feed
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.families.glm_image import GlmImage, body_config, planes_of, preview_of, prior_token_ids
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.kv_cache import Planes
from mcsjd_core.nn.transformer import Transformer
from oracle import cached_logits, relative
from tiny_checkpoint import randomise, split_into_shards

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

CODES, BEGIN, END, VISION = 60, 60, 61, 64  # ids of text follow the vision vocabulary
TEXT = [*(f"<|dit_token_{n}|>" for n in range(VISION)), *sorted(pre_tokenizers.ByteLevel.alphabet())]
SPECIALS = ["<sop>", "<eop>", "<|user|>"]
VOCABULARY = len(TEXT) + len(SPECIALS)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
# The epsilon is no default of anything, so that a forgotten one shows.
TEXT_CONFIG = {
    "vocab_size": VOCABULARY, "vision_vocab_size": VISION, "hidden_size": 64, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": ROPE,
    "pad_token_id": 0, "eos_token_id": END, "rms_norm_eps": 3e-3,
}  # fmt: skip
FORCED_END = CODES + END
# Real previews have some 256 codes whatever the size; these are smaller.
GRIDS = {
    "128x96": Grid(3, 4, end=(FORCED_END,), preview=(2, 3)),
    "64x160": Grid(5, 2, end=(FORCED_END,), preview=(4, 1)),
}
SIZES = tuple(GRIDS)
TEXTS = ["red", "a much longer one"]


def write_glm_image(directory):
    """A random repository as diffusers lays it out, its model written by transformers."""
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "patch_size": 4, "image_size": 16}
    config = transformers.GlmImageConfig(
        text_config=TEXT_CONFIG, vision_config=vision, vq_config={"embed_dim": 8, "num_embeddings": CODES, "latent_channels": 16},
        image_start_token_id=BEGIN, image_end_token_id=END, image_token_id=VOCABULARY - 1,
    )  # fmt: skip
    model = randomise(transformers.GlmImageForConditionalGeneration(config), 9)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight.mul_(3)  # what a token looks at shows
        model.lm_head.weight.mul_(3)
    folder = directory / "vision_language_encoder"
    model.save_pretrained(folder)
    split_into_shards(folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.75, "do_sample": True}))
    (directory / "model_index.json").write_text(json.dumps({"_class_name": "GlmImagePipeline"}))
    (directory / "processor").mkdir()
    tokenizer = Tokenizer(models.BPE(vocab={name: id for id, name in enumerate(TEXT)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    dit = [f"<|dit_token_{n}|>" for n in range(VISION)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*dit, *SPECIALS)])
    tokenizer.save(str(directory / "processor" / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_glm_image(tmp_path_factory.mktemp("glm") / "GLM-Image")


@pytest.fixture(scope="module")
def model(directory) -> GlmImage:
    model = mcsjd_core.load(directory)
    model.sizes, model.picture_grid = SIZES, GRIDS.__getitem__
    return model


@pytest.fixture(scope="module")
def reference(directory):
    folder, tensors = directory / "vision_language_encoder", {}
    for file in folder.glob("model-*.safetensors"):
        tensors |= load_file(file)
    model = transformers.GlmImageForConditionalGeneration(transformers.GlmImageConfig.from_pretrained(folder)).eval()
    model.load_state_dict(tensors)
    return model


def prompt_ids(model: GlmImage, text: str, grid: Grid) -> list[int]:
    """The published form as one string, read with its special tokens in it."""
    (h, w), (height, width) = grid.preview, (grid.rows, grid.columns)
    whole = f"{text}<sop>{height} {width}<eop><sop>{h} {w}<eop><|dit_token_{BEGIN}|>"
    return model.tokenizer.encode(whole, add_special_tokens=False).ids


def grids_of(grid: Grid) -> torch.Tensor:
    return torch.tensor([[1, grid.rows, grid.columns], [1, *grid.preview]])


def their_positions(reference, ids: list[int], grid: Grid) -> torch.Tensor:
    """[3, 1, prompt and picture]."""
    whole = torch.tensor([ids])
    prompt, _ = reference.model.get_rope_index(
        whole, image_grid_thw=grids_of(grid), images_per_sample=torch.tensor([2]), attention_mask=torch.ones_like(whole)
    )
    return torch.cat((prompt, reference.model._cached_decode_position_ids[0][:, None]), -1)


# -- positions and grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns", "preview"), [(2, 4, (2, 3)), (3, 4, (2, 3)), (5, 2, (4, 1))])
def test_planes_are_the_positions_of_transformers(reference, rows, columns, preview):
    grid, ids = Grid(rows, columns, end=(FORCED_END,), preview=preview), [70, 71, 72, 73, BEGIN]
    theirs = their_positions(reference, ids, grid)[:, 0].T
    slots = torch.arange(len(theirs))[None]
    ours = Planes(planes_of(grid), len(ids)).of(slots)[0]
    assert torch.equal(ours + len(ids), theirs)


@pytest.mark.parametrize(
    ("size", "large", "preview", "drawn"),
    [
        ("512x512", (16, 16), (16, 16), 513), ("1024x1024", (32, 32), (16, 16), 1281), ("768x1152", (36, 24), (19, 13), 1112),
        ("1152x1024", (32, 36), (15, 16), 1393), ("1344x768", (24, 42), (12, 21), 1261), ("1920x1088", (34, 60), (12, 21), 2293),
        ("2048x2048", (64, 64), (16, 16), 4353),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(model, size, large, preview, drawn):
    grid = GlmImage.picture_grid(model, size)
    assert ((grid.rows, grid.columns), grid.preview, grid.num_tokens) == (large, preview, drawn)
    forced = grid.forced()
    assert forced[-1] == FORCED_END and (forced[:-1] == FREE).all()
    assert size in mcsjd_core.families.glm_image.SIZES


def test_codes_of_a_picture_are_those_of_the_large_raster(model):
    grid = Grid(2, 3, end=(99,), preview=(1, 2))
    tokens = torch.arange(9).expand(2, -1)
    assert grid.codes(tokens).tolist() == [[[2, 3, 4], [5, 6, 7]]] * 2
    assert prior_token_ids(torch.tensor([[[1, 2], [3, 4]]])).tolist() == [
        [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
    ]
    for refused in (lambda: grid.tokens(torch.zeros(1, 1, 3, dtype=torch.long)), lambda: grid.upper(1)):
        with pytest.raises(InputError, match="draws a small preview before the picture"):
            refused()


# -- logits and tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [4, 7])
def test_logits_of_ragged_prompts_equal_those_of_transformers(model, reference, window):
    """Both rasters and the border between them, through the cache in windows."""
    grid = model.grid(SIZES[0])
    tokens = torch.randint(CODES, (2, grid.num_tokens), generator=torch.Generator().manual_seed(3))
    tokens[:, -1] = FORCED_END
    prompt = model.prompt(TEXTS, None, False, SIZES[0])
    ours = cached_logits(model.token_model, prompt, tokens, window)
    for row, text in enumerate(TEXTS):
        ids = prompt_ids(model, text, grid)
        positions = their_positions(reference, ids, grid)[..., :-1]
        with torch.no_grad():
            whole = torch.tensor([ids + tokens[row, :-1].tolist()])
            theirs = reference(input_ids=whole, position_ids=positions, attention_mask=torch.ones_like(whole)).logits
            embeddings = model.token_model.embed_ids(whole)
            hidden = model.token_model.model(embeddings, positions.movedim(0, -1))
            uncached = model.token_model.logits(hidden[:, len(ids) - 1 :], None)[0]
        theirs = theirs[0, len(ids) - 1 :, :CODES]
        assert relative(ours[row], theirs, "logits, cached") < 1e-5
        assert relative(uncached, theirs, "logits, uncached") < 1e-5


def test_greedy_decoding_equals_transformers_generate(model, reference):
    size = SIZES[1]
    grid = model.grid(size)
    ids = torch.tensor([prompt_ids(model, TEXTS[1], grid)])
    count = grid.num_tokens - 1
    theirs = reference.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=grids_of(grid), images_per_sample=torch.tensor([2]),
        do_sample=False, suppress_tokens=list(range(CODES, VISION)), max_new_tokens=count, min_new_tokens=count,
    )[:, ids.shape[1] :]  # fmt: skip
    for coupling, initialiser in (("maximal", "random"), ("gumbel_exact", "above")):
        settings = DecodeSettings(coupling, 5, LawSettings(temperature=0), initialiser)
        ours = mcsjd_core.sample(model, TEXTS[1:], settings, size=size).tokens
        assert torch.equal(ours[:, :-1], theirs) and theirs.unique().numel() > 5
        assert ours[0, -1] == FORCED_END


def test_seed_exact_is_exact_for_ragged_rows_and_trajectories(model):
    settings = [
        DecodeSettings("autoregressive", 1, model.defaults.law), DecodeSettings("gumbel_exact", 7, model.defaults.law),
        DecodeSettings("gumbel_exact", 4, model.defaults.law, trajectories=3),
    ]  # fmt: skip
    plain, *others = (mcsjd_core.sample(model, TEXTS, each, size=SIZES[1]).tokens for each in settings)
    assert all(torch.equal(plain, other) for other in others)
    assert model.defaults.law == LawSettings(temperature=0.9, top_k=50, top_p=0.75)


@pytest.mark.parametrize("rows", [1, 2])
def test_pictures_of_a_fed_batch_keep_their_places(model, rows):
    """Each is the picture of its own run, whose prompt was made for it alone."""
    texts, settings = [*TEXTS, "blue"], DecodeSettings("gumbel_exact", 5, model.defaults.law, seed=3)
    prompt = model.prompt(texts, None, False, SIZES[0])
    fed = decode_feed(model.token_model, prompt, model.grid(SIZES[0]), settings, rows).tokens
    for number, text in enumerate(texts):
        alone = mcsjd_core.sample(model, [text], replace(settings, seed=3 + number), size=SIZES[0]).tokens[0]
        assert torch.equal(fed[number], alone)


# -- what there is not, prompts and files -----------------------------------------------------------------------------------


def test_pixels_and_guidance_are_refused_in_one_sentence(model):
    tokens = torch.zeros(1, model.grid(SIZES[0]).num_tokens, dtype=torch.long)
    for refused in (
        lambda: mcsjd_core.pictures(model, tokens, SIZES[0]),
        lambda: mcsjd_core.encode(model, torch.zeros(1, 3, 8, 8), SIZES[0]),
        lambda: model.codec.decode(tokens),
        lambda: model.codec.encode(tokens),
    ):
        with pytest.raises(InputError, match="become a picture in its diffusion transformer alone"):
            refused()
    with pytest.raises(InputError, match="without guidance; set cfg to 1"):
        mcsjd_core.sample(model, TEXTS, DecodeSettings(law=LawSettings(cfg_scale=2.0)), size=SIZES[0])


def test_the_command_writes_what_diffusers_takes(model, directory, tmp_path, monkeypatch, capsys):
    from mcsjd_core.cli import generate, main

    monkeypatch.setattr(generate, "open_model", lambda *_: model)
    command = ["generate", "red", "owl", "--model", str(directory), "--size", SIZES[0], "--quiet"]
    assert main(command) == 2 and "Name a file for them with --save-tokens" in capsys.readouterr().err
    command += ["--save-tokens", str(tmp_path / "tokens.safetensors")]
    assert main([*command, "--out", str(tmp_path / "red.png")]) == 2 and "leave out --out" in capsys.readouterr().err
    assert main(command) in (0, None)
    written, grid = load_file(tmp_path / "tokens.safetensors"), GRIDS[SIZES[0]]
    assert torch.equal(written["prior_token_ids"], prior_token_ids(grid.codes(written["tokens"])))
    assert written["prior_token_ids"].shape == (2, 4 * grid.rows * grid.columns)


def test_controls_in_a_text_are_cut_out(model):
    grid = model.grid(SIZES[0])
    assert model._row("red<sop> owl<|dit_token_61|><|user|>", grid) == prompt_ids(model, "red owl", grid)
    assert model._row("red", grid) == prompt_ids(model, "red", grid)


def test_the_model_s_own_folder_loads_as_well(directory, model, tmp_path):
    assert mcsjd_core.detect(directory) == mcsjd_core.detect(directory / "vision_language_encoder") == "glm_image"
    alone = mcsjd_core.load(directory / "vision_language_encoder")
    ours, theirs = (each.token_model.state_dict() for each in (alone, model))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    parts = [
        directory / "vision_language_encoder",
        directory / "processor",
    ]  # not those of the diffusion decoder beside them
    assert mcsjd_core.checkpoint_paths(directory) == mcsjd_core.checkpoint_paths(parts[0]) == parts
    path = shutil.copytree(directory, tmp_path / "copy")
    (path / "processor" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"processor.tokenizer.json is missing"):
        mcsjd_core.load(path)


def test_a_dropped_bias_and_other_sections_are_refused(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "copy") / "vision_language_encoder"
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["rope_parameters"]["mrope_section"] = [1, 1, 1]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"has to share out 4 pairs to 3 axes, got \[1, 1, 1\]"):
        mcsjd_core.load(path)
    shutil.copy(directory / "vision_language_encoder" / "config.json", path / "config.json")
    for file in path.glob("model-*.safetensors"):
        kept = {
            name: tensor
            for name, tensor in load_file(file).items()
            if name != "model.language_model.layers.0.self_attn.q_proj.bias"
        }
        save_file(kept, file)
    with pytest.raises(InputError, match=r"1 missing: model.layers.0.self_attn.q_proj.bias"):
        mcsjd_core.load(path)


def test_full_size_names_and_shapes_are_the_published_ones():
    text = {
        "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    shape, sections = body_config(Fields(text, "config.json"))
    assert sections == (8, 12, 12) and shape.head_dim == 128
    body = Transformer(shape, dtype=torch.bfloat16, device="meta")
    state = TransformerTokenModel(body, 168064, 16384, dtype=torch.bfloat16, device="meta").state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    assert len(shapes) - 40 == 523  # gate and up are one tensor in the file
    assert shapes["model.layers.39.self_attn.k_proj.bias"] == [256] and shapes["model.layers.0.mlp.up_proj.weight"] == [
        13696,
        4096,
    ]
    layer = {name.split(".", 3)[3] for name in shapes if name.startswith("model.layers.7.")}
    assert {f"{name}_layernorm.weight" for name in ("input", "post_attention", "post_self_attn", "post_mlp")} < layer
    assert sum(tensor.numel() for tensor in state.values()) + (16512 - 16384) * 4096 == 8_914_788_352
    assert preview_of(32, 32) == (16, 16)
