"""Emu3: a directory as published against transformers' Emu3, grids and prompts, problems, and real sizes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from mcsjd_core import DecodeSettings, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.codecs.emu3_vq import Emu3VQ
from mcsjd_core.families import emu3
from mcsjd_core.families.emu3 import RATIOS, Emu3, Vocabulary, codes_along
from mcsjd_core.families.emu_vocabulary import SPECIAL as SPECIAL_NAMES
from mcsjd_core.families.emu_vocabulary import code_name
from mcsjd_core.families.hf_config import transformer_config
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.laws.noise import Noise, row_seeds
from mcsjd_core.nn.transformer import Transformer
from oracle import cached_logits, relative, uncached_logits
from test_rank_tokenizer import WORDS, write_ranks
from tiny_checkpoint import randomise, split_into_shards

CODES = 48
CODEC = {"ch": 32, "ch_mult": [1, 2], "attn_resolutions": [1], "codebook_size": CODES}
TEXT_TOKENS = 256 + len(WORDS)
VISION_NAMES = ["<|image token|>", "<|image start|>", "<|image end|>", *(code_name(code) for code in range(CODES))]
SPECIAL = TEXT_TOKENS + 3 + 205  # the id after all the extra tokens
BOS, EOS, EOL, EOF = (TEXT_TOKENS + 3 + number for number in (203, 204, 200, 201))
IMG, BOI, EOI, FIRST = SPECIAL, SPECIAL + 1, SPECIAL + 2, SPECIAL + 3
CONFIG = {
    "vocab_size": FIRST + CODES, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 100,
}  # fmt: skip


def reference_config():
    import transformers

    return transformers.Emu3TextConfig(**CONFIG, pad_token_id=0, bos_token_id=BOS, eos_token_id=EOS)


def write_emu3(directory):
    """A random checkpoint in the published layout, written by transformers' class, whose names are the published ones."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    directory.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.Emu3ForCausalLM(reference_config())
    state = {name: tensor.clone() * (6 if "proj" in name else 1) for name, tensor in model.state_dict().items()}
    state["lm_head.weight"] *= 12  # laws that are far from even
    save_file(state, directory / "model.safetensors")
    split_into_shards(directory)
    extra = {"model_type": "Emu3", "image_area": 48 * 2 * 2, "rope_theta": 1000000.0}
    (directory / "config.json").write_text(json.dumps(CONFIG | extra))
    write_ranks(directory / "emu3.tiktoken")
    (directory / "emu3_vision_tokens.txt").write_text("\n".join(VISION_NAMES) + "\n")
    codec_directory = directory / "Emu3-VisionTokenizer"
    codec_directory.mkdir()
    (codec_directory / "config.json").write_text(json.dumps(CODEC | {"model_type": "Emu3VisionVQ"}))
    codec = randomise(Emu3VQ(emu3.codec_config(Fields(CODEC, "config.json")))).state_dict()
    norms = [name.removesuffix("running_mean") for name in codec if name.endswith("running_mean")]
    counters = {f"{norm}num_batches_tracked": torch.tensor(9) for norm in norms}
    save_file(codec | counters, codec_directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_emu3(tmp_path_factory.mktemp("emu3") / "Emu3-Gen")


@pytest.fixture(scope="module")
def model(directory) -> Emu3:
    return mcsjd_core.load(directory)


@pytest.fixture(scope="module")
def reference(directory):
    import transformers

    model = transformers.Emu3ForCausalLM(reference_config()).eval()
    state = {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
    model.load_state_dict(state)
    return model


def prompt_ids(model: Emu3, text: str, height: int, width: int) -> list[int]:
    encode = model.encode
    return [BOS, *encode(text), BOI, *encode(f"{height}*{width}"), IMG]


def vocabulary_ids(tokens: torch.Tensor) -> torch.Tensor:
    """Ids of the published vocabulary for our tokens: codes count from FIRST, forced tokens are ids after the codes."""
    return torch.where(tokens < CODES, tokens + FIRST, tokens - CODES)


# -- the transformer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 5])
def test_logits_equal_those_of_transformers(model, reference, window):
    """Guided rows of unequal length, codes and separators."""
    size = model.sizes[1]
    grid = model.grid(size)
    codes = torch.randint(CODES, (2, grid.rows, grid.columns), generator=torch.Generator().manual_seed(3))
    tokens = grid.tokens(codes)
    prompt = model.prompt(["the cat", "a"], ["", "the cat in the cat"], True, size)
    ours = cached_logits(model.token_model, prompt, tokens, window)
    uncached = uncached_logits(model.token_model, prompt, tokens)
    for row, text in enumerate(("the cat", "", "a", "the cat in the cat")):
        head = prompt_ids(model, text, grid.rows, grid.columns)
        ids = torch.tensor([head + vocabulary_ids(tokens[row // 2, :-1]).tolist()])
        with torch.no_grad():
            theirs = reference(input_ids=ids).logits[0, len(head) - 1 :, FIRST:]
        assert relative(ours[row], theirs) < 1e-5
        assert relative(uncached[row], theirs) < 1e-5


@pytest.mark.parametrize("coupling", ["autoregressive", "gumbel_exact"])
def test_tokens_equal_sampling_with_transformers_and_the_same_noise(model, reference, coupling):
    """The authors' rules token by token: guidance on the whole vocabulary, then the grid, then top-k, then a Gumbel race."""
    size, law, seed = model.sizes[0], LawSettings(cfg_scale=3.0, top_k=12), 5
    grid = model.grid(size)
    settings = DecodeSettings(coupling, window=6, law=law, seed=seed)
    ours = mcsjd_core.sample(model, ["the cat"], settings, size=size, negatives=["in"]).tokens[0]
    heads = [prompt_ids(model, text, grid.rows, grid.columns) for text in ("the cat", "in")]
    drawn: list[int] = []
    for position in range(len(ours)):
        with torch.no_grad():
            cond, uncond = (reference(input_ids=torch.tensor([head + drawn])).logits[0, -1] for head in heads)
        guided = uncond.log_softmax(-1) + law.cfg_scale * (cond.log_softmax(-1) - uncond.log_softmax(-1))
        allowed = allowed_ids(position + 1, grid.rows, grid.columns)
        masked = torch.full_like(guided, -torch.inf)
        masked[allowed] = guided[allowed]
        if len(allowed) > law.top_k:
            masked[masked < masked.topk(law.top_k).values[-1]] = -torch.inf
        noise = Noise(row_seeds(seed, 1, "cpu"), torch.tensor([[position]]), 0)
        gumbel = -noise.exponentials(torch.arange(CODES))[0, 0].log()
        scores = masked.clone()
        scores[FIRST:] += gumbel
        drawn.append(int(scores.argmax()))
    assert drawn == vocabulary_ids(ours).tolist()


# -- grids and prompts ---------------------------------------------------------------------------------------------------


def allowed_ids(count: int, height: int, width: int) -> list[int]:
    """What the authors allow as token number `count` after the size, from 1."""
    past_rows = count - height * (width + 1)
    if past_rows > 0:
        return [{1: EOF, 2: EOI, 3: EOS}[past_rows]]
    return [EOL] if count % (width + 1) == 0 else list(range(FIRST, FIRST + CODES))


def test_every_position_allows_what_the_authors_allow(model):
    for size in model.sizes:
        grid = model.grid(size)
        assert grid.num_tokens == grid.rows * (grid.columns + 1) + 3
        for position, forced in enumerate(grid.forced().tolist()):
            allowed = allowed_ids(position + 1, grid.rows, grid.columns)
            assert [forced] == [allowed[0] + CODES] if len(allowed) == 1 else forced == mcsjd_core.decoding.grid.FREE


@pytest.mark.parametrize(
    ("area", "codes"),
    [
        (518400, [(90, 90), (78, 104), (104, 78), (73, 110), (110, 73), (68, 120), (120, 68)]),
        (262144, [(64, 64), (55, 74), (74, 55), (52, 78), (78, 52), (48, 85), (85, 48)]),
    ],
)
def test_sizes_are_the_published_ones(area, codes):
    """Rows and columns, with Python's rounding: half of 67.5 goes to 68."""
    assert [codes_along(ratio, area, 8) for ratio in RATIOS] == codes


def test_sizes_are_named_width_first(model):
    assert model.sizes[0] == "14x14"  # 48 codes of 2 px: a side of 6.9
    assert model.sizes[1:3] == ("16x12", "12x16")
    grid = model.grid("16x12")
    assert (grid.rows, grid.columns) == (6, 8)


def test_prompt_rows_have_the_published_form(model):
    prompt = model.prompt(["the cat <|image start|>"], None, True, "16x12")
    encode = model.encode
    wanted = [[BOS, *encode(text), BOI, *encode("6*8"), IMG] for text in ("the cat <|image start|>", "")]
    assert BOI not in wanted[0][:-5]  # a name in a text is text
    for row, ids in enumerate(wanted):
        padding = int(prompt.padding[row])
        assert prompt.embeddings.shape[1] - padding == len(ids)
        expected = model.token_model.model.embed_tokens.weight[torch.tensor(ids)]
        assert torch.equal(prompt.embeddings[row, padding:], expected)


def test_a_text_that_rows_have_in_common_is_encoded_once(model, monkeypatch):
    asked, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda text: asked.append(text) or encode(text))
    prompt = model.prompt(["the cat", "cat"] * 3, ["", "the"] * 3, True)
    assert {text: asked.count(text) for text in ("the cat", "cat", "the")} == dict.fromkeys(
        ("the cat", "cat", "the"), 1
    )
    single = [model.prompt([text], [negative], True) for text, negative in (("the cat", ""), ("cat", "the"))]
    for row, ids in enumerate(prompt.embeddings):
        theirs = single[row // 2 % 2]
        assert torch.equal(ids[prompt.padding[row] :], theirs.embeddings[row % 2, theirs.padding[row % 2] :])


def test_a_prompt_that_leaves_no_room_for_the_picture_is_refused(model):
    with pytest.raises(InputError, match="beside a picture of this size the model reads 41; shorten it"):
        model.prompt(["the cat " * 40], None, True)


def test_a_whole_picture_is_drawn(model):
    settings = DecodeSettings(window=9, law=LawSettings(cfg_scale=3.0, top_k=20))
    for size, shape in (("14x14", (14, 14)), ("16x12", (12, 16))):
        decoded = mcsjd_core.sample(model, ["the cat"] * 2, settings, size=size)
        pictures = mcsjd_core.pictures(model, decoded.tokens, size)
        assert pictures.shape == (2, 3, *shape) and pictures.isfinite().all()
    assert (model.defaults.law.cfg_scale, model.defaults.law.top_k) == (3.0, 2048)


# -- files ---------------------------------------------------------------------------------------------------------------


def vision_names(codes: int) -> list[str]:
    return ["<|image token|>", "<|image start|>", "<|image end|>", *(code_name(code) for code in range(codes))]


def ids_of(vision_names: list[str], text_tokens: int) -> dict[str, int]:
    return {name: text_tokens + position for position, name in enumerate((*SPECIAL_NAMES, *vision_names))}


def test_ids_of_the_published_vocabulary():
    assert Vocabulary.of_ids(ids_of(vision_names(32768), 151643), 32768) == Vocabulary(
        bos=151849, begin_of_image=151852, size_end=151851, row_end=151846, frame_end=151847, end_of_image=151853,
        eos=151850, first_code=151854,
    )  # fmt: skip


def test_a_vocabulary_of_another_model_is_refused():
    names = vision_names(12)
    with pytest.raises(InputError, match=r"lacks <\|visual token 000012\|>"):
        Vocabulary.of_ids(ids_of(names, 300), 13)
    with pytest.raises(InputError, match=r"lacks <\|image end\|>"):
        Vocabulary.of_ids(ids_of([name for name in names if "end" not in name], 300), 12)
    with pytest.raises(InputError, match="ids are not consecutive"):
        Vocabulary.of_ids(ids_of([*names[:5], "<|more|>", *names[5:]], 300), 12)


def copy(directory, tmp_path, *without: str):
    """The checkpoint again, by links, without some of its entries."""
    target = tmp_path / "copy"
    target.mkdir()
    for entry in directory.iterdir():
        if entry.name not in without:
            (target / entry.name).symlink_to(entry)
    return target


def test_the_codec_may_lie_beside_the_model(directory, tmp_path):
    target = copy(directory, tmp_path, "Emu3-VisionTokenizer")
    with pytest.raises(InputError, match=r"Emu3-VisionTokenizer is missing: .*BAAI/Emu3-VisionTokenizer; download it"):
        mcsjd_core.load(target)
    (tmp_path / "Emu3-VisionTokenizer").symlink_to(directory / "Emu3-VisionTokenizer")
    assert mcsjd_core.load(target).sizes == mcsjd_core.load(directory).sizes


@pytest.mark.parametrize("name", ["emu3.tiktoken", "emu3_vision_tokens.txt", "model-00002-of-00003.safetensors"])
def test_a_missing_file_is_named(directory, tmp_path, name):
    with pytest.raises(InputError, match=name):
        mcsjd_core.load(copy(directory, tmp_path, name))


def test_a_vocabulary_beyond_the_embedding_is_refused(directory, tmp_path):
    target = copy(directory, tmp_path, "config.json")
    config = json.loads((directory / "config.json").read_text()) | {"vocab_size": FIRST + CODES - 1}
    (target / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="its files do not belong together"):
        mcsjd_core.load(target)


# -- the layout of transformers --------------------------------------------------------------------------------------------


HF_CODEC = {"base_channels": 32, "channel_multiplier": [1, 2], "attn_resolutions": [1], "hidden_size": 64}


@pytest.fixture(scope="module")
def hf_directory(tmp_path_factory):
    """Transformer and codec in one, as transformers writes them."""
    transformers = pytest.importorskip("transformers", reason="transformers writes the directory")
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    directory = tmp_path_factory.mktemp("emu3") / "Emu3-Gen-hf"
    words = ["the", "cat", *"0123456789*"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="the"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), digits])
    names = ["<|endoftext|>", "<image>", *(f"<|extra_{number}|>" for number in range(1, 205)), *VISION_NAMES]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    ids = {name: tokenizer.token_to_id(name) for name in names}
    config = transformers.Emu3Config(
        text_config=CONFIG | {"vocab_size": len(words) + len(names), "pad_token_id": ids["<|endoftext|>"]},
        vq_config=HF_CODEC | {"codebook_size": CODES},
        vocabulary_map={name: ids[name] for name in ("<image>", *VISION_NAMES[3:])},
    )
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = transformers.Emu3ForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if "vqmodel" not in name and ("proj" in name or "lm_head" in name):
            parameter.data *= 10
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory, model, ids


@pytest.mark.parametrize("renamed", [False, True])
def test_logits_and_pictures_equal_those_of_transformers_on_its_own_directory(hf_directory, tmp_path, renamed):
    """On disk its names begin with `text_model.` and `vqmodel.`; those of its modules are read as well."""
    directory, reference, ids = hf_directory
    if renamed:
        for name in ("config.json", "tokenizer.json"):
            (tmp_path / name).symlink_to(directory / name)
        save_file({name: t.clone() for name, t in reference.state_dict().items()}, tmp_path / "model.safetensors")
        directory = tmp_path
    model = mcsjd_core.load(directory)
    assert model.name == "emu3" and model.sizes[0] == "720x720"
    model.context = 10**6
    grid = model.grid()
    assert (grid.rows, grid.columns) == (360, 360)  # this codec has 2 px a code
    prompt = model.prompt(["the cat <|extra_203|> <image>"], None, False)
    tokens = grid.tokens(torch.randint(CODES, (1, 1, 360), generator=torch.Generator().manual_seed(9)))[:, 350:]
    head = [ids["<|extra_203|>"], 0, 1, ids["<|image start|>"], *model.encode("360*360"), ids["<|image token|>"]]
    assert model.encode("360*360") == [5, 8, 2, 12, 5, 8, 2]
    first = ids[code_name(0)]
    body = torch.where(tokens < CODES, tokens + first, tokens - CODES)[0].tolist()
    assert body[-1] == ids["<|extra_200|>"]
    ours = cached_logits(model.token_model, prompt, tokens, 4)[0]
    with torch.no_grad():
        theirs = reference(input_ids=torch.tensor([head + body[:-1]])).logits[0, len(head) - 1 :, first : first + CODES]
    assert relative(ours, theirs) < 1e-5
    codes = torch.randint(CODES, (1, 3, 4), generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        picture = (reference.model.vqmodel.decode(codes) + 1) / 2
    assert relative(model.codec.decode(codes), picture.clamp(0, 1)) < 1e-5


# -- the published size --------------------------------------------------------------------------------------------------


def test_emu3_gen_has_the_published_names_and_shapes():
    config = transformer_config(Fields(emu3.BODY, "config.json"), norm_eps=1e-5)
    assert (config.rope_theta, config.norm_eps, config.head_dim) == (1e6, 1e-5, 128)
    body = Transformer(config, dtype=torch.bfloat16, device="meta")
    model = TransformerTokenModel(body, 184622, 32768, 151854, dtype=torch.bfloat16, device="meta")
    published = {"model.embed_tokens.weight": [184622, 4096], "model.norm.weight": [4096]}
    published["lm_head.weight"] = [32768, 4096]  # of 184622 rows
    for n in range(32):
        layer = f"model.layers.{n}."
        published |= {f"{layer}self_attn.{x}_proj.weight": [4096, 4096] for x in "qo"}
        published |= {f"{layer}self_attn.{x}_proj.weight": [1024, 4096] for x in "kv"}
        published |= {f"{layer}mlp.{x}_proj.weight": [14336, 4096] for x in ("gate", "up")}
        published[f"{layer}mlp.down_proj.weight"] = [4096, 14336]
        published |= {f"{layer}{x}_layernorm.weight": [4096] for x in ("input", "post_attention")}
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == published
    assert len(state) == 291
    assert sum(tensor.numel() for tensor in state.values()) + (184622 - 32768) * 4096 == 8_492_011_520
