"""What commands write and print: whole files, every one named, on any terminal; and sentences where a machine is too small."""

import io
import json
import sys

import pytest
import torch

from mcsjd_core import EMBEDDED_VIDEO_MODEL, DecodeSettings, InputError, LawSettings, load
from mcsjd_core.checkpoints.tensor_files import open_tensors
from mcsjd_core.cli import FAILED, console, main, memory
from mcsjd_core.cli.outputs import write_text, write_whole
from mcsjd_core.errors import is_out_of_memory
from mcsjd_core.pipeline.sampling import Drawing
from mcsjd_core.reporting.fonts import font_for, has_sign
from test_cli import checkpoint, cli  # noqa: F401 - fixtures


def no_space(path):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_no_half_file_and_names_the_file(tmp_path):
    file = tmp_path / "picture.png"
    with pytest.raises(InputError, match=r"picture\.png cannot be written \(No space left on device\)"):
        write_whole(file, no_space)
    assert not list(tmp_path.iterdir())
    file.write_text("old")
    with pytest.raises(InputError):
        write_whole(file, no_space)
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_was_there_is_said_to_be_replaced(tmp_path, capsys):
    write_text(tmp_path / "a.json", "1")
    write_text(tmp_path / "a.json", "2")
    assert capsys.readouterr().out.splitlines() == [f"wrote {tmp_path / 'a.json'}", f"replaced {tmp_path / 'a.json'}"]


def test_every_file_that_generate_writes_is_named(cli, capsys):  # noqa: F811
    names = ["p.png", "k.safetensors", "t.json"]
    assert cli("generate", "x", "--out", names[0], "--save-tokens", names[1], "--trace", names[2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("wrote")] == [f"wrote {name}" for name in (*names[1:], names[0])]


def test_numbers_of_a_batch_multiply_out(cli, capsys):  # noqa: F811
    assert cli("generate", "x", "y", "--coupling", "autoregressive") == 0
    assert "2 times 24 tokens in 24 shared forwards" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["cp1252", "cp866", "ascii", "utf-8"])
def test_any_text_can_be_printed_in_any_encoding(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    console.accept_every_character()
    print("1.2 ± 0.3 · 猫 \udcff", flush=True)
    printed = raw.getvalue().decode(encoding)
    assert printed.startswith("1.2 ") and printed.rstrip().endswith("\\udcff")
    if encoding == "ascii":
        assert printed.rstrip() == "1.2 +- 0.3 - \\u732b \\udcff"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("std::bad_alloc")]
)
def test_too_little_memory_is_one_sentence(cli, capsys, monkeypatch, error):  # noqa: F811
    def fail(*_):
        raise error

    monkeypatch.setattr("mcsjd_core.pipeline.sampling.Drawing.run", fail)
    assert cli("generate", "x") == FAILED
    assert "Memory ran out on cpu; use fewer pictures" in capsys.readouterr().err


def test_tokens_outlive_a_codec_for_which_there_is_no_memory(cli, tmp_path, monkeypatch):  # noqa: F811
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("mcsjd_core.cli.generate.pictures", fail)
    saved = [tmp_path / "t.json", tmp_path / "trace.json"]
    assert cli("generate", "x", "--save-tokens", saved[0], "--trace", saved[1], "--out", tmp_path / "o.png") == FAILED
    assert all(json.loads(file.read_text()) for file in saved) and not (tmp_path / "o.png").exists()


def test_too_little_memory_for_a_torch_file_is_no_damaged_file(tmp_path, monkeypatch):
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1)}, file)

    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="can't allocate"), open_tensors(file):
        pass


def test_a_window_wider_than_the_picture_asks_for_no_more_memory(checkpoint):  # noqa: F811
    model = load(checkpoint)
    asked = {
        window: Drawing.of(model, ["x"], DecodeSettings(window=window, trajectories=3)).memory_bytes
        for window in (model.grid().num_tokens, 10**6)
    }
    assert len(set(asked.values())) == 1


