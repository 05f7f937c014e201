"""Videos on the command line: frames in from files, MP4 and animated WebP out, read back by the libraries themselves."""

from __future__ import annotations

import contextlib
import json
import weakref

import pytest
import torch
from PIL import Image

import tiny_cosmos
from mcsjd_core import InputError
from mcsjd_core.cli import FAILED, main, several_gpus
from mcsjd_core.pipeline import clip_files, image_files

WIDTH, HEIGHT = tiny_cosmos.COLUMNS * 16, tiny_cosmos.ROWS * 16
FRAMES = 1 + (tiny_cosmos.FRAMES - 1) * 8
FRAME_TOKENS = tiny_cosmos.ROWS * tiny_cosmos.COLUMNS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_cosmos.write_checkpoint(tmp_path_factory.mktemp("world") / "tiny", reads_text=False, frame_rate=12.5)


@pytest.fixture
def cli(world, tmp_path, monkeypatch):
    """Runs `generate` in tmp_path with a tiny model of video; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        colour = (20 * number, 255 - 20 * number, 90)
        Image.new("RGB", (70, 50), colour).save(f"{number}.png")
    return lambda *argv: main(["generate", "", *map(str, argv), "--cfg", "1", "--model", str(world), "--quiet"])


def test_a_webp_has_every_frame_and_the_rate(cli, tmp_path):
    assert cli("--start-frames", "0.png") == 0
    with Image.open(tmp_path / "video.webp") as video:
        assert (video.n_frames, video.size, video.info["loop"]) == (FRAMES, (WIDTH, HEIGHT), 0)
        video.load()
        assert video.info["duration"] == 80


def test_an_mp4_has_every_frame_and_the_rate(cli, tmp_path):
    av = pytest.importorskip("av")
    assert cli("--start-frames", "0.png", "--out", "new/v.mp4", "--batch", 2) == 0
    for name in ("v-1.mp4", "v-2.mp4"):
        with av.open(str(tmp_path / "new" / name)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == 12.5 and (stream.width, stream.height) == (WIDTH, HEIGHT)
            assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_frames_come_from_pictures_a_folder_an_animation_or_a_video(cli, tmp_path):
    pytest.importorskip("av")
    files = [tmp_path / f"{number}.png" for number in range(9)]
    frames, count = clip_files.read_clip(files, 9)
    assert count == 9 and frames.shape == (9, 3, 50, 70) and frames[3, 0].mean().item() == pytest.approx(60 / 255)
    assert clip_files.read_clip([tmp_path], 9)[0].equal(frames)
    for name, tolerance in (("clip.webp", 0.03), ("clip.mp4", 0.06)):  # both lose a little
        clip_files.write_clip(tmp_path / name, frames, 25)
        torch.testing.assert_close(clip_files.read_clip([tmp_path / name], 9)[0], frames, atol=tolerance, rtol=0)
        last, count = clip_files.read_clip([tmp_path / name], 2)
        torch.testing.assert_close(last, frames[-2:], atol=tolerance, rtol=0)
        assert count == 9


def test_of_a_long_video_few_frames_are_held(tmp_path, monkeypatch):
    """A minute of it may have more pixels than there is memory."""
    pytest.importorskip("av")
    clip_files.write_clip(tmp_path / "long.mp4", torch.rand(40, 1, 1, 1).expand(40, 3, 32, 48), 25)
    made, most = [], 0
    convert = Image.Image.convert

    def watched(image, mode=None, *rest):
        nonlocal most
        made.append(weakref.ref(converted := convert(image, mode, *rest)))
        most = max(most, sum(image() is not None for image in made))
        return converted

    monkeypatch.setattr(Image.Image, "convert", watched)
    frames, count = clip_files.read_clip([tmp_path / "long.mp4"], 3)
    assert (len(frames), count) == (3, 40) and most <= 6


def test_of_a_long_animation_few_frames_are_held(tmp_path, monkeypatch):
    frames = [Image.new("RGB", (8, 8), (6 * number, 0, 0)) for number in range(40)]
    frames[0].save(tmp_path / "long.webp", save_all=True, append_images=frames[1:], lossless=True)
    read, seen = image_files._rgb, []
    monkeypatch.setattr(image_files, "_rgb", lambda image: seen.append(weakref.ref(rgb := read(image))) or rgb)
    held = []
    for frame in clip_files._frames(tmp_path / "long.webp"):
        held.append(sum(each() is not None for each in seen))
        del frame
    assert len(held) == 40 and max(held) <= 2
    assert clip_files.read_clip([tmp_path / "long.webp"], 3)[1] == 40


@pytest.mark.parametrize("error", ["DecoderNotFoundError", "EOFError"])
def test_a_video_that_cannot_be_decoded_is_one_sentence(tmp_path, monkeypatch, error):
    """PyAV's errors have many kinds, not all of them ones of Python."""
    av = pytest.importorskip("av")
    kind = getattr(av.error, error)

    def broken(*arguments):
        raise kind(1, "no decoder for it")

    monkeypatch.setattr(av, "open", broken)
    with pytest.raises(InputError, match=r"x\.mp4 cannot be read as a video \(.*no decoder for it.*\); give an MP4"):
        clip_files.read_clip([tmp_path / "x.mp4"], 1)


