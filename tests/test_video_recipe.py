"""The recipe of the small video model: what its trainings see, and that the family reads what its export writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny_stage

pytest.importorskip("transformers", reason="transformers has the text encoder")

import mcsjd_core
from mcsjd_core.families.cosmos_shapes import core_name
from training import (
    export_video,
    loop,
    motion_data,
    stage,
    train_video_codec,
    train_video_encoder,
    train_video_transformer,
)
from training.motion_data import CELL, CHUNK, FRAMES, GROUND, STEPS, THING, Stage
from training.places import Places
from training.sprites import SIZE as SPRITE
from training.sprites import Sprites
from training.train_video_transformer import PER_FRAME, CodeTable, VideoModel

NAMES = tiny_stage.NAMES


@pytest.fixture(scope="module")
def tiny() -> Stage:
    return tiny_stage.stage()


def test_a_stage_has_the_things_asked_for_and_holds_out_the_ends_of_wide_grounds(monkeypatch):
    monkeypatch.setattr(stage, "PHOTOGRAPHS", ())
    image = np.zeros((SPRITE, SPRITE, 4), np.uint8)
    image[..., 1:] = 255
    rows = [("fox", "", "twemoji"), ("fox", "", "fluent flat"), ("fox", "", "noto"), ("car", "red", "twemoji"),
            ("car", "blue", "twemoji"), ("trophy", "", "twemoji")]  # fmt: skip
    things, colours, styles = zip(*rows, strict=True)
    sprites = Sprites(np.stack([image] * len(rows)), list(things), list(colours), list(styles))
    wide = np.arange(600, dtype=np.uint8)[None, :, None].repeat(128, 0).repeat(3, 2)
    places = {"city": [wide], "sand": [np.zeros((256, 300, 3), np.uint8)], "plain red": [wide]}
    made = stage.build(sprites, Places(places), root=None)
    assert made.names == ["fox", "fox", "car"]
    assert made.art.shape == (3, THING, THING, 4) and (made.art[0, 8, 8] == (0, 255, 255, 255)).all()
    assert [photo.shape[:2] for photo in made.photos] == [(128, 472), (128, 128), (128, 150)]
    assert made.held_out == [False, True, False] and np.array_equal(made.photos[1], wide[:, 472:])


def test_targets_lie_where_the_codes_of_their_cells_do(tiny):
    settings = train_video_encoder.Settings(clips=6, side=3, chunks=2)
    mosaic = train_video_encoder.Cells(tiny, settings).mosaic(np.random.default_rng(0))
    assert mosaic.shape == (1, 3, 1 + 2 * CHUNK, 3 * CELL, 3 * CELL)
    targets = train_video_encoder.targets(mosaic)
    still = mosaic[0, :, :1, CELL : 2 * CELL, :CELL].expand(-1, CHUNK, -1, -1)
    moving = mosaic[0, :, 1 + CHUNK :, CELL : 2 * CELL, 2 * CELL :]
    assert torch.equal(targets[0, 1, 0], still.flatten()) and torch.equal(targets[2, 1, 2], moving.flatten())


def test_half_of_the_cells_show_a_thing():
    """Things are white here and grounds black, so that a cell tells by itself."""
    plain = Stage(
        ["fox"], np.full((1, THING, THING, 4), 255, np.uint8), [np.zeros((GROUND, GROUND, 3), np.uint8)], [False]
    )
    cells = train_video_encoder.Cells(plain, train_video_encoder.Settings(clips=3))
    for moving in (False, True):
        drawn = cells.draw(moving, 40, np.random.default_rng(0))
        assert drawn.any((1, 2, 3, 4)).mean() == 0.5


def test_the_decoders_training_leaves_the_encoder_alone(tiny):
    """Codes made with it stay valid; the convolutions, which Muon sees as matrices, do move."""
    codec = train_video_codec.FSQVideoCodec(train_video_codec.CONFIG)
    settings = train_video_codec.Settings(batch=1, window=16, short_chunks=1, whole=0.0)
    task = train_video_codec.DecoderTask(tiny, codec, settings, "cpu")
    before = {name: t.clone() for name, t in codec.state_dict().items()}
    loop.one_step(task, loop.RunSettings(warmup_steps=1), loop.Budget(loop.RunSettings()))
    moved = {name for name, t in codec.state_dict().items() if not torch.equal(t, before[name])}
    learned = {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    # Behind a softmax over one frame of codes, and where no value depends on them, some have no gradient.
    assert moved <= learned and {name for name in learned if ".block" in name and "conv3d.weight" in name} <= moved


def test_codes_are_the_same_inside_a_rounded_training():
    codec = mcsjd_core.load(mcsjd_core.EMBEDDED_VIDEO_MODEL).codec
    pixels = torch.rand(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    codes = codec.encode(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(train_video_encoder.codes_of(codec, pixels), codes)


def test_pieces_for_the_decoder_show_the_thing(tiny):
    """The window follows it, wherever the camera is."""
    window, rng = train_video_codec.Settings().window, np.random.default_rng(0)
    white = np.full((1, THING, THING, 4), 255, np.uint8)
    black = Stage(["fox"], white, [np.zeros((GROUND, GROUND, 3), np.uint8)], [False])
    for motion in motion_data.motions():
        clip = motion_data.draw_clip(black, rng, motion)
        for chunks in (2, STEPS):
            piece = train_video_codec.sample(black, clip, chunks, window, rng)
            assert piece.shape == (1 + CHUNK * chunks, window, window, 3)
            shown = (piece[::CHUNK] == 255).mean((1, 2, 3))
            assert motion[0] == "pans" or shown.max() > 0.25


def test_a_stretch_of_codes_is_wrong_behind_the_given_frame_and_asked_for_as_it_is(tiny):
    codec = train_video_encoder.FSQVideoCodec(train_video_encoder.CONFIG).requires_grad_(False)
    sequences = train_video_transformer.Sequences(
        tiny, codec, train_video_transformer.Settings(tokens=960, disturbed=1.0)
    )
    for seed in range(4):
        seen, codes, _ = sequences.batch(np.random.default_rng(seed))
        assert (seen != codes).any() and torch.equal(seen[:, :PER_FRAME], codes[:, :PER_FRAME])


def test_batches_have_one_size_whether_their_clips_are_cut_or_whole(tiny):
    codec = train_video_encoder.FSQVideoCodec(train_video_encoder.CONFIG).requires_grad_(False)
    settings = train_video_transformer.Settings(tokens=960)
    sequences = train_video_transformer.Sequences(tiny, codec, settings)
    shapes = {sequences.batch(np.random.default_rng(seed))[1].shape for seed in range(6)}
    assert shapes == {(5, 3 * PER_FRAME), (3, 5 * PER_FRAME)}


def test_a_code_is_the_sum_of_its_levels_and_itself():
    table = CodeTable((3, 2), 4).requires_grad_(False)
    rows = table()
    assert rows.shape == (6, 4)
    # The first channel is the fastest; its levels come first in the table.
    assert torch.allclose(rows[5], table.of_level[2] + table.of_level[4] + table.own[5])
    assert torch.allclose(rows[1], table.of_level[1] + table.of_level[3] + table.own[1])


def test_no_logit_depends_on_its_own_code_or_later_ones():
    model = VideoModel(NAMES, seed=0).requires_grad_(False)
    codes = torch.randint(4096, (1, 5 * PER_FRAME), generator=torch.Generator().manual_seed(1))
    context = train_video_transformer.video_captions.context(model.encoder, model.tokenizer, ["the fox moves left"])
    place, changed = 3 * PER_FRAME + 9, codes.clone()
    changed[:, place:] = (codes[:, place:] + 1) % 4096
    logits, others = model(codes, context), model(changed, context)
    assert logits.shape == (1, 4 * PER_FRAME, 4096)
    assert torch.equal(logits[:, : place - PER_FRAME + 1], others[:, : place - PER_FRAME + 1])
    assert not torch.equal(logits[:, place - PER_FRAME + 1], others[:, place - PER_FRAME + 1])


def test_the_tokenizer_knows_every_word_of_every_caption(tiny):
    tokenizer = train_video_transformer.video_captions.build_tokenizer(NAMES)
    rng = np.random.default_rng(0)
    clips = [motion_data.draw_clip(tiny, rng, motion) for motion in motion_data.motions() * 20]
    known = [motion_data.caption(tiny, clip, rng) for clip in clips]
    unknown = tokenizer.token_to_id(train_video_transformer.video_captions.UNKNOWN)
    for text in known:
        assert unknown not in tokenizer.encode(text.replace(motion_data.NAMELESS, "fox")).ids
    assert unknown in tokenizer.encode("the zeppelin hops").ids


def test_published_names_are_the_inverse_of_the_familys():
    for name in VideoModel(NAMES, seed=0).tokens.state_dict():
        assert core_name(export_video.published_name(name)) == name


def exported(tiny: Stage, folder) -> tuple[VideoModel, object]:
    """A model of random weights and what the family reads of it, through files in the public layout, in float16."""
    model = VideoModel(NAMES, seed=3).requires_grad_(False)
    codec = train_video_codec.FSQVideoCodec(train_video_codec.CONFIG)
    for part, state in (("transformer", model.state_dict()), ("codec", codec.state_dict())):
        (folder / part).mkdir()
        torch.save({"modules": {"model": state}}, folder / part / "training.pt")
    tiny.save(folder / "stage.npz")
    export_video.export(folder / "stage.npz", folder / "transformer", folder / "codec", folder / "out")
    return model, mcsjd_core.load(folder / "out")


def test_the_family_reads_what_is_exported_and_gives_the_trained_logits(tiny, tmp_path):
    """The text goes through the exported encoder as well."""
    model, family = exported(tiny, tmp_path)
    assert family.clip.frames == FRAMES
    assert len(list((tmp_path / "out" / "start_frames").glob("*.png"))) == len(motion_data.motions())
    caption = "the red apple moves right"
    codes = torch.randint(4096, (1, 5 * PER_FRAME), generator=torch.Generator().manual_seed(2))
    context = train_video_transformer.video_captions.context(model.encoder, model.tokenizer, [caption])
    prompt = family.prompt([caption], None, False)
    assert (prompt.context - context).abs().max() < 2e-2
    tokens = family.token_model
    embeddings = torch.cat((prompt.embeddings, tokens.embed_ids(codes[:, :-1])), 1)
    hidden = tokens.model(embeddings, torch.arange(codes.shape[1])[None], context=prompt.context)
    logits, expected = tokens.lm_head(hidden)[:, PER_FRAME:], model(codes, context)
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_training_starts_from_what_was_exported(tiny, tmp_path):
    """Layers and the text encoder, and of its words those that both know."""
    model, _ = exported(tiny, tmp_path)
    other = VideoModel([*NAMES, "zeppelin"], seed=4)
    train_video_transformer.start_from(other, tmp_path / "out")
    for name, weights in model.tokens.model.layers.state_dict().items():
        assert (other.tokens.model.layers.state_dict()[name] - weights).abs().max() < 1e-3
    ids, others = (m.tokenizer.get_vocab() for m in (model, other))
    rows, other_rows = (m.encoder.shared.weight.detach() for m in (model, other))
    assert all((rows[ids[word]] - other_rows[others[word]]).abs().max() < 5e-3 for word in ("fox", "moves", "left"))
