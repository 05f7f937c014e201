"""Videos in ComfyUI: start frames in, frames and a video out, with a tiny model of the Cosmos family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

import tiny_cosmos
from comfy_host import draw, loaded, sentence
from test_node_memory import LiveBytes

SIZE = (tiny_cosmos.COLUMNS * 16, tiny_cosmos.ROWS * 16)  # width, height
FRAMES = 1 + (tiny_cosmos.FRAMES - 1) * 8
FRAME_TOKENS = tiny_cosmos.ROWS * tiny_cosmos.COLUMNS


@pytest.fixture(scope="module")
def video_checkpoint(tmp_path_factory):
    return tiny_cosmos.write_checkpoint(tmp_path_factory.mktemp("video") / "cosmos", reads_text=False, frame_rate=12.5)


@pytest.fixture(scope="module")
def video_model(pack, video_checkpoint):
    """A model that continues videos of 1 or 9 frames and reads no text."""
    return loaded(pack, video_checkpoint, "fp32")


def clip(frames: int, seed: int = 0) -> torch.Tensor:
    """IMAGE [frames, 50, 70, 3] of noise."""
    return torch.rand(frames, 50, 70, 3, generator=torch.Generator().manual_seed(seed))


def film(pack, model, **changes) -> tuple:
    return draw(pack, model, **{"prompt": "", "cfg": 1.0, "start_frames": clip(1)} | changes)


def test_the_start_stays_and_the_rest_is_drawn(pack, video_model):
    tokens, stats = film(pack, video_model, start_frames=clip(9))
    frames = pack.core.start_codes(video_model.family, clip(9).movedim(-1, 1))
    assert tokens.tokens[:, : 2 * FRAME_TOKENS].equal(frames.flatten(1))
    assert tokens.tokens.shape == (1, tiny_cosmos.FRAMES * FRAME_TOKENS)
    assert stats.traces[0].num_tokens == FRAME_TOKENS
    (image,) = pack.run("MCSJD_Decode", model=video_model, tokens=tokens)
    expected = pack.core.videos(video_model.family, tokens.tokens)[0].movedim(1, -1)
    assert image.shape == (FRAMES, SIZE[1], SIZE[0], 3)
    torch.testing.assert_close(image, expected)


def test_of_a_longer_clip_the_last_frames_count(pack, video_model, monkeypatch):
    long, codec, read = clip(12), video_model.family.codec, []
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda pixels: read.append(pixels) or encode(pixels))
    drawn = [film(pack, video_model, start_frames=part)[0].tokens for part in (long, long[-9:], long[:9])]
    assert drawn[0].equal(drawn[1])
    assert read[0].equal(read[1]) and not read[0].equal(read[2])


@pytest.mark.parametrize(
    ("given", "told"),
    [(1, None), (2, "of 2 given frames the last one is used"), (8, "of 8 given frames the last one is used"), (9, None),
     (12, "of 12 given frames the last 9 are used")],
)  # fmt: skip
def test_the_report_says_which_of_the_given_frames_count(pack, video_model, given, told):
    report = film(pack, video_model, start_frames=clip(given))[1].text()
    assert ("given frames" in report) == (told is not None)
    assert told is None or f"start: {told}: this model continues 1 or 9 frames" in report


EXACT = {"coupling": "seed-exact (Gumbel)", "window": 7, "top_p": 0.9, "seed": 3}


def test_samplers_in_a_row_draw_one_long_video(pack, video_model, clips):
    """Part by part what the core draws in one go, joined without the frames that two parts share."""
    tokens, stats = None, []
    for frames in (0, 0, 17):
        start = {"start_frames": clip(1)} if tokens is None else {"start_frames": None, "continue_video": tokens}
        tokens, cost = film(pack, video_model, frames=frames, **EXACT, **start)
        stats.append(cost)
    long_video, family = pack.part("mcsjd_core.pipeline.long_video"), video_model.family
    first = pack.core.start_codes(family, clip(1).movedim(-1, 1))
    parts = list(long_video.sample_long(family, [""], stats[0].settings, 33, first_codes=first))
    whole = torch.cat([frames for frames, _ in parts], 1)[0].movedim(1, -1)
    frames, video, _ = pack.run("MCSJD_DecodeVideo", model=video_model, tokens=tokens)
    assert len(frames) == 33 == len(video["images"])
    torch.testing.assert_close(frames, whole)
    (again,) = pack.run("MCSJD_Decode", model=video_model, tokens=tokens)
    assert again.equal(frames) and [cost.settings.part for cost in stats] == [0, 1, 2]
    assert "start: the last 9 frames of the video that this one continues" in stats[2].text()
    # The map of a part is over its own frames: the last 17.
    charts = pack.part("mcsjd_core.reporting.charts")
    alone = charts.acceptance_map(replace(stats[2], skipped_frames=0), frames[-17:])
    assert len(alone) == 17 and charts.acceptance_map(stats[2], frames).equal(alone)


def test_one_video_may_have_several_continuations(pack, video_model, clips):
    first, _ = film(pack, video_model)
    more, _ = film(pack, video_model, start_frames=None, continue_video=first, batch_size=2)
    frames = pack.run("MCSJD_DecodeVideo", model=video_model, tokens=more)[0].unflatten(0, (2, -1))
    assert frames.shape[1] == 25 and frames[0, :17].equal(frames[1, :17]) and not frames[0].equal(frames[1])
    both, _ = film(pack, video_model, batch_size=2)
    more, _ = film(pack, video_model, start_frames=None, continue_video=both, batch_size=2)
    frames = pack.run("MCSJD_Decode", model=video_model, tokens=more)[0].unflatten(0, (2, -1))
    start = pack.run("MCSJD_Decode", model=video_model, tokens=both)[0].unflatten(0, (2, -1))
    assert frames[:, :17].equal(start) and not start[0].equal(start[1])


def test_a_continuation_that_is_redrawn_in_part_remains_one(pack, video_model, clips):
    """It takes the length of what it redraws, and random numbers of its own part."""
    first, _ = film(pack, video_model, frames=9)
    more, _ = film(pack, video_model, start_frames=None, continue_video=first)
    mask = torch.zeros(1, SIZE[1], SIZE[0])
    mask[:, :, : SIZE[0] // 2] = 1
    changes = {"start_frames": None, "picture_tokens": more, "redraw_mask": mask, "seed": 5}
    again, cost = film(pack, video_model, **changes)
    assert cost.settings.part == 1 and cost.skipped_frames == 0
    frames, before = (pack.run("MCSJD_DecodeVideo", model=video_model, tokens=each)[0] for each in (again, more))
    assert len(frames) == len(before) == 17 and frames[:9].equal(before[:9]) and not frames.equal(before)
    given = 2 * FRAME_TOKENS
    assert again.tokens[:, :given].equal(more.tokens[:, :given]) and not again.tokens.equal(more.tokens)
    short, _ = film(pack, video_model, frames=9, **EXACT)
    assert film(pack, video_model, **EXACT, warm_tokens=short, initialiser="warm")[0].tokens.equal(short.tokens)


LEFT_HALF = torch.zeros(1, SIZE[1], SIZE[0])
LEFT_HALF[:, :, : SIZE[0] // 2] = 1


@pytest.mark.parametrize("start", [1, 9])
def test_the_frames_that_a_video_starts_from_are_not_redrawn(pack, video_model, clips, start):
    tokens, _ = film(pack, video_model, start_frames=clip(start))
    again, _ = film(pack, video_model, start_frames=None, picture_tokens=tokens, redraw_mask=LEFT_HALF, seed=5)
    given = (1 + start // 8) * FRAME_TOKENS
    assert again.tokens[:, :given].equal(tokens.tokens[:, :given]) and not again.tokens.equal(tokens.tokens)
    (frames,) = pack.run("MCSJD_Decode", model=video_model, tokens=again)
    assert len(frames) == FRAMES


def test_the_end_of_a_continuation_may_be_drawn_anew(pack, video_model, clips):
    first, _ = film(pack, video_model, frames=9)
    more, _ = film(pack, video_model, start_frames=None, continue_video=first)
    rows = 2 * tiny_cosmos.ROWS + 1
    upper = pack.run("MCSJD_CropTokens", tokens=more, rows=rows)[0]
    again, cost = film(pack, video_model, start_frames=None, first_tokens=upper, seed=5)
    assert cost.settings.part == 1 and again.before is first and again.given == 9
    frames = pack.run("MCSJD_DecodeVideo", model=video_model, tokens=again)[0]
    assert len(frames) == FRAMES and not again.tokens.equal(more.tokens)
    short = pack.run("MCSJD_CropTokens", tokens=more, rows=tiny_cosmos.ROWS + 1)[0]
    with pytest.raises(pack.core.InputError, match=f"keep at least {2 * tiny_cosmos.ROWS} rows in Crop Tokens"):
        film(pack, video_model, start_frames=None, first_tokens=short)


@pytest.mark.parametrize("name", ["start_frames", "continue_video", "first_tokens"])
def test_what_does_not_go_with_a_video_to_redraw_is_named(pack, video_model, name):
    tokens, _ = film(pack, video_model)
    value = {"start_frames": clip(1), "continue_video": tokens}.get(name, tokens.crop(2))
    changes = {"start_frames": None, name: value, "picture_tokens": tokens, "redraw_mask": LEFT_HALF}
    with pytest.raises(pack.core.InputError, match=f"disconnect {name}"):
        film(pack, video_model, **changes)


@pytest.mark.parametrize("kind", ["batch", "both", "room", "cropped", "picture"])
def test_a_continuation_that_cannot_be_is_told_in_a_sentence(pack, model, video_model, kind):
    tokens, _ = film(pack, video_model, batch_size=2)
    given = {"start_frames": None, "continue_video": tokens, "batch_size": 2}
    cropped = pack.run("MCSJD_CropTokens", tokens=tokens, rows=2)[0]
    faults = {
        "batch": lambda: film(pack, video_model, **given | {"batch_size": 3}),
        "both": lambda: film(pack, video_model, **given | {"start_frames": clip(1)}),
        "room": lambda: film(pack, video_model, **given, frames=9),
        "cropped": lambda: film(pack, video_model, **given | {"continue_video": cropped}),
        "picture": lambda: draw(pack, model, continue_video=draw(pack, model)[0]),
    }
    words = {"batch": "holds 2 videos", "both": "start_frames and continue_video", "room": "leave none to draw",
             "cropped": "cropped to", "picture": "draws pictures"}  # fmt: skip
    with pytest.raises(pack.core.InputError) as error:
        faults[kind]()
    assert words[kind] in sentence(error)


def test_fewer_frames_are_the_beginning_of_more_with_seed_exact(pack, video_model):
    short, long = (
        film(pack, video_model, frames=frames, coupling="seed-exact (Gumbel)")[0].tokens for frames in (9, 0)
    )
    assert short.shape[1] == 2 * FRAME_TOKENS and long[:, : short.shape[1]].equal(short)


def test_the_video_has_the_model_s_frame_rate(pack, video_model, clips):
    tokens, _ = film(pack, video_model, batch_size=2)
    frames, video, rate = pack.run("MCSJD_DecodeVideo", model=video_model, tokens=tokens)
    assert rate == 12.5 and video is clips[0] and video["frame_rate"] == 12.5
    assert frames.shape[0] == 2 * FRAMES and video["images"] is frames
    second = pack.core.videos(video_model.family, tokens.tokens[1:])[0].movedim(1, -1)
    torch.testing.assert_close(frames[FRAMES:], second)
    assert pack.run("MCSJD_DecodeVideo", model=video_model, tokens=tokens, frame_rate=24.0)[2] == 24.0


def test_previews_show_every_video_s_newest_frame(pack, video_model, monkeypatch):
    shown = []
    progress = pack.part("nodes.progress")
    monkeypatch.setattr(progress.Budget, "rows", lambda self, wanted, is_last=False: wanted)
    update = progress.Progress.update
    monkeypatch.setattr(
        progress.Progress, "update", lambda self, done, picture=None: (shown.append(picture), update(self, done))
    )
    film(pack, video_model, batch_size=2)
    assert shown and all(picture.size == (2 * SIZE[0], SIZE[1]) for picture in shown if picture is not None)
    assert sum(picture is not None for picture in shown) > 1


def test_stats_tell_code_frames_apart(pack, video_model):
    tokens, stats = film(pack, video_model, batch_size=2)
    by_frame = stats.compression_by_frame()
    assert [number for number, _ in by_frame] == [2, 3]
    # Forwards add up over the frames to the NFE of the picture.
    analysis = pack.part("mcsjd_core.reporting.analysis")
    for trace in stats.traces:
        each = analysis.compression_by_frame(trace, stats.grid, stats.kept_codes[0])
        assert each[0].isnan()
        assert (FRAME_TOKENS / each[1:]).sum().item() == pytest.approx(trace.nfe)
    (image,) = pack.run("MCSJD_Decode", model=video_model, tokens=tokens)
    report, drawn, overlay, *_ = pack.run("MCSJD_Stats", stats=stats, image=image)
    assert f"step compression by code frame: 2: {by_frame[0][1]:.1f}, 3: {by_frame[1][1]:.1f}" in report
    assert len(drawn) == 2 and overlay.shape[0] == 2 * FRAMES


def test_the_map_gives_every_frame_the_colours_of_its_code_frame(pack, video_model):
    _, stats = film(pack, video_model)
    flat = torch.full((FRAMES, SIZE[1], SIZE[0], 3), 0.5)
    overlay = pack.part("mcsjd_core.reporting.charts").acceptance_map(stats, flat)
    assert overlay[1].equal(overlay[8]) and overlay[9].equal(overlay[16]) and not overlay[8].equal(overlay[0])
    assert len(pack.part("mcsjd_core.reporting.charts").acceptance_map(stats)) == tiny_cosmos.FRAMES


def test_memory_asked_for_covers_a_video(pack, video_model, monkeypatch):
    import comfy.model_management as mm

    asked = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, memory_required, **_: asked.append(memory_required))
    with LiveBytes() as live:
        tokens, _ = film(pack, video_model, live_preview=False)
    assert live.peak <= max(asked) < 8 * live.peak
    with LiveBytes() as live:
        pack.run("MCSJD_Decode", model=video_model, tokens=tokens)
    assert live.peak <= asked[-1] < 8 * live.peak


def test_the_loader_needs_no_text_encoder(pack, model_folder):
    tiny_cosmos.write_checkpoint(model_folder / "world", reads_text=True)
    (model_folder / "world" / "t5" / "tokenizer.json").unlink()
    for dtype in ("fp32", "fp8 weights"):
        model = pack.run("MCSJD_LoadModel", model="world", dtype=dtype)[0]
        assert "one video with guidance" in pack.runtime.describe(model)


def test_the_loader_says_what_a_video_is(pack, video_model):
    text = pack.runtime.describe(video_model)
    assert f"videos of {FRAMES} frames at 12.5 per second, continued from 1 or 9 frames" in text


@pytest.mark.parametrize("kind", ["none", "few", "frames", "both", "encode", "crop", "length", "slow", "back"])
def test_what_does_not_fit_is_told_in_a_sentence(pack, video_model, kind):
    tokens, _ = film(pack, video_model)
    faults = {
        "none": lambda: film(pack, video_model, start_frames=None),
        "few": lambda: film(pack, video_model, start_frames=clip(1)[:0]),
        "frames": lambda: film(pack, video_model, frames=10),
        "both": lambda: film(pack, video_model, first_tokens=pack.run("MCSJD_CropTokens", tokens=tokens, rows=2)[0]),
        "encode": lambda: pack.run("MCSJD_Encode", model=video_model, image=clip(1)),
        "crop": lambda: pack.run("MCSJD_CropTokens", tokens=tokens, rows=99),
        "length": lambda: film(pack, video_model, frames=9, **EXACT, initialiser="warm", warm_tokens=tokens),
        "slow": lambda: pack.run("MCSJD_DecodeVideo", model=video_model, tokens=tokens, frame_rate=0.0004),
        "back": lambda: pack.run("MCSJD_DecodeVideo", model=video_model, tokens=tokens, frame_rate=-5.0),
    }
    words = {
        "length": f"warm_tokens hold a video of {FRAMES} frames",
        "slow": "frame_rate must",
        "back": "frame_rate must",
    }
    with pytest.raises(pack.core.InputError) as error:
        faults[kind]()
    assert words.get(kind, "") in sentence(error)
    assert film(pack, video_model)[0].tokens.equal(tokens.tokens)


@pytest.mark.parametrize("name", ["start_frames", "frames", "text_encoder"])
def test_models_of_pictures_have_no_use_for_a_video_s_inputs(pack, model, name):
    changes = {name: {"start_frames": clip(1), "frames": 9, "text_encoder": Encoder()}[name]}
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, **changes)
    sentence(error)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_DecodeVideo", model=model, tokens=draw(pack, model)[0])
    assert "MC-SJD Decode" in sentence(error)


class Encoder:
    """A stand-in for ComfyUI's CLIP object: states that depend on the text."""

    def __init__(self):
        self.seen = []

    def tokenize(self, text: str) -> str:
        self.seen.append(text)
        return text

    def encode_from_tokens(self, tokens: str) -> torch.Tensor:
        return torch.full((1, 3, tiny_cosmos.CONTEXT_DIM), float(len(tokens)))