def test_nine_frames_are_more_of_a_start_than_one(cli, tmp_path):
    for name, start, length in (("one", ["8.png"], FRAMES), ("nine", ["."], FRAMES), ("short", ["8.png"], 9)):
        arguments = (
            "--start-frames",
            *start,
            "--frames",
            length,
            "--trace",
            f"{name}.json",
            "--out",
            f"../{name}.webp",
        )
        assert cli(*arguments) == 0
    drawn = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "nine", "short")}
    starts = {name: trace["pictures"][0]["starts"][0] for name, trace in drawn.items()}
    assert starts == {"one": FRAME_TOKENS, "nine": 2 * FRAME_TOKENS, "short": FRAME_TOKENS}
    assert [drawn[name]["grid"]["frames"] for name in ("one", "short")] == [tiny_cosmos.FRAMES, 2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "1 or 9 frames to continue"),
        (("--start-frames", "0.png", "--frames", "10"), "1 + 8 k"),
        (("--start-frames", "0.png", "--frames", "99"), "ask for 1 + 8 k"),
        (("--start-frames", "none.png"), "none.png cannot be read as a picture"),
        (("--start-frames", "none.mp4"), "none.mp4 cannot be read as a video"),
        (("--start-frames", "text.mp4"), "text.mp4 cannot be read as a video"),
        (("--start-frames", "empty"), "holds no pictures"),
        (("--start-frames", "0.png", "other.png"), "one size"),
        (("--start-frames", "0.png", "--frames", "1"), "ask for more frames"),
        (("--start-frames", "0.png", "--out", "x.png"), "must end in .mp4 or .webp"),
        (("--start-frames", "0.png", "--out", "x.gif"), "must end in .mp4 or .webp"),
        (("--start-frames", "0.png", "--continue-from", "0.png"), "give one of them"),
        (("--continue-from", "0.png"), "--start-frames"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(cli, tmp_path, capsys, arguments, says):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save("other.png")
    assert cli(*arguments) == FAILED
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error and error.endswith(".")
    assert not (tmp_path / "video.webp").exists()


@pytest.mark.parametrize("arguments", [("--start-frames", "0.png", "--out", "x.png"), ("--continue-from", "0.png")])
def test_what_the_family_cannot_do_is_said_before_its_weights_are_read(cli, monkeypatch, arguments):
    monkeypatch.setattr("mcsjd_core.cli.generate.open_model", lambda *_: pytest.fail("the model was loaded"))
    assert cli(*arguments) == FAILED


@pytest.mark.parametrize("tells", [True, False])
def test_one_of_several_processes_tells_what_the_start_is(cli, tmp_path, monkeypatch, capsys, tells):
    monkeypatch.setattr(several_gpus, "one_of_several", lambda _: contextlib.nullcontext(tells))
    command = ("--start-frames", "0.png", "1.png", "--tensor-parallel", 2, "--window", 4, "--device", "cpu")
    assert cli(*command) == 0
    assert ("start: of 2 given frames the last one is used" in capsys.readouterr().out) == tells
    assert (tmp_path / "video.webp").exists() == tells


def test_without_av_an_mp4_is_refused_before_anything_is_drawn(cli, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert cli("--start-frames", "0.png", "--out", "x.mp4") == FAILED
    assert "pip install av" in capsys.readouterr().err
