"""The recipe of the small video model: what its trainings see, and that the family reads what its export writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers has the text encoder")

import mcsjd_core
from mcsjd_core.families.cosmos import core_name
from training import export_video, motion_data, train_video_codec, train_video_encoder, train_video_transformer
from training.motion_data import CELL, CHUNK, FRAMES, SPRITE, Sprites
from training.train_video_transformer import PER_FRAME, VideoModel

NAMES = ["red apple", "fox", *(f"glyph {number}" for number in range(14))]


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    art = np.random.default_rng(0).integers(256, size=(len(NAMES), 2 * FRAMES - 1, SPRITE, SPRITE, 4)).astype(np.uint8)
    art[..., 3] = 0
    art[:, :, 8:-8, 8:-8, 3] = 255
    return Sprites(NAMES, art)


def test_targets_lie_where_the_codes_of_their_cells_do(sprites):
    settings = train_video_encoder.Settings(clips=6, side=3, chunks=2)
    mosaic = train_video_encoder.Cells(sprites, settings).mosaic(np.random.default_rng(0))
    assert mosaic.shape == (1, 3, 1 + 2 * CHUNK, 3 * CELL, 3 * CELL)
    targets = train_video_encoder.targets(mosaic)
    still = mosaic[0, :, :1, CELL : 2 * CELL, :CELL].expand(-1, CHUNK, -1, -1)
    moving = mosaic[0, :, 1 + CHUNK :, CELL : 2 * CELL, 2 * CELL :]
    assert torch.equal(targets[0, 1, 0], still.flatten()) and torch.equal(targets[2, 1, 2], moving.flatten())


def test_the_decoders_optimiser_moves_the_kernels_themselves():
    """Muon sees them as matrices; those have to be the same numbers, also after a checkpoint was read."""
    model = train_video_codec.FSQVideoCodec(train_video_codec.CONFIG)
    optimizer = train_video_codec.DecoderOptimizer(model, train_video_codec.Settings())
    model.load_state_dict({name: torch.randn_like(t) * 0.1 for name, t in model.state_dict().items()})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    video = torch.rand(1, 3, 1 + CHUNK, 16, 16, generator=torch.Generator().manual_seed(0))
    train_video_codec.decoder_loss(model, video).backward()
    optimizer.step(1.0)
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    learned = {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    # Behind a softmax over one frame of codes, and where no value depends on them, some have no gradient.
    assert moved <= learned and {name for name in learned if ".block" in name and "conv3d.weight" in name} <= moved


def test_replaced_codes_lie_behind_the_given_frame_and_are_asked_for_as_they_are():
    sequences = object.__new__(train_video_transformer.Sequences)
    sequences.settings = train_video_transformer.Settings()
    codes = torch.arange(8 * 5 * PER_FRAME).view(8, -1) % 4096
    seen = sequences.disturb(codes, np.random.default_rng(0))
    wrong = seen != codes
    assert not wrong[:, :PER_FRAME].any() and not wrong[4:].any() and wrong[:4].any(1).sum() > 1
    places = [row.nonzero().flatten() for row in wrong[:4] if row.any()]
    assert all(place[-1] - place[0] < sequences.settings.longest for place in places)


def test_no_logit_depends_on_its_own_code_or_later_ones():
    model = VideoModel(NAMES, seed=0).requires_grad_(False)
    codes = torch.randint(4096, (1, 5 * PER_FRAME), generator=torch.Generator().manual_seed(1))
    context = train_video_transformer.video_captions.context(model.encoder, model.tokenizer, ["the fox turns left"])
    place, changed = 3 * PER_FRAME + 9, codes.clone()
    changed[:, place:] = (codes[:, place:] + 1) % 4096
    logits, others = model(codes, context), model(changed, context)
    assert logits.shape == (1, 4 * PER_FRAME, 4096)
    assert torch.equal(logits[:, : place - PER_FRAME + 1], others[:, : place - PER_FRAME + 1])
    assert not torch.equal(logits[:, place - PER_FRAME + 1], others[:, place - PER_FRAME + 1])


def test_published_names_are_the_inverse_of_the_familys():
    for name in VideoModel(NAMES, seed=0).tokens.state_dict():
        assert core_name(export_video.published_name(name)) == name


def test_the_family_reads_what_is_exported_and_gives_the_trained_logits(sprites, tmp_path):
    """Through files in the public layout, float16 in between; the text goes through the exported encoder as well."""
    model = VideoModel(NAMES, seed=3).requires_grad_(False).half().float()
    codec = train_video_codec.FSQVideoCodec(train_video_codec.CONFIG)
    for part, state in (("transformer", model.state_dict()), ("codec", codec.state_dict())):
        (tmp_path / part).mkdir()
        torch.save({"model": state}, tmp_path / part / "training.pt")
    sprites.save(tmp_path / "sprites.npz")
    export_video.export(tmp_path / "sprites.npz", tmp_path / "transformer", tmp_path / "codec", tmp_path / "out")
    family = mcsjd_core.load(tmp_path / "out")
    assert family.clip.frames == FRAMES and len(list((tmp_path / "out" / "start_frames").glob("*.png"))) == len(
        motion_data.motions()
    )
    caption = "the red apple moves right"
    codes = torch.randint(4096, (1, 5 * PER_FRAME), generator=torch.Generator().manual_seed(2))
    context = train_video_transformer.video_captions.context(model.encoder, model.tokenizer, [caption])
    prompt = family.prompt([caption], None, False)
    assert (prompt.context - context).abs().max() < 1e-5
    tokens = family.token_model
    embeddings = torch.cat((prompt.embeddings, tokens.embed_ids(codes[:, :-1])), 1)
    hidden = tokens.model(embeddings, torch.arange(codes.shape[1])[None], context=prompt.context)
    assert (tokens.lm_head(hidden)[:, PER_FRAME:] - model(codes, context)).abs().max() < 1e-4
