"""The clips that the small video model is trained on: reproducible, true to their captions, and with codes that move whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcsjd_core.codecs.fsq_video import FSQVideoCodec
from training import motion_data
from training.motion_data import (
    BACKGROUNDS,
    CELL,
    DIRECTIONS,
    FRAMES,
    GLYPH,
    LAST_CELL,
    SIZE,
    SPRITE,
    STEPS,
    Clip,
    Drawer,
    Sprites,
)
from training.train_video_encoder import CONFIG, cells_of


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Three glyphs of noise inside a glyph's box, each turned by nothing: enough to see where they are."""
    rng = np.random.default_rng(0)
    art = np.zeros((3, 2 * FRAMES - 1, SPRITE, SPRITE, 4), np.uint8)
    margin = (SPRITE - GLYPH) // 2
    art[:, :, margin:-margin, margin:-margin] = rng.integers(256, size=(3, 1, GLYPH, GLYPH, 4))
    return Sprites(["red apple", "fox", "star"], art)


def every(kind: str, direction: str, background: int = 0) -> list[Clip]:
    return [Clip(0, kind, direction, *start, background) for start in motion_data.starts(kind, direction)]


def test_the_same_seed_gives_the_same_clips_captions_and_frames(sprites):
    def drawn(seed: int):
        rng = np.random.default_rng(seed)
        clips = Drawer(3, 0).draw(20, rng)
        return clips, [motion_data.caption(clip, sprites.names, rng) for clip in clips]

    assert drawn(5) == drawn(5) and drawn(5) != drawn(6)
    for clip in drawn(5)[0][:3]:
        assert np.array_equal(motion_data.render(sprites, clip), motion_data.render(sprites, clip))


def test_held_out_clips_are_never_drawn():
    drawer = Drawer(3, 0)
    assert set(drawer.held_out).isdisjoint(drawer.train)
    assert sorted(map(repr, drawer.held_out + drawer.train)) == sorted(map(repr, motion_data.all_clips(3)))
    assert 0.02 < len(drawer.held_out) / len(motion_data.all_clips(3)) < 0.06
    assert set(drawer.draw(500, np.random.default_rng(0))) <= set(drawer.train)


@pytest.mark.parametrize(("kind", "direction"), motion_data.motions())
def test_a_glyph_goes_where_its_caption_says_and_stays_in_the_picture(sprites, kind, direction):
    for clip in every(kind, direction):
        corners, angles = motion_data.path(clip)
        assert corners.min() >= 0 and corners.max() <= SIZE - GLYPH
        assert (corners[:: FRAMES // STEPS] % CELL == 0).all()  # whole cells after every frame of codes
        assert (corners[0] == (clip.column * CELL, clip.row * CELL)).all()
        steps = np.diff(corners, axis=0)
        if kind == "turns":
            assert (steps == 0).all() and (np.diff(angles) == (1 if direction == "left" else -1)).all()
            continue
        assert (angles == 0).all()
        if kind == "stands":
            assert (steps == 0).all()
        elif kind == "hops":
            assert steps[0].tolist() == [0, -2] and (corners[0] == corners[-1]).all()
        else:
            toward = 2 * np.array(DIRECTIONS[direction])
            assert (steps[0] == toward).all()
            turned = (steps == -toward).all(1)
            assert ((steps == toward).all(1) | turned).all() and turned.any() == (kind == "bounces")
            if kind == "bounces":
                meets_wall = corners[: turned.argmax() + 1]
                assert meets_wall.min() == 0 or meets_wall.max() == LAST_CELL * CELL


def test_frames_show_the_glyph_on_its_background(sprites):
    for number, (above, below) in enumerate(BACKGROUNDS):
        clip = Clip(1, "moves", "right", 0, 2, number)
        frames = motion_data.render(sprites, clip)
        assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.dtype == np.uint8
        assert (frames[:, : 2 * CELL] == above).all() and (frames[:, 6 * CELL :] == below).all()
        art = sprites.art[1, FRAMES - 1, 8:-8, 8:-8].astype(int)
        for frame, (x, y) in zip(frames, motion_data.path(clip)[0], strict=True):
            box = np.asarray([above if row < motion_data.HORIZON else below for row in range(y, y + GLYPH)])[:, None]
            expected = art[..., :3] * (art[..., 3:] / 255) + box * (1 - art[..., 3:] / 255)
            assert np.abs(frame[y : y + GLYPH, x : x + GLYPH] - expected).max() <= 0.51


def test_codes_of_what_moves_move_by_one_cell(sprites):
    """The reason for a local encoder, speeds in whole cells and flat backgrounds: the next frame is a shift of this one."""
    torch.manual_seed(0)
    codec = FSQVideoCodec(CONFIG).requires_grad_(False)
    torch.nn.init.normal_(codec.quant_conv.conv3d.weight, std=3.0)
    frames = motion_data.render(sprites, Clip(2, "moves", "down", 1, 0, 1))
    codes = codec.encode(torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 255)[0]
    assert codes.shape == (STEPS + 1, SIZE // CELL, SIZE // CELL) and len(codes.unique()) > 4
    for step in range(2, STEPS + 1):
        assert torch.equal(codes[step, 1:], codes[step - 1, :-1])
    assert len(codes[:, :, -1].unique()) == 1  # plain cells have one code, still or not


def test_cells_are_cut_as_the_codec_sees_them(sprites):
    frames = motion_data.render(sprites, Clip(0, "hops", "", 2, 2, 0))
    first, later = cells_of(frames)
    side = SIZE // CELL
    assert first.shape == (side**2, 1, CELL, CELL, 3) and later.shape == (STEPS * side**2, 4, CELL, CELL, 3)
    assert np.array_equal(first[side * 2 + 3, 0], frames[0, 16:24, 24:32])
    assert np.array_equal(later[side * side + side * 3 + 4], frames[5:9, 24:32, 32:40])


def test_captions_name_the_motion_and_leave_open_little(sprites):
    rng = np.random.default_rng(0)
    texts = [motion_data.caption(Clip(0, "turns", "left", 0, 0, 0), sprites.names, rng) for _ in range(2000)]
    verbs = {verb for text in texts for verb in motion_data.VERBS["turns"] if verb in text.split()}
    assert verbs == set(motion_data.VERBS["turns"])
    assert 0.4 < np.mean(["red apple" in text for text in texts]) < 0.5
    assert 0.93 < np.mean([text.endswith("left") for text in texts]) < 0.97
    assert any("the thing" in text for text in texts)
