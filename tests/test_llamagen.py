"""LlamaGen: the published files against a reference in float64 that is written here, prompts, files, and real sizes."""

from __future__ import annotations

import math

import pytest
import torch

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig
from mcsjd_core.families import llamagen, t5_captions
from mcsjd_core.families.llamagen import LlamaGen
from mcsjd_core.families.llamagen_model import raster_angles
from mcsjd_core.pipeline.sampling import Drawing
from mcsjd_core.text.t5 import T5Encoder
from oracle import cached_logits, relative
from tiny_checkpoint import randomise

DIM, LAYERS, HEADS, FFN, CODES, SIDE = 48, 2, 4, 40, 24, 4  # heads of 12 channels: three angles for each axis
CODEC = VQGANConfig(
    channels=32, channel_multipliers=(1, 2), attention_levels=(1,), z_channels=8, embed_dim=8, codebook_size=CODES,
    normalize_codebook=True,
)  # fmt: skip
WORDS = ("a", "red", "fox", "in", "the", "snow")


# -- files in the published layout ---------------------------------------------------------------------------------------


def gpt_shapes(kind: str, dim=DIM, layers=LAYERS, ffn=FFN, codes=CODES) -> dict[str, list[int]]:
    """Names and shapes of a published file."""
    shapes = {"tok_embeddings.weight": [codes, dim], "norm.weight": [dim], "output.weight": [codes, dim]}
    if kind == "c2i":
        shapes["cls_embedding.embedding_table.weight"] = [1001, dim]
    else:
        shapes["cls_embedding.uncond_embedding"] = [120, 2048]
        shapes |= {"cls_embedding.cap_proj.fc1.weight": [dim, 2048], "cls_embedding.cap_proj.fc2.weight": [dim, dim]}
    for n in range(layers):
        layer = f"layers.{n}."
        shapes |= {f"{layer}attention.wqkv.weight": [3 * dim, dim], f"{layer}attention.wo.weight": [dim, dim]}
        shapes |= {f"{layer}feed_forward.w{x}.weight": [ffn, dim] for x in (1, 3)}
        shapes[f"{layer}feed_forward.w2.weight"] = [dim, ffn]
        shapes |= {f"{layer}{x}_norm.weight": [dim] for x in ("attention", "ffn")}
    return shapes