def test_other_errors_are_not_called_memory(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr("mcsjd_core.pipeline.sampling.Drawing.run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("generate", "x")


@pytest.mark.parametrize("much", [("--batch", 1000), ("--coupling", "gumbel_exact", "--trajectories", 100000)])
def test_a_run_that_cannot_fit_is_refused_before_it_begins(cli, capsys, monkeypatch, much):  # noqa: F811
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    assert cli("generate", "x", *much) == FAILED
    err = capsys.readouterr().err
    assert "memory is free" in err and err.count("\n") == 1


def test_compare_asks_for_the_memory_of_one_picture(cli, monkeypatch, tmp_path):  # noqa: F811
    """It draws one after another, however many prompts there are."""
    asked = []

    def check_memory(drawing, device) -> None:
        asked.append(drawing.prompt.batch)
        if len(asked) > 2:
            raise InputError("Enough.")

    monkeypatch.setattr("mcsjd_core.cli.compare.check_memory", check_memory)
    assert cli("compare", "red apple", "rocket", "--out", tmp_path / "sheet.png") == FAILED
    assert asked == [1, 1, 1]


def test_memory_that_is_free_is_known_here():
    assert memory.available_bytes() > 2**20
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("generate", "x", "--seed", -1), "seed must be between"),
        (("generate", "x", "--temperature", "nan"), "temperature must be"),
        (("generate", "x", "--cfg", "1e38"), "cfg_scale must be between 0 and 1000"),
        (("generate", "x", "--frames", 0), "--frames must be at least 1"),
        (("compare", "x", "--seeds=-1"), "seed must be between"),
        (("compare", "x", "--windows=-1"), "window must be at least 1"),
    ],
)
def test_settings_are_refused_before_a_model_is_read(cli, capsys, monkeypatch, argv, sentence):  # noqa: F811
    for command in ("generate", "compare"):
        monkeypatch.setattr(f"mcsjd_core.cli.{command}.open_model", lambda _: pytest.fail("the model was read"))
    assert cli(*argv) == FAILED
    assert sentence in capsys.readouterr().err


def test_the_largest_guidance_is_one_that_float32_holds():
    with pytest.raises(InputError, match="cfg_scale"):
        LawSettings(cfg_scale=1e38)
    assert (torch.tensor(1e4) * LawSettings(cfg_scale=1000.0).cfg_scale).isfinite()


def test_previous_frame_is_for_videos(cli, capsys):  # noqa: F811
    assert cli("generate", "x", "--initialiser", "previous_frame") == FAILED
    assert "for videos" in capsys.readouterr().err


def test_compare_says_that_it_shows_pictures(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "x", "--model", str(EMBEDDED_VIDEO_MODEL), "--quiet"]) == FAILED
    assert "compare shows pictures" in capsys.readouterr().err


def test_one_picture_is_not_called_pictures(cli, capsys):  # noqa: F811
    assert cli("compare", "x", "--windows", 4) == 0
    assert "One picture per method" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["red apple", "ein Löwe", "红苹果 猫", "a \U0001f34e", "x\u0301\u200d"])
def test_a_sheet_has_no_boxes(text):
    font, shown = font_for(text, 19)
    assert shown and all(has_sign(font, sign) for sign in shown)


def test_signs_that_no_font_has_stand_by_name(monkeypatch):
    monkeypatch.setattr("mcsjd_core.reporting.fonts._system_fonts", lambda: ())
    assert font_for("a \U0001f34e\ufe0f", 19)[1] == "a [red apple]"


def test_records_outlive_a_codec_for_which_there_is_no_memory(cli, tmp_path, monkeypatch):  # noqa: F811
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("mcsjd_core.cli.compare._sheet", fail)
    assert cli("compare", "x", "--windows", 4, "--json", tmp_path / "r.json", "--out", tmp_path / "o.png") == FAILED
    assert json.loads((tmp_path / "r.json").read_text()) and not (tmp_path / "o.png").exists()
