"""Videos longer than a clip: how they are divided, and that every part goes on from the one before."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import mcsjd_core
from mcsjd_core import DecodeSettings, InputError, LawSettings
from mcsjd_core.families.interface import PICTURE, Clip
from mcsjd_core.pipeline.long_video import Part, parts_of, sample_long
from tiny_cosmos import write_checkpoint

COSMOS = Clip(frames=33, frame_rate=25, frames_per_code=8, start_frames=(1, 9))


@pytest.mark.parametrize(
    ("frames", "parts"),
    [
        (17, [(17, 0)]), (33, [(33, 0)]), (41, [(33, 0), (17, 9)]), (57, [(33, 0), (33, 9)]),
        (65, [(33, 0), (33, 9), (17, 9)]),
    ],
)  # fmt: skip
def test_parts_add_up_and_go_on_from_as_many_frames_as_may_be_given(frames, parts):
    found = parts_of(COSMOS, frames)
    assert found == [Part(*part) for part in parts]
    assert sum(part.frames - part.given for part in found) == frames


def test_given_frames_that_are_not_taken_are_told():
    assert COSMOS.start_note(1) == COSMOS.start_note(9) == ""
    assert COSMOS.start_note(8) == "of 8 given frames the last one is used: this model continues 1 or 9 frames"
    assert COSMOS.start_note(20).startswith("of 20 given frames the last 9 are used")


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match=r"counts frames in steps of 8 .* ask for 1 \+ 8 k of them\.$"):
        parts_of(COSMOS, 40)
    with pytest.raises(InputError, match="draws pictures, not a video of 9 frames"):
        parts_of(PICTURE, 9)
    with pytest.raises(InputError, match="takes 9 of this model's 9 frames"):
        parts_of(replace(COSMOS, frames=9, start_frames=(9,)), 17)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mcsjd_core.load(write_checkpoint(tmp_path_factory.mktemp("long") / "cosmos", reads_text=False))


def test_every_part_is_a_run_from_the_last_frames_of_the_one_before(model):
    settings = DecodeSettings("gumbel_exact", 7, LawSettings(top_p=0.9), seed=3)
    starts = torch.rand(2, 1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    first = torch.cat([mcsjd_core.start_codes(model, clip) for clip in starts])
    parts = list(sample_long(model, ["", ""], settings, 33, first_codes=first))
    whole = torch.cat([frames for frames, _ in parts], 1)
    assert [frames.shape[1] for frames, _ in parts] == [17, 8, 8] and whole.shape == (2, 33, 3, 32, 48)
    for number in (1, 2):
        end = 17 + 8 * (number - 1)
        codes = torch.cat([mcsjd_core.start_codes(model, clip[end - 9 : end]) for clip in whole])
        again = mcsjd_core.sample(model, ["", ""], replace(settings, part=number), first_codes=codes)
        assert torch.equal(again.tokens, parts[number][1].tokens)
        assert torch.equal(mcsjd_core.videos(model, again.tokens)[:, 9:], whole[:, end : end + 8])
        other = mcsjd_core.sample(model, ["", ""], settings, first_codes=codes)
        assert not torch.equal(other.tokens, again.tokens)  # parts have noise of their own


def test_the_command_draws_longer_videos_than_the_model_s(model, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from mcsjd_core.cli import generate, main, memory

    monkeypatch.setattr(generate, "open_model", lambda *_: model)
    monkeypatch.setattr(generate, "draws_video", lambda _: True)
    words = SimpleNamespace(note=lambda texts: "This model does not know red.")
    monkeypatch.setattr(type(model), "words", property(lambda self: words))
    Image.new("RGB", (48, 32), "teal").save(tmp_path / "start.png")
    command = [
        "generate",
        "",
        "--start-frames",
        str(tmp_path / "start.png"),
        "--frames",
        "25",
        "--window",
        "9",
        "--device",
        "cpu",
    ]
    out = tmp_path / "long.webp"
    assert main([*command, "--out", str(out)]) == 0
    with Image.open(out) as video:
        assert video.n_frames == 25
    said = capsys.readouterr()
    total = (3 - 1 + 3 - 2) * model.grid().frame_tokens  # a start of one code frame, then one of two
    assert "part 2: 8 new frames" in said.out and f"{total}/{total}" in said.err
    assert said.err.count("does not know red") == 1
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    assert main([*command, "--out", str(out)]) == 2
    assert "on top of the weights" in capsys.readouterr().err
    assert main([*command, "--save-tokens", str(tmp_path / "t.json")]) == 2
    assert "A video in parts has no single set of tokens" in capsys.readouterr().err