def gpt_state(kind: str, codes: int = CODES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in gpt_shapes(kind, codes=codes).items():
        values = torch.randn(shape, generator=generator)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif "embed" not in name or "cap_proj" in name:
            values /= shape[-1] ** 0.5
        state[name] = 2 * values if "wqkv" in name else values  # sharp attention: what a token looks at shows
    return state


def codec_state(codec: VQGAN) -> dict[str, torch.Tensor]:
    """The weights of a VQGAN under LlamaGen's names."""
    last, state = len(codec.config.channel_multipliers) - 1, {"quantize.codebook_used": torch.zeros(65536)}
    for name, tensor in codec.state_dict().items():
        parts = name.split(".")
        if parts[1] == "up":
            parts[1:3] = ["conv_blocks", str(last - int(parts[2]))]
        elif parts[1] == "down":
            parts[1] = "conv_blocks"
        elif parts[1] == "mid":
            parts[2] = {"block_1": "0", "attn_1": "1", "block_2": "2"}[parts[2]]
        if parts[1] == "conv_blocks" and parts[3] == "block":
            parts[3] = "res"
        state[".".join(parts)] = tensor
    return state


def write_t5(directory) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers has the text encoder")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {name: id for id, name in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = transformers.T5Config(
        vocab_size=len(vocabulary),
        d_model=2048,
        d_kv=4,
        num_heads=2,
        d_ff=8,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        transformers.T5EncoderModel(config).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(llamagen.HEADS, (LAYERS, DIM), HEADS)
    monkeypatch.setitem(llamagen.CODECS, "vq_ds16", CODEC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both kinds in one directory, as a download leaves them, with a text encoder."""
    folder = tmp_path_factory.mktemp("llamagen")
    torch.save({"model": gpt_state("c2i") | {"freqs_cis": torch.zeros(3)}}, folder / f"c2i_B_{2 * SIDE}.pt")
    torch.save(gpt_state("t2i"), folder / f"t2i_XL_stage1_{2 * SIDE}.pt")
    for kind, seed in (("c2i", 0), ("t2i", 1)):
        torch.save({"model": codec_state(randomise(VQGAN(CODEC), seed))}, folder / f"vq_ds16_{kind}.pt")
    write_t5(folder / "flan-t5-xl")
    return folder


def model_of(folder, kind: str, **options) -> LlamaGen:
    return mcsjd_core.load(next(folder.glob(f"{kind}_*.pt")), **options)


# -- the reference -------------------------------------------------------------------------------------------------------


def reference_logits(state: dict, condition: torch.Tensor, codes: torch.Tensor, hidden_positions: int) -> torch.Tensor:
    """Logits [N, CODES] float64 for every token of codes [N], by the formulas of the paper's code.

    condition [C, DIM]; later positions do not look at the first `hidden_positions`. Nothing is cached.
    """
    state = {name: tensor.double() for name, tensor in state.items()}
    x = torch.cat((condition.double(), state["tok_embeddings.weight"][codes[:-1]]))
    length, first, head_dim = len(x), len(condition), DIM // HEADS
    frequencies = 10000.0 ** (-2 * torch.arange(head_dim // 4).double() / (head_dim // 2))
    turn = torch.zeros(length, head_dim // 2, dtype=torch.complex128)  # zero for the condition
    for cell in range(length - first):
        row, column = divmod(cell, SIDE)
        turn[first + cell] = torch.polar(
            torch.ones(head_dim // 2).double(), torch.cat((row * frequencies, column * frequencies))
        )
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[:, :hidden_positions] = False
    seen |= torch.eye(length, dtype=torch.bool)

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[name]

    def heads(x):
        return x.view(length, HEADS, head_dim).transpose(0, 1)

    def rotated(x):
        pairs = torch.view_as_complex(heads(x).reshape(HEADS, length, -1, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    for n in range(LAYERS):
        layer = f"layers.{n}."
        q, k, v = (norm(x, f"{layer}attention_norm.weight") @ state[f"{layer}attention.wqkv.weight"].T).split(DIM, -1)
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(head_dim)
        mixed = scores.masked_fill(~seen, -math.inf).softmax(-1) @ heads(v)
        x = x + mixed.transpose(0, 1).reshape(length, DIM) @ state[f"{layer}attention.wo.weight"].T
        y = norm(x, f"{layer}ffn_norm.weight")
        gate, up = (y @ state[f"{layer}feed_forward.w{i}.weight"].T for i in (1, 3))
        x = x + (gate * gate.sigmoid() * up) @ state[f"{layer}feed_forward.w2.weight"].T
    return (norm(x, "norm.weight") @ state["output.weight"].T)[first - 1 :]


def caption_condition(state: dict, states: torch.Tensor) -> torch.Tensor:
    """[120, DIM] of hidden states [120, 2048], with GELU in its tanh form."""
    y = states.double() @ state["cls_embedding.cap_proj.fc1.weight"].double().T
    y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    return y @ state["cls_embedding.cap_proj.fc2.weight"].double().T


def caption_states(folder, text: str) -> tuple[torch.Tensor, int]:
    """Hidden states [120, 2048] as the paper's code makes them, and how many of them are empty: the encoder runs over the
    padded caption, the valid states are rolled to the end, and the others set to zero."""
    import transformers

    ids = [WORDS.index(word) + 3 if word in WORDS else 2 for word in text.lower().split()] + [1]
    encoder = transformers.T5EncoderModel.from_pretrained(folder / "flan-t5-xl").eval()
    mask = torch.tensor([[1] * len(ids) + [0] * (120 - len(ids))])
    with torch.no_grad():
        states = encoder(torch.tensor([ids + [0] * (120 - len(ids))]), attention_mask=mask).last_hidden_state[0]
    empty = 120 - len(ids)
    rolled = torch.cat((states[len(ids) :], states[: len(ids)]))
    return rolled * mask[0].flip(0)[:, None], empty


def some_codes(rows: int) -> torch.Tensor:
    return torch.randint(CODES, (rows, SIDE * SIDE), generator=torch.Generator().manual_seed(1))


def test_class_logits_equal_the_reference(folder):
    model, state, codes = model_of(folder, "c2i"), gpt_state("c2i"), some_codes(2)
    ours = cached_logits(model.token_model, model.prompt(["golden retriever", "5"], ["", "volcano"], True), codes, 3)
    table = state["cls_embedding.embedding_table.weight"]
    for row, number in enumerate((207, 1000, 5, 980)):
        theirs = reference_logits(state, table[[number]], codes[row // 2], 0)
        assert relative(ours[row], theirs) < 1e-5


def test_caption_logits_equal_the_reference(folder):
    """Captions of two lengths; without a negative prompt the unconditional row hides what its caption leaves empty."""
    model, state, codes = model_of(folder, "t2i"), gpt_state("t2i"), some_codes(2)
    prompt = model.prompt(["A red FOX", "fox in  the snow &amp; the red"], ["", "the snow"], True)
    ours = cached_logits(model.token_model, prompt, codes, 3)
    red_fox, snow, negative = (caption_states(folder, t) for t in ("a red fox", "fox in the snow the red", "the snow"))
    assert (red_fox[1], snow[1], negative[1]) == (116, 113, 117)
    nothing = state["cls_embedding.uncond_embedding"], red_fox[1]
    for row, (states, empty) in enumerate((red_fox, nothing, snow, negative)):
        theirs = reference_logits(state, caption_condition(state, states), codes[row // 2], empty)
        assert relative(ours[row], theirs) < 1e-5


def test_logits_at_once_equal_those_through_the_cache(folder):
    model, codes = model_of(folder, "c2i"), some_codes(1)
    prompt = model.prompt(["7"], None, False)
    whole = cached_logits(model.token_model, prompt, codes, 100)
    for window in (1, 5):
        assert relative(cached_logits(model.token_model, prompt, codes, window), whole) < 1e-5


@pytest.mark.parametrize("head_dim", [12, 64, 100])
def test_angles_are_those_of_row_and_column(head_dim):
    """A head of 100 channels, as the 3B model has, divides into 25 angles for each axis."""
    cos, sin = raster_angles(torch.tensor([[0, 1, 2, 3, 9, 14]]), head_dim, 10000.0, first=2, columns=5)
    assert cos.shape == sin.shape == (1, 1, 6, head_dim // 2)
    assert not cos[0, 0, :2].any() and not sin[0, 0, :2].any()
    for position, (row, column) in enumerate(((0, 0), (0, 1), (1, 2), (2, 2)), 2):
        for pair in range(head_dim // 2):
            axis, number = divmod(pair, head_dim // 4)
            angle = (row, column)[axis] * 10000.0 ** (-2 * number / (head_dim // 2))
            assert abs(cos[0, 0, position, pair] - math.cos(angle)) < 1e-6
            assert abs(sin[0, 0, position, pair] - math.sin(angle)) < 1e-6


# -- drawing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["c2i", "t2i"])
def test_a_whole_picture_is_drawn_and_seed_exact_repeats_plain_ar(folder, kind):
    model = model_of(folder, kind)
    assert model.sizes == ("8x8",) and model.grid("8x8") == Grid(SIDE, SIDE)
    text = "goldfish" if kind == "c2i" else "a red fox"
    law = LawSettings(cfg_scale=model.defaults.law.cfg_scale, top_k=10)
    drawn = [
        mcsjd_core.sample(model, [text, text], DecodeSettings(coupling, window=7, law=law)).tokens
        for coupling in ("autoregressive", "gumbel_exact", "maximal")
    ]
    assert torch.equal(drawn[0], drawn[1])
    pictures = mcsjd_core.pictures(model, drawn[2])
    assert pictures.shape == (2, 3, 2 * SIDE, 2 * SIDE) and pictures.isfinite().all()


def test_defaults_are_the_published_ones(folder):
    assert model_of(folder, "c2i").defaults == llamagen.SamplingDefaults(LawSettings(cfg_scale=4.0, top_k=2000))
    assert model_of(folder, "t2i").defaults == llamagen.SamplingDefaults(
        LawSettings(cfg_scale=7.5, top_k=1000), window=16
    )


def test_each_kind_has_the_codec_of_its_name(folder):
    for kind, seed in (("c2i", 0), ("t2i", 1)):
        expected = randomise(VQGAN(CODEC), seed)
        codes = some_codes(1).view(1, SIDE, SIDE)
        assert torch.equal(model_of(folder, kind).codec.decode(codes), expected.decode(codes))


def test_half_precision_holds_the_transformer_only(folder):
    model = model_of(folder, "t2i", dtype=torch.bfloat16)
    assert {p.dtype for p in model.token_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.codec.parameters()} == {torch.float32}
    prompt = model.prompt(["a red fox"], None, True)
    assert prompt.embeddings.dtype == torch.bfloat16 and prompt.padding.tolist() == [116, 116]


def test_without_a_class_the_model_draws_anything(folder):
    prompt = model_of(folder, "c2i").prompt([" "], None, True)
    assert torch.equal(prompt.embeddings[0], prompt.embeddings[1])


def test_an_empty_caption_is_the_end_token_alone(folder):
    """As the published sampler sends it, beside the unconditional row that guidance leads away from."""
    model, state, codes = model_of(folder, "t2i"), gpt_state("t2i"), some_codes(1)
    prompt = model.prompt([""], None, True)
    assert prompt.padding.tolist() == [119, 119]
    ours = cached_logits(model.token_model, prompt, codes, 3)
    states, empty = caption_states(folder, "")
    nothing = state["cls_embedding.uncond_embedding"]
    for row, row_states in enumerate((states, nothing)):
        theirs = reference_logits(state, caption_condition(state, row_states), codes[0], empty)
        assert relative(ours[row], theirs) < 1e-5


def test_a_prompt_for_estimates_needs_no_text_encoder(folder):
    model = model_of(folder, "t2i")
    model.captions._encode = None
    prompt = model.empty_prompt(guided=True)
    assert torch.equal(prompt.embeddings[0], prompt.embeddings[1]) and prompt.padding.tolist() == [0, 0]


# -- captions ------------------------------------------------------------------------------------------------------------


def test_the_text_encoder_is_read_for_new_captions_only_and_not_kept(folder, monkeypatch):
    import gc

    model, read, original = model_of(folder, "t2i"), [], t5_captions.read_encoder
    monkeypatch.setattr(t5_captions, "read_encoder", lambda directory: read.append(1) or original(directory))
    first = model.prompt(["a red fox"] * 3, None, True)
    gc.collect()
    assert not any(type(thing) is T5Encoder for thing in gc.get_objects())
    again = model.prompt(["a red fox"], None, False)
    assert len(read) == 1 and torch.equal(first.embeddings[0], again.embeddings[0])
    model.prompt(["the snow", "a red fox"], None, False)
    assert len(read) == 2


def test_captions_read_ahead_need_no_encoder_later(folder, monkeypatch):
    model, read, original = model_of(folder, "t2i"), [], t5_captions.read_encoder
    monkeypatch.setattr(t5_captions, "read_encoder", lambda directory: read.append(1) or original(directory))
    model.read_ahead(["A red fox", "the snow"])
    for text in ("a red fox", "the snow"):
        model.prompt([text], None, False)
    assert len(read) == 1


def test_a_text_encoder_of_another_width_is_named(folder, monkeypatch):
    """Such as FLAN-T5-large, under the name that is looked for."""
    model = model_of(folder, "t2i")
    monkeypatch.setattr(model.captions, "_encode", lambda texts: [torch.zeros(3, 1024) for _ in texts])
    with pytest.raises(InputError, match="gives 1024 numbers a token, and this model reads 2048; put FLAN-T5-XL there"):
        model.prompt(["a fox"], None, True)


def test_long_captions_are_cut_with_their_end(folder):
    (states,) = model_of(folder, "t2i").captions.encode(["fox " * 300])
    assert states.shape == (120, 2048)
    assert model_of(folder, "t2i").prompt(["fox " * 300], None, True).padding.tolist() == [0, 0]


def test_captions_are_told_whose_end_is_cut_off(folder):
    """By the encoder's 120 tokens, of which the last is the end's, or because cleaning stops at 2000 characters."""
    model = model_of(folder, "t2i")

    def note(text: str) -> str | None:
        return Drawing.of(model, [text], DecodeSettings(law=LawSettings(cfg_scale=2.0)), negatives=["the snow"]).note

    told = "This model reads 120 tokens and 2000 characters of a prompt at the most: the end of "
    assert note(" ".join(["fox"] * 119)) is None
    assert note(" ".join(["fox"] * 120)) == f'{told}"{("fox " * 10)[:40]}..." is left out.'
    dots = "." * 1995
    assert note(f"{dots} fox") is None
    assert note(f"{dots} a fox") == f'{told}"{dots[:40]}..." is left out.'


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_an_incomplete_text_encoder_is_named(folder, tmp_path, missing):
    for file in folder.glob("*t2i*"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "flan-t5-xl").mkdir()
    for file in (folder / "flan-t5-xl").iterdir():
        if file.name != missing:
            (tmp_path / "flan-t5-xl" / file.name).symlink_to(file)
    with pytest.raises(InputError, match="flan-t5-xl"):
        model_of(tmp_path, "t2i").prompt(["a fox"], None, False)