def test_a_text_encoder_of_comfyui_replaces_the_model_s_own(pack, model_folder):
    tiny_cosmos.write_checkpoint(model_folder / "world", reads_text=True)
    model = pack.run("MCSJD_LoadModel", model="world", dtype="fp32")[0]
    encoder = Encoder()
    texts = {"prompt": "the ball", "cfg": 3.0}
    drawn = [film(pack, model, **texts | extra)[0].tokens for extra in ({"text_encoder": encoder}, {})]
    assert set(encoder.seen) == {"the ball", ""} and not drawn[0].equal(drawn[1])


@pytest.fixture
def example_frames(pack, tmp_path, monkeypatch):
    """The folder of example frames, with one in it."""
    monkeypatch.setattr(pack.core, "EMBEDDED_VIDEO_MODEL", tmp_path / "mover")
    folder = tmp_path / "mover" / "start_frames"
    folder.mkdir(parents=True)
    Image.new("RGB", (6, 4), (255, 0, 51)).save(folder / "the_ball_moves_left.png")
    return folder


def test_an_example_frame_is_an_image(pack, example_frames):
    (entry,) = pack.nodes["MCSJD_ExampleFrame"].define_schema().inputs
    assert entry.options == ["the ball moves left"] == [entry.default]
    (image,) = pack.run("MCSJD_ExampleFrame", frame=entry.default)
    assert image.shape == (1, 4, 6, 3) and image.dtype == torch.float32
    torch.testing.assert_close(image[0, 3, 5], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("name", ["../mover/start_frames/the ball moves left", "the moon", "broken"])
def test_an_example_frame_that_is_not_there_is_one_sentence(pack, example_frames, name):
    (example_frames / "broken.png").write_bytes(b"no picture")
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_ExampleFrame", frame=name)
    sentence(error)


def test_the_menu_of_example_frames_is_never_empty(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.core, "EMBEDDED_VIDEO_MODEL", tmp_path / "nowhere")
    (entry,) = pack.nodes["MCSJD_ExampleFrame"].define_schema().inputs
    assert entry.options == [entry.default]
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_ExampleFrame", frame=entry.default)
    assert "Load Image" in sentence(error)
