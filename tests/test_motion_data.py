"""The clips that the small video model is trained on: reproducible, true to their captions, and with codes that move whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny_stage
from mcsjd_core.codecs.fsq_video import FSQVideoCodec
from training import motion_data, video_examples
from training.motion_data import CELL, DIRECTIONS, FRAMES, SIZE, SPEED, STEPS, THING, Clip, Stage
from training.train_video_encoder import CONFIG, cells_of


@pytest.fixture(scope="module")
def stage() -> Stage:
    return tiny_stage.stage()


def every(kind: str, direction: str) -> list[Clip]:
    return [Clip(0, kind, direction, *start, 0, 3, 2, False) for start in motion_data.starts(kind, direction)]


def test_the_same_seed_gives_the_same_clips_captions_and_frames(stage):
    def drawn(seed: int):
        rng = np.random.default_rng(seed)
        clips = [motion_data.draw_clip(stage, rng) for _ in range(20)]
        return clips, [motion_data.caption(stage, clip, rng) for clip in clips]

    assert drawn(5) == drawn(5) and drawn(5) != drawn(6)
    clip = drawn(5)[0][0]
    assert np.array_equal(motion_data.render(stage, clip), motion_data.render(stage, clip))


def test_held_out_ground_is_never_drawn_for_training_and_always_for_measuring(stage):
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        drawn = {motion_data.draw_clip(stage, rng, held_out=held_out).photo for _ in range(100)}
        assert drawn == {number for number, measures in enumerate(stage.held_out) if measures == held_out}


def test_all_kinds_of_motion_are_drawn_by_their_shares(stage):
    rng = np.random.default_rng(0)
    kinds = [motion_data.draw_clip(stage, rng).kind for _ in range(1000)]
    assert sum(motion_data.SHARES.values()) == pytest.approx(1)
    for kind, share in motion_data.SHARES.items():
        assert kinds.count(kind) / 1000 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("kind", "direction"), motion_data.motions())
def test_thing_and_camera_go_where_the_caption_says(kind, direction):
    for clip in every(kind, direction):
        thing, camera = motion_data.paths(clip)
        for path in (thing, camera):
            assert (path[:: FRAMES // STEPS] % CELL == 0).all()  # whole cells after every frame of codes
        assert camera.min() >= 0 and camera.max() <= motion_data.GROUND - SIZE
        assert (thing[0] - camera[0] == (CELL * clip.column, CELL * clip.row)).all()
        toward = SPEED * np.array(DIRECTIONS.get(direction, (0, 0)))
        assert (np.diff(camera, axis=0) == toward * (kind in ("pans", "follows"))).all()
        if kind == "hops":
            assert (thing[4] - thing[0]).tolist() == [0, -CELL] and (thing[0] == thing[-1]).all()
        else:
            assert (np.diff(thing, axis=0) == toward * (kind in ("moves", "follows"))).all()
        if kind != "pans":
            assert (thing - camera).min() >= 0 and (thing - camera).max() <= SIZE - THING


@pytest.mark.parametrize("kind", motion_data.PHRASES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_show_the_thing_over_its_ground(stage, kind, mirrored):
    """By hand from what the camera sees, with a thing that covers half of what is behind it."""
    art = stage.art.copy()
    art[..., 3] = 128
    stage = replace(stage, art=art)
    direction = dict(motion_data.motions())[kind]
    clip = replace(every(kind, direction)[0], thing=1, mirrored=mirrored)
    ground = stage.photos[0][2 : 2 + motion_data.GROUND, 3 : 3 + motion_data.GROUND]
    ground = ground[:, ::-1] if mirrored else ground
    frames, shown = motion_data.render(stage, clip), motion_data.silhouette(stage, clip)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.dtype == np.uint8
    for frame, seen, thing, camera in zip(frames, shown, *motion_data.paths(clip), strict=True):
        for y, x in [(0, 0), (13, 40), (40, 13), (33, 33), (63, 63)]:
            expected = ground[camera[1] + y, camera[0] + x].astype(float)
            column, row = np.array((x, y)) + camera - thing
            on_thing = 0 <= column < THING and 0 <= row < THING
            if on_thing:
                expected = (art[1, row, column, :3].astype(float) * 128 + expected * 127) / 255
            assert seen[y, x] == on_thing and np.abs(frame[y, x] - expected).max() <= 0.51


def codes_of(stage: Stage, clip: Clip) -> torch.Tensor:
    """[STEPS + 1, rows, columns] by an encoder of random weights."""
    torch.manual_seed(0)
    codec = FSQVideoCodec(CONFIG).requires_grad_(False)
    torch.nn.init.normal_(codec.quant_conv.conv3d.weight, std=3.0)
    frames = torch.from_numpy(motion_data.render(stage, clip)).permute(3, 0, 1, 2)[None].float() / 255
    return codec.encode(frames)[0]


def test_codes_of_what_the_camera_pans_over_move_by_one_cell(stage):
    """The reason for a local encoder and speeds in whole cells: the next frame is a shift of this one, and new ground."""
    codes = codes_of(stage, every("pans", "down")[0])
    assert codes.shape == (STEPS + 1, SIZE // CELL, SIZE // CELL) and len(codes.unique()) > 4
    for step in range(2, STEPS + 1):
        assert torch.equal(codes[step, :-1], codes[step - 1, 1:])
        assert not torch.equal(codes[step, -1], codes[step - 1, -1])


def test_codes_of_what_stands_stay(stage):
    codes = codes_of(stage, every("stands", "")[0])
    assert all(torch.equal(codes[step], codes[0]) for step in range(1, STEPS + 1))


def test_cells_are_cut_as_the_codec_sees_them(stage):
    frames = motion_data.render(stage, every("hops", "")[0])
    first, later = cells_of(frames)
    side = SIZE // CELL
    assert first.shape == (side**2, 1, CELL, CELL, 3) and later.shape == (STEPS * side**2, 4, CELL, CELL, 3)
    assert np.array_equal(first[side * 2 + 3, 0], frames[0, 16:24, 24:32])
    assert np.array_equal(later[side * side + side * 3 + 4], frames[5:9, 24:32, 32:40])


def test_captions_name_thing_and_motion(stage):
    rng = np.random.default_rng(0)
    clip = every("pans", "left")[0]
    assert motion_data.caption(stage, clip) == "the camera pans left past the red apple"
    texts = [motion_data.caption(stage, clip, rng) for _ in range(1000)]
    assert set(texts) == {f"the camera pans left{rest}" for rest in ("", " past the red apple", " past the thing")}


def test_examples_have_every_motion_and_different_things(stage):
    examples = video_examples.held_out(stage, 12)
    assert [(e.clip.kind, e.clip.direction) for e in examples] == motion_data.motions()
    assert len({e.clip.thing for e in examples}) == 12 and all(stage.held_out[e.clip.photo] for e in examples)


def test_a_saved_stage_is_read_back(stage, tmp_path):
    stage.save(tmp_path / "stage.npz")
    again = Stage.load(tmp_path / "stage.npz")
    assert (again.names, again.held_out) == (stage.names, stage.held_out) and np.array_equal(again.art, stage.art)
    assert all(np.array_equal(a, b) for a, b in zip(again.photos, stage.photos, strict=True))
