"""SimpleAR: directories in both forms against transformers' Qwen2, prompts, tokenizers, pictures, and real sizes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.families import cosmos_codec
from mcsjd_core.families.hf_config import transformer_config
from mcsjd_core.families.simplear import NEGATIVE, SimpleAR, Vocabulary
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.transformer import Transformer
from mcsjd_core.text.qwen_tokenizer import read_qwen_tokenizer
from mcsjd_core.text.rank_tokenizer import QWEN_PATTERN
from oracle import cached_logits, relative, uncached_logits
from tiny_checkpoint import randomise
from tiny_cosmos import CODEC, CODES, plain_codec, write_plain_codec, write_torchscript_codec

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

SPECIALS = ["<|endoftext|>", "<|t2i|>", "<|i2t|>", "<|soi|>", "<|vtokens|>"]
MERGES = [("r", "e"), ("re", "d"), ("Ġ", "o"), ("Ġ", "a")]
TEXT = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
T2I, SOI, FIRST = len(TEXT) + 1, len(TEXT) + 3, len(TEXT) + len(SPECIALS)
# The epsilon is no default of anything, so that a forgotten one shows.
CONFIG = {
    "vocab_size": FIRST + CODES, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 3e-3, "max_position_embeddings": 1024,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e6}
TEXTS = ["red owl", "a much longer one"]
NEGATIVES = ["", "red"]


def write_tokenizer(directory) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={name: id for id, name in enumerate(TEXT)}, merges=MERGES))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))


def write_simplear(directory, *, tied: bool):
    """A random checkpoint as transformers writes it: with a tied head it has none of its own."""
    directory.mkdir(parents=True)
    config = transformers.Qwen2Config(**CONFIG, rope_parameters=ROPE, tie_word_embeddings=tied)
    model = randomise(transformers.Qwen2ForCausalLM(config), 3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(3)  # what a token looks at shows
        model.lm_head.weight.mul_(0.5 if tied else 3)
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["SimpARForCausalLM"]}))
    write_tokenizer(directory)
    (directory / "generation_config.json").write_text(json.dumps({"image_side": 64, "repetition_penalty": 1.1}))
    write_plain_codec(directory / "tokenizer")
    return directory


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def directory(request, tmp_path_factory):
    return write_simplear(tmp_path_factory.mktemp("simplear") / "model", tied=request.param)


@pytest.fixture(scope="module")
def model(directory) -> SimpleAR:
    return mcsjd_core.load(directory)


@pytest.fixture(scope="module")
def reference(directory):
    model = transformers.Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig()
    return model


def row_ids(model: SimpleAR, request: str) -> list[int]:
    """The published form as one string, read with its special tokens in it."""
    return model.tokenizer.encode(f"<|t2i|>{request}<|soi|>", add_special_tokens=False).ids


def rows_of(model: SimpleAR) -> list[list[int]]:
    requests = [
        f"A highly realistic image of {TEXTS[0]}", f"An image of {NEGATIVE}",
        f"A highly realistic image of {TEXTS[1]}", "An image of red",
    ]  # fmt: skip
    return [row_ids(model, request) for request in requests]


# -- logits and tokens ---------------------------------------------------------------------------------------------------


def test_the_files_are_tied_or_not(directory, model):
    names = load_file(directory / "model.safetensors").keys()
    assert len(names) == (26 if "lm_head.weight" not in names else 27)
    assert mcsjd_core.detect(directory) == "simplear"
    rows = model.token_model.model.embed_tokens.weight[FIRST:]
    assert torch.equal(model.token_model.lm_head.weight, rows) == ("lm_head.weight" not in names)


@pytest.mark.parametrize("window", [1, 5, 100])
def test_logits_of_ragged_guided_prompts_equal_those_of_transformers(model, reference, window):
    codes = torch.randint(CODES, (2, 16), generator=torch.Generator().manual_seed(1))
    prompt = model.prompt(TEXTS, NEGATIVES, True)
    assert prompt.padding.tolist().count(0) == 1
    ours, uncached = (
        cached_logits(model.token_model, prompt, codes, window),
        uncached_logits(model.token_model, prompt, codes),
    )
    for row, ids in enumerate(rows_of(model)):
        assert (ids[0], ids[-1]) == (T2I, SOI)
        with torch.no_grad():
            whole = torch.tensor([ids + (codes[row // 2, :-1] + FIRST).tolist()])
            theirs = reference(input_ids=whole).logits[0, len(ids) - 1 :, FIRST:]
        assert relative(ours[row], theirs, "logits, cached") < 1e-5
        assert relative(uncached[row], theirs, "logits, uncached") < 1e-5


def test_greedy_decoding_equals_transformers_generate(model, reference):
    """With guidance over the whole vocabulary, as the authors guide, and text ids kept out."""
    cond, uncond = rows_of(model)[:2]
    theirs = reference.generate(
        torch.tensor([cond]), do_sample=False, guidance_scale=6.0, negative_prompt_ids=torch.tensor([uncond]),
        suppress_tokens=list(range(FIRST)), max_new_tokens=16, min_new_tokens=16,
    )  # fmt: skip
    for coupling in ("autoregressive", "maximal"):
        settings = DecodeSettings(coupling, 6, LawSettings(6.0, temperature=0))
        ours = mcsjd_core.sample(model, TEXTS[:1], settings).tokens
        assert torch.equal(ours + FIRST, theirs[:, len(cond) :]) and ours.unique().numel() > 5


def test_given_codes_stay_and_seed_exact_is_exact(model):
    first = torch.tensor([[[5, 4, 3, 2]]])
    plain, exact = (
        mcsjd_core.sample(model, TEXTS, DecodeSettings(coupling, 7, model.defaults.law), first_codes=first).tokens
        for coupling in ("autoregressive", "gumbel_exact")
    )
    assert torch.equal(plain, exact) and (exact[:, :4] == first[0]).all() and exact.shape == (2, 16)
    assert model.defaults.law == LawSettings(
        6.0
    )  # the repetition penalty of Qwen's generation_config.json is not followed


# -- prompts and tokenizers ------------------------------------------------------------------------------------------------


def test_special_tokens_in_a_text_are_dropped_and_no_text_is_caption_dropout(model):
    rows = [model._row(text) for text in ("red<|soi|> owl", "red owl")]
    assert rows[0] == rows[1]
    empty = model.prompt([""], None, False)
    expected = model.token_model.model.embed_tokens.weight[torch.tensor([T2I, SOI])]
    assert torch.equal(empty.embeddings[0], expected)


def test_a_prompt_that_leaves_no_room_for_the_picture_is_refused(model):
    """A context of 1024 tokens in config.json, and a picture of 4 x 4 codes; the negative prompt counts, too."""
    for texts, negatives in ((["x" * 1008], ["red"]), (["red"], ["x" * 1008])):
        with pytest.raises(InputError, match=r"takes 10\d\d tokens, and .* this size the model reads 1008; shorten it"):
            model.prompt(texts, negatives, True)
    assert model.prompt(["x" * 900], None, True).embeddings.shape[1] < 1008


def test_the_older_form_of_the_tokenizer_gives_the_same_ids(directory, model, tmp_path):
    path = shutil.copytree(directory, tmp_path / "SimpleAR-old")
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps({name: id for id, name in enumerate(TEXT)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in MERGES) + "\n")
    (path / "added_tokens.json").write_text(json.dumps({name: len(TEXT) + i for i, name in enumerate(SPECIALS)}))
    older = mcsjd_core.load(path)
    for text in (*TEXTS, "réd 42, it's\n\n  the end", "ﬁ é"):
        assert older._row(text) == model._row(text)
        assert older.tokenizer.encode(text).ids == model.tokenizer.encode(text).ids
    (path / "added_tokens.json").write_text(json.dumps({"<|t2i|>": 5}))
    with pytest.raises(InputError, match="do not follow its vocabulary"):
        mcsjd_core.load(path)
    (path / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"merges.txt are no tokenizer"):
        mcsjd_core.load(path)


def test_a_tokenizer_without_the_image_tokens_is_refused(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "simplear")
    text = (path / "tokenizer.json").read_text().replace("<|soi|>", "<|other|>")
    (path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"lacks <\|t2i\|> or <\|soi\|>"):
        mcsjd_core.load(path)


def test_fewer_embeddings_than_ids_and_dropped_biases_are_refused(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "simplear")
    tensors = load_file(path / "model.safetensors")
    whole = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"model.embed_tokens.weight": whole[:-1].clone()}, path / "model.safetensors")
    with pytest.raises(InputError, match="do not belong together"):
        mcsjd_core.load(path)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing: model.layers.1.self_attn.k_proj.bias"):
        mcsjd_core.load(path)


# -- pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", [True], indirect=True, ids=["tied"])
def test_a_picture_is_a_clip_of_one_frame(model, directory, tmp_path, monkeypatch):
    codes = torch.randint(CODES, (2, 4, 4), generator=torch.Generator().manual_seed(2))
    wanted = torch.cat([plain_codec().decode(picture[:, None])[:, :, 0] for picture in codes.split(1)])
    assert wanted.shape == (2, 3, 64, 64) and torch.equal(mcsjd_core.pictures(model, codes.flatten(1)), wanted)
    encoded = [plain_codec().encode(picture[:, :, None])[:, 0] for picture in wanted.split(1)]
    assert torch.equal(model.codec.encode(wanted), torch.cat(encoded))
    passed, decode = [], model.codec.video.decode
    monkeypatch.setattr(model.codec.video, "decode", lambda codes: passed.append(len(codes)) or decode(codes))
    model.codec.decode(codes)
    assert passed == [1, 1]  # as the codec tells its memory
    monkeypatch.setattr(cosmos_codec, "PUBLISHED_CODEC", CODEC)
    path = shutil.copytree(directory, tmp_path / "models" / "SimpleAR-0.5B-RL", ignore=lambda *_: ["tokenizer"])
    with pytest.raises(InputError, match=r"Cosmos-1.0-Tokenizer-DV8x16x16 lacks encoder.jit and decoder.jit"):
        mcsjd_core.load(path)
    write_torchscript_codec(path.parent / "Cosmos-1.0-Tokenizer-DV8x16x16")
    published = mcsjd_core.load(path)
    assert relative(mcsjd_core.pictures(published, codes.flatten(1)), wanted, "codec") < 1e-5
    assert mcsjd_core.checkpoint_paths(path) == [path, path.parent / "Cosmos-1.0-Tokenizer-DV8x16x16"]


# -- the published sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "inner", "tied", "untied"),
    [(896, 24, 14, 4864, 551_140_224, 744_382_336), (1536, 28, 12, 8960, 1_641_612_800, 1_972_884_992)],
    ids=["0.5B", "1.5B"],
)
def test_full_size_names_and_shapes_are_the_published_ones(dim, layers, heads, inner, tied, untied):
    fields = {
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 2,
        "intermediate_size": inner, "rope_theta": 1e6,
    }  # fmt: skip
    config = transformer_config(Fields(fields, "config.json"), norm_eps=1e-6, qkv_bias=True)
    body = Transformer(config, dtype=torch.bfloat16, device="meta")
    ours = TransformerTokenModel(body, 215672, 64000, 151672, dtype=torch.bfloat16, device="meta").state_dict()
    qwen = transformers.Qwen2Config(**fields | {"vocab_size": 215672}, tie_word_embeddings=False)
    with torch.device("meta"):
        theirs = transformers.Qwen2ForCausalLM(qwen).state_dict()
    head = {"lm_head.weight": [64000, dim]}  # of 215672 rows
    assert {n: list(t.shape) for n, t in ours.items()} == {n: list(t.shape) for n, t in theirs.items()} | head
    assert len(ours) == 12 * layers + 3 and sum(t.numel() for t in theirs.values()) == untied
    assert untied - 215672 * dim == tied


def test_codes_follow_the_last_token(tmp_path):
    """22 special tokens of Qwen2.5 and seven of SimpleAR after 151,643 of text."""
    names = [
        *(f"<|{n}|>" for n in range(22)),
        "<|t2i|>",
        "<|i2t|>",
        "<|soi|>",
        "<|vtokens|>",
        "<|t2v|>",
        "<|v2t|>",
        "<|sov|>",
    ]
    tokenizer = Tokenizer(models.BPE(vocab={f"t{n}": n for n in range(151643)}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(name) for name in names])
    assert Vocabulary.of(tokenizer) == Vocabulary(151665, 151667, 151672)
    assert 151672 + 64000 == 215672 and Grid(64, 64).num_tokens == 4096


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer.json is missing"):
        read_qwen_tokenizer(tmp_path, {})
