"""Cosmos: published files against a reference in float64 that is written here, prompts, start frames, codecs, real sizes."""

from __future__ import annotations

import shutil

import pytest
import torch

import mcsjd_core
from cosmos_reference import reference_logits
from mcsjd_core import DecodeSettings, InputError, LawSettings, Step
from mcsjd_core.families import cosmos_codec
from mcsjd_core.families.cosmos import Cosmos
from mcsjd_core.families.interface import Clip
from mcsjd_core.pipeline.preview import BLANK, DRAFT_OPACITY, unfinished_frames
from mcsjd_core.pipeline.sampling import Drawing
from oracle import cached_logits, relative
from tiny_cosmos import (
    CODEC,
    CODES,
    COLUMNS,
    CONTEXT_DIM,
    CONTEXT_TOKENS,
    FRAME,
    FRAMES,
    ROWS,
    YARN,
    write_checkpoint,
)

pytest.importorskip("transformers", reason="transformers has the text encoder")

TOKENS = FRAMES * FRAME
KINDS = {  # what is written, and the parts of the formula that it switches on
    "base, model.pt": {"reads_text": False},
    "base, YaRN, safetensors": {"reads_text": False, "file": "model.safetensors", **YARN},
    "text, model.pt": {"reads_text": True},
    "text, YaRN, safetensors": {"reads_text": True, "file": "model.safetensors", **YARN},
}
TEXTS = ["the ball moves left", "ball"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """TorchScript files do not tell what they are: they are taken for the published tokenizer."""
    monkeypatch.setattr(cosmos_codec, "PUBLISHED_CODEC", CODEC)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("cosmos")
    return {kind: write_checkpoint(root / f"model-{i}", **what) for i, (kind, what) in enumerate(KINDS.items())}


@pytest.fixture(scope="module")
def families(directories) -> dict[str, Cosmos]:
    return {kind: mcsjd_core.load(directory) for kind, directory in directories.items()}


def texts_for(family: Cosmos) -> list[str]:
    return TEXTS if family.clip.reads_text else [""] * len(TEXTS)


def some_tokens(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(CODES, (batch, TOKENS), generator=torch.Generator().manual_seed(seed))


# -- logits -------------------------------------------------------------------------------------------------------------


def t5_states(directory, text: str) -> torch.Tensor:
    """Context [CONTEXT_TOKENS, CONTEXT_DIM] float64 as NVIDIA's code makes it: padded, masked, zero after the text."""
    import transformers
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(directory / "t5" / "tokenizer.json")).encode(text).ids
    padded = torch.tensor([ids + [0] * (CONTEXT_TOKENS - len(ids))])
    mask = torch.tensor([[1] * len(ids) + [0] * (CONTEXT_TOKENS - len(ids))])
    with torch.no_grad():
        states = transformers.T5EncoderModel.from_pretrained(directory / "t5").eval()(padded, attention_mask=mask)
    states = states.last_hidden_state[0].double()
    states[len(ids) :] = 0
    return states


@pytest.mark.parametrize("window", [1, 5, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_reference(kind, window, families, directories):
    family, tokens = families[kind], some_tokens()
    reads_text, yarn = family.clip.reads_text, "YaRN" in kind
    prompt = family.prompt(texts_for(family), None, False)
    ours = cached_logits(family.token_model, prompt, tokens, window)
    for row, text in enumerate(texts_for(family)):
        context = t5_states(directories[kind], text) if reads_text else None
        expected = reference_logits(tokens[row], context, yarn)
        assert relative(ours[row, 0 if reads_text else 1 :].double(), expected) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_cached_forward_equals_the_uncached_one(kind, families):
    family, tokens = families[kind], some_tokens()
    prompt = family.prompt(texts_for(family), None, False)
    model, index = family.token_model, torch.arange(TOKENS - 1).expand(2, -1)
    first = 1 if model.begin is None else 0  # the slot that is padding has no place in a forward without a cache
    x = torch.cat((prompt.embeddings, model.embed(tokens[:, :-1], index)), 1)[:, first:]
    with torch.no_grad():
        hidden = model.model(x, torch.arange(x.shape[1]).expand(2, -1), context=prompt.context)
        expected = model.logits(hidden, None)
    for window in (1, 4, 50):
        assert relative(cached_logits(model, prompt, tokens, window)[:, first:], expected) < 2e-6


def test_guidance_gives_the_other_rows_the_negative_text(families):
    family = families["text, model.pt"]
    guided = family.prompt(TEXTS, ["left", ""], True)
    single = family.prompt([TEXTS[0], "left", TEXTS[1], ""], None, False)
    assert guided.guided and torch.equal(guided.context, single.context)
    assert torch.equal(family.prompt(TEXTS, None, True).context[1], single.context[3])


def test_cross_attention_s_keys_leave_with_their_rows(families):
    family = families["text, model.pt"]
    prompt = family.prompt(["ball", "left", "moves"], None, False)
    cache = family.token_model.new_cache(prompt, 9)
    assert cache.nbytes == family.token_model.cache_bytes(prompt, 9)
    before = [tuple(t.clone() for t in pair) for pair in cache.context]
    cache.keep_rows([2, 1])
    for layer, (keys, values) in enumerate(before):
        now = cache.context_of(layer)
        assert torch.equal(now[0], keys[[2, 1]]) and torch.equal(now[1], values[[2, 1]])


# -- the core on a 3-D grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("initialiser", ["random", "above", "previous_frame"])
@pytest.mark.parametrize("kind", ["base, model.pt", "text, YaRN, safetensors"])
def test_gumbel_exact_equals_autoregressive_after_start_frames(kind, initialiser, start, families):
    family, batch = families[kind], 12
    texts = [texts_for(family)[0]] * batch
    law = LawSettings(temperature=0.7, top_p=0.9)
    first = some_tokens(batch)[:, : start * FRAME].view(batch, start, ROWS, COLUMNS)

    def tokens(coupling, window=1, trajectories=1):
        settings = DecodeSettings(coupling, window, law, initialiser, seed=3, trajectories=trajectories)
        return mcsjd_core.sample(family, texts, settings, first_codes=first).tokens

    plain = tokens("autoregressive")
    assert torch.equal(plain[:, : start * FRAME], first.flatten(1))
    assert len(plain.unique(dim=0)) == batch
    for window in (2, 7, 64):
        assert torch.equal(tokens("gumbel_exact", window), plain)
    assert torch.equal(tokens("gumbel_exact", 7, trajectories=3), plain)


def test_fewer_frames_are_the_first_frames_of_more(families):
    family = families["text, model.pt"]
    first = some_tokens(1)[:, :FRAME].view(1, 1, ROWS, COLUMNS)
    settings = DecodeSettings("gumbel_exact", 8, LawSettings(temperature=0.5))
    whole = mcsjd_core.sample(family, ["ball"], settings, first_codes=first).tokens
    part = mcsjd_core.sample(family, ["ball"], settings, first_codes=first, frames=9).tokens
    assert part.shape[1] == 2 * FRAME and torch.equal(part, whole[:, : 2 * FRAME])
    video = mcsjd_core.videos(family, part)
    assert video.shape == (1, 9, 3, ROWS * 16, COLUMNS * 16)
    assert torch.allclose(video, mcsjd_core.videos(family, whole)[:, :9], atol=1e-5)


# -- start frames ------------------------------------------------------------------------------------------------------


def clip(frames: int, height: int = ROWS * 16, width: int = COLUMNS * 16) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(frames))


def test_the_last_frames_of_a_clip_start_a_video(families):
    family = families["base, model.pt"]
    long = clip(30)
    for given, used in ((1, 1), (5, 1), (9, 9), (30, 9)):
        codes = mcsjd_core.start_codes(family, long[-given:])
        frames = long[-used:].movedim(1, 0)[None]
        assert codes.shape == (1, family.clip.code_frames(used), ROWS, COLUMNS)
        assert torch.equal(codes, family.codec.encode(frames))


def test_a_clip_of_another_shape_is_scaled_and_cropped(families):
    codes = mcsjd_core.start_codes(families["base, model.pt"], clip(9, 100, 80))
    assert codes.shape == (1, 2, ROWS, COLUMNS)


def test_start_frames_are_asked_for(families):
    family = families["base, model.pt"]
    with pytest.raises(InputError, match="continues a video; give it 1 or 9 frames to continue"):
        mcsjd_core.sample(family, [""], DecodeSettings())
    two_only = Clip(frames=17, frame_rate=8, frames_per_code=8, start_frames=(9,))
    with pytest.raises(InputError, match="continues 9 frames, got 4"):
        two_only.start_of(4)
    half = some_tokens(1)[:, :COLUMNS].view(1, 1, COLUMNS)
    with pytest.raises(InputError, match="give it 1 or 9"):
        mcsjd_core.sample(family, [""], DecodeSettings(), first_codes=half)


@pytest.mark.parametrize(("frames", "message"), [(10, "steps of 8"), (0, "steps of 8"), (25, "at most 17")])
def test_frames_that_cannot_be_had_are_refused(frames, message, families):
    first = some_tokens(1)[:, :FRAME].view(1, 1, ROWS, COLUMNS)
    with pytest.raises(InputError, match=message):
        mcsjd_core.sample(families["base, model.pt"], [""], DecodeSettings(), first_codes=first, frames=frames)


def test_picture_models_draw_no_video(tiny_checkpoint):
    family = mcsjd_core.load(tiny_checkpoint)
    with pytest.raises(InputError, match="draws pictures"):
        mcsjd_core.sample(family, ["red"], DecodeSettings(), frames=9)
    with pytest.raises(InputError, match="draws pictures"):
        mcsjd_core.start_codes(family, clip(1))


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_host_may_encode_the_text_itself(families, directories):
    family, kind = families["text, model.pt"], "text, model.pt"
    theirs = {"ball": t5_states(directories[kind], "ball").float()}  # padded with zeros, as hosts do
    ours = family.prompt(["ball"], None, False)
    given = family.prompt(["ball"], None, False, encoded=theirs)
    assert torch.allclose(ours.context, given.context, atol=1e-6)
    with pytest.raises(InputError, match=f"this model reads \\[tokens, {CONTEXT_DIM}\\]"):
        family.prompt(["ball"], None, False, encoded={"ball": torch.zeros(3, CONTEXT_DIM + 1)})


def test_long_texts_are_cut_to_the_context(families):
    context = families["text, model.pt"].prompt(["ball " * 40], None, False).context
    assert context.shape == (1, CONTEXT_TOKENS, CONTEXT_DIM) and (context != 0).any(-1).all()


def test_a_text_is_told_whose_end_is_cut_off(families):
    family, first = families["text, model.pt"], some_tokens(1)[:, :FRAME].view(1, 1, ROWS, COLUMNS)

    def note(text: str, encoded=None) -> str | None:
        return Drawing.of(family, [text], DecodeSettings(), encoded=encoded, first_codes=first).note

    room = CONTEXT_TOKENS - 1  # the end token is read, too
    cut, whole = " ".join(["ball"] * (room + 1)), " ".join(["ball"] * room)
    told = f'This model reads {CONTEXT_TOKENS} tokens of a prompt at the most: the end of "{cut}" is left out.'
    assert (note(cut), note(whole)) == (told, None)
    states = torch.zeros(3 * CONTEXT_TOKENS, CONTEXT_DIM)  # padded with zeros, as hosts do
    states[:CONTEXT_TOKENS] = 1
    assert note(whole, {whole: states}) is None
    states[CONTEXT_TOKENS] = 1
    assert note(cut, {cut: states}) == told


def test_models_that_read_no_text_say_so(families):
    family = families["base, model.pt"]
    with pytest.raises(InputError, match="reads no text: what it draws follows its start frames"):
        family.prompt(["ball"], None, False)
    with pytest.raises(InputError, match="guidance has nothing to lead away from"):
        family.prompt([""], None, True)
    with pytest.raises(InputError, match="reads no text; disconnect the text encoder"):
        family.prompt([""], None, False, encoded={"": torch.zeros(1, CONTEXT_DIM)})


def test_a_missing_text_encoder_is_named_when_a_text_is_to_be_read(tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=True)
    for file in (directory / "t5").iterdir():
        file.unlink()
    (directory / "t5").rmdir()
    family = mcsjd_core.load(directory)
    with pytest.raises(InputError, match="the T5 encoder that this model reads its prompts with"):
        family.prompt(["ball"], None, False)
    family.prompt(["ball"], None, False, encoded={"ball": torch.zeros(2, CONTEXT_DIM)})


# -- preview -----------------------------------------------------------------------------------------------------------


def test_the_newest_frame_is_shown_while_a_video_is_drawn(families):
    family = families["base, model.pt"]
    grid, tokens = family.grid(), some_tokens(2)
    done, drafted = FRAME + 2, FRAME + 4
    shown = unfinished_frames(family, grid, Step(1, tokens, [done, FRAME], [drafted, FRAME + 1]), 2, 2)
    codes = grid.codes(tokens)[0, :2].clone()
    codes[1].view(-1)[4:] = codes[0].view(-1)[4:]
    frame = family.codec.decode(codes[None])[0, :, -1]
    for position in range(FRAME):
        y, x = position // COLUMNS * 16, position % COLUMNS * 16
        cell, expected = shown[0, :, y : y + 16, x : x + 16], frame[:, y : y + 16, x : x + 16]
        opacity = 1.0 if position < 2 else DRAFT_OPACITY if position < 4 else 0.0
        torch.testing.assert_close(cell, BLANK + (expected - BLANK) * opacity)
    whole = unfinished_frames(family, grid, Step(1, tokens, [TOKENS] * 2, [TOKENS] * 2), 2, FRAMES)
    torch.testing.assert_close(whole, mcsjd_core.videos(family, tokens)[:, -1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"model.medusa_heads.0.0.linear.weight": [4, 4]}, r"has Medusa heads, which this pack does not read"),
        ({"model.layers.0.attention.wqkv.weight": [4, 4]}, r"has queries, keys and values in one matrix"),
    ],
)
def test_other_layouts_are_refused_by_name(directories, tmp_path, names, message):
    path = shutil.copytree(directories["base, model.pt"], tmp_path / "model")
    torch.save(
        torch.load(path / "model.pt") | {name: torch.zeros(shape) for name, shape in names.items()}, path / "model.pt"
    )
    with pytest.raises(InputError, match=message):
        mcsjd_core.load(path)


def test_a_part_of_a_model_on_several_devices_is_refused(directories, tmp_path):
    """Its tensors fit together, so that nothing but config.json tells."""
    path = shutil.copytree(directories["base, model.pt"], tmp_path / "model")
    state = torch.load(path / "model.pt")
    for name, tensor in state.items():
        if name.endswith(("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight")):
            state[name] = tensor.chunk(2)[0].clone()
        elif name.endswith(("wo.weight", "w2.weight")):
            state[name] = tensor.chunk(2, 1)[0].clone()
    torch.save(state, path / "model.pt")
    with pytest.raises(InputError, match=r"holds 2 where config.json has `n_heads` 4; it is one part of a model"):
        mcsjd_core.load(path)
