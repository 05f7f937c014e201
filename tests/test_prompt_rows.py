"""`generate --prompts`: rows to pictures and records, whatever stops a run."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import tiny_cosmos
from mcsjd_core import InputError, load
from mcsjd_core.cli import FAILED, main
from mcsjd_core.cli.prompt_rows import SOME_FAILED
from mcsjd_core.decoding import feed
from mcsjd_core.decoding.runners import Compiled
from mcsjd_core.pipeline.sampling import sample
from mcsjd_core.scale import drawer as drawer_module
from mcsjd_core.scale.drawer import Drawer
from mcsjd_core.scale.job import Job
from mcsjd_core.scale.output import Output
from mcsjd_core.scale.ray_engine import Workers
from test_cli import HEIGHT, ROOT, WIDTH, checkpoint, cli  # noqa: F401 - fixtures

COUNT = 7


def write_prompts(folder: Path) -> Path:
    """Rows with and without columns of their own; row 3 has a size that no model has."""
    rows = [{"prompt": f"thing {number}"} for number in range(1, COUNT + 1)]
    rows[1] |= {"seed": 7, "id": "second", "negative": "blue"}
    rows[2] |= {"size": "1x1"}
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_prompts(tmp_path)


def records_of(folder: Path) -> list[dict]:
    return list(Output(folder).records())


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("[!.]*.png")}


def held(folder: Path) -> set[str]:
    """What a finished folder holds beside pictures."""
    return {file.name for file in folder.iterdir()} - set(hashes(folder))


@pytest.fixture
def draw(cli, prompts, tmp_path):  # noqa: F811
    """Runs the file into the folder of that name; gives its exit code."""
    return lambda name="out", *more: cli("generate", "--prompts", prompts, "--out", tmp_path / name, "--seed", 5, *more)


@pytest.mark.parametrize("rows", [1, 3])
def test_every_row_is_its_single_run(draw, checkpoint, tmp_path, rows):  # noqa: F811
    assert draw("out", "--rows", rows, "--coupling", "maximal", "--window", 5) == SOME_FAILED
    model, job = load(checkpoint), Job(checkpoint, window=5)
    for record in records_of(tmp_path / "out"):
        number = record["row"]
        if number == 3:
            assert record["file"] is None and "no pictures of size '1x1'" in record["error"]
            continue
        seed, negative = (7, "blue") if number == 2 else (5 + number - 1, "")
        settings = Job(checkpoint, window=5, seed=seed).settings(model.defaults)
        alone = sample(model, [f"thing {number}"], settings, negatives=[negative])
        assert record["tokens_sha256"] == hashlib.sha256(alone.tokens.numpy().tobytes()).hexdigest()
        assert (record["seed"], record["nfe"]) == (seed, alone.traces[0].nfe)
        assert record["tokens_a_forward"] == alone.tokens.numel() / alone.traces[0].nfe
        assert record["settings"]["window"] == job.window and record["settings"]["law"]["top_k"] == 12
        with Image.open(tmp_path / "out" / record["file"]) as image:
            assert f"{image.width}x{image.height}" == record["size"]
    assert [record["row"] for record in records_of(tmp_path / "out")] == list(range(1, COUNT + 1))
    assert held(tmp_path / "out") == {"run.json", "records.jsonl", ".lock", ".turn"} and "second.png" in hashes(
        tmp_path / "out"
    )


def test_two_rows_of_one_id_are_told(cli, tmp_path):  # noqa: F811
    (tmp_path / "p.csv").write_text("prompt,id\nfox,a\ncat,a\n")
    for rows in (1, 2):
        out = tmp_path / f"out{rows}"
        assert cli("generate", "--prompts", "p.csv", "--out", out, "--rows", rows) == SOME_FAILED
        first, second = records_of(out)
        assert first["file"] == "a.png" and "a.png is there already" in second["error"]


def test_half_a_character_fails_its_row_alone(cli, tmp_path):  # noqa: F811
    lines = [r'{"prompt": "a \ud83d cat"}', r'{"prompt": "x", "negative": "\ud83d"}', '{"prompt": "fox"}']
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert cli("generate", "--prompts", "p.jsonl", "--out", tmp_path / "out") == SOME_FAILED
    first, second, third = records_of(tmp_path / "out")
    assert "`prompt` holds half a character" in first["error"] and "`negative` holds half" in second["error"]
    assert third["error"] is None and set(hashes(tmp_path / "out")) == {"00000003.png"}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"prompt": "x" * 6001}, "at most 6000 characters"),
        ({"prompt": "fox", "id": "one"}, "one.png is there already"),
        ({"prompt": "fox", "size": "1x1"}, "no pictures of size"),
    ],
)
def test_a_bad_row_costs_the_others_no_batch(cli, tmp_path, monkeypatch, bad, sentence):  # noqa: F811
    rows = [{"prompt": "owl", "id": "one"}, {"prompt": "red", "size": f"{WIDTH} x {HEIGHT}"}, bad, {"prompt": "sun"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    feed, fed = drawer_module.decode_feed, []

    def counted(model, prompt, *arguments, **named):
        fed.append(prompt.batch)
        return feed(model, prompt, *arguments, **named)

    monkeypatch.setattr(drawer_module, "decode_feed", counted)
    assert cli("generate", "--prompts", "p.jsonl", "--out", tmp_path / "out", "--rows", 2) == SOME_FAILED
    errors = [record["error"] for record in records_of(tmp_path / "out")]
    assert sentence in errors.pop(2) and errors == [None] * 3 and fed == [3]


def test_a_model_behind_a_link_is_read_as_a_single_run_reads_it(checkpoint, tmp_path, monkeypatch):  # noqa: F811
    """Families are told by names, and find files beside them."""
    (tmp_path / "another-name").symlink_to(checkpoint)
    read, original = [], Job.load
    monkeypatch.setattr(Job, "load", lambda self: read.append(self.model) or original(self))
    (tmp_path / "p.txt").write_text("owl\n")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--prompts", "p.txt", "--out", "out", "--model", "another-name"]) == 0
    assert read == [tmp_path / "another-name"]


def test_a_negative_prompt_that_leads_away_from_nothing_is_not_recorded(cli, prompts, tmp_path):  # noqa: F811
    for cfg, recorded in ((1, ""), (3, "blue")):
        assert cli("generate", "--prompts", prompts, "--out", tmp_path / str(cfg), "--cfg", cfg) == SOME_FAILED
        assert records_of(tmp_path / str(cfg))[1]["negative"] == recorded


@pytest.mark.parametrize("name", ["records.jsonl", "records/2024-01/notes.txt"])
def test_a_folder_with_records_of_another_program_is_left_as_it_is(draw, tmp_path, capsys, name):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine\n")
    assert draw() == FAILED
    assert "give another --out" in capsys.readouterr().err
    assert file.read_text() == "mine\n"
    assert {there.name for there in (tmp_path / "out").iterdir()} == {name.partition("/")[0], ".lock"}


def test_a_row_of_the_same_id_is_drawn_where_the_first_one_fails(cli, tmp_path):  # noqa: F811
    rows = [{"prompt": "x" * 6001, "id": "one"}, {"prompt": "sun", "id": "one"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert cli("generate", "--prompts", "p.jsonl", "--out", tmp_path / "out", "--rows", 2) == SOME_FAILED
    assert [record["file"] for record in records_of(tmp_path / "out")] == [None, "one.png"]


def test_a_place_that_is_taken_meanwhile_stops_no_picture_beside_it(cli, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "p.txt").write_text("owl\nred\nsun\n")
    feed, fed = drawer_module.decode_feed, []

    def late(*arguments, **named):
        fed.append(arguments)
        (tmp_path / "out/00000001.png").write_text("of another run")
        return feed(*arguments, **named)

    monkeypatch.setattr(drawer_module, "decode_feed", late)
    assert cli("generate", "--prompts", "p.txt", "--out", tmp_path / "out", "--rows", 3) == SOME_FAILED
    errors = [record["error"] for record in records_of(tmp_path / "out")]
    assert "is there already" in errors[0] and errors[1:] == [None, None] and len(fed) == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("red", "--prompts", "p.txt", "--out", "o"), "PROMPT does not work with a file of prompts"),
        (("--prompts", "p.txt", "--out", "o", "--keep-rows", "0"), "--keep-rows does not work with a file of prompts"),
        (("--prompts", "p.txt", "--out", "o", "--frames", "0"), "--frames does not work with a file of prompts"),
        (
            ("--prompts", "p.txt", "--out", "o", "--engine", "ray", "--gpus", "-1"),
            "--gpus must be a number of at least 0",
        ),
        (
            ("--prompts", "p.txt", "--out", "o", "--engine", "ray", "--address", "auto"),
            "With --address, give --device cuda or cpu",
        ),
        (("--prompts", "p.txt", "--out", "o", "--trace", "t.json"), "--trace does not work with a file of prompts"),
        (("--prompts", "p.txt", "--out", "o", "--batch", 2), "give every picture a row"),
        (("--prompts", "p.txt"), "name one with --out"),
        (("--prompts", "p.txt", "--out", "p.txt"), "is a file"),
        (("--prompts", "p.txt", "--out", "o", "--rows", 0), "At least one row"),
        (("--prompts", "p.txt", "--out", "o", "--temperature", "nan"), "temperature must be"),
        (("--prompts", "missing.txt", "--out", "o"), "is missing"),
        ((), "Nothing to draw"),
        (
            ("--prompts", "p.txt", "--out", "o", "--initialiser", "warm", "--coupling", "gumbel_exact"),
            "for a file of prompts",
        ),
        (("red", "--rows", 2), "--rows goes with a file of prompts"),
        (("red", "--retry"), "--retry goes with a file"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_read(cli, tmp_path, capsys, monkeypatch, more, sentence):  # noqa: F811  # fmt: skip
    monkeypatch.setattr(Job, "load", lambda self: pytest.fail("the model was read"))
    (tmp_path / "p.txt").write_text("red")
    assert cli("generate", *more) == FAILED
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--size", "9x9"), "no pictures of size '9x9'"),
        (("--capture", "--device", "cpu"), "captured on a CUDA device only"),
        (("--initialiser", "previous_frame"), "this model draws pictures"),
        (("--negative", "x" * 6001), "at most 6000 characters"),
        (("--negative", "\udcff"), "half a character"),
    ],
)
def test_what_would_fail_every_row_ends_the_run_and_does_not_bind_its_folder(draw, tmp_path, capsys, more, sentence):
    assert draw("out", *more) == FAILED
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and not records_of(tmp_path / "out")
    assert draw() == SOME_FAILED


def test_a_compiler_that_fails_ends_the_run_and_is_no_fault_of_a_row(draw, tmp_path, capsys, monkeypatch):
    tries = []

    def no_compiler(graph, inputs):
        tries.append(graph)
        raise RuntimeError("No working C++ compiler found in c++")

    torch._dynamo.reset()
    with monkeypatch.context() as patch:
        patch.setattr(feed, "runner", lambda name, device: Compiled(no_compiler))
        assert draw("out", "--rows", 2, "--compile") == FAILED
    err = capsys.readouterr().err
    assert "Iterations cannot be compiled here (No working C++ compiler found in c++); run them eager." in err
    assert err.count("\n") == 1 and len(tries) == 1
    assert [record["row"] for record in records_of(tmp_path / "out")] == [3]  # for its size, as ever
    assert draw() == SOME_FAILED


def test_a_video_model_that_continues_frames_draws_no_file_of_prompts(tmp_path, capsys):
    world = tiny_cosmos.write_checkpoint(tmp_path / "tiny", reads_text=False, frame_rate=12.5)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}')
    command = ["generate", "--prompts", tmp_path / "p.jsonl", "--out", tmp_path / "out", "--model", world, "--quiet"]
    assert main([*map(str, command)]) == FAILED
    assert "give it 1 or 9 frames to continue" in capsys.readouterr().err
    assert not records_of(tmp_path / "out")


def test_memory_is_freed_and_only_some_rows_are_held(checkpoint, prompts, tmp_path, monkeypatch):  # noqa: F811
    """Rows are taken in as they are needed: a chunk is the most that a drawer is given."""
    seen = []
    monkeypatch.setattr(Drawer, "draw", lambda self, rows: seen.append(len(rows)))
    from mcsjd_core.scale import plain

    for rows in (1, 3):
        plain.run(Job(checkpoint, rows=rows), prompts, Output(tmp_path / "o"), lambda _: None)
    assert seen == [1] * COUNT + [COUNT]


@pytest.mark.parametrize("text", ["", "0", "3-2", "x", "2-x"])
def test_numbers_of_workers_are_checked(text):
    assert Workers.of_text("2-8", 1) == Workers(2, 8, 1) and Workers.of_text("4", 0) == Workers(4, 4, 0)
    with pytest.raises(InputError, match="--workers is a number such as 4"):
        Workers.of_text(text, 0)


def test_without_ray_one_sentence_says_what_to_install(cli, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "p.txt").write_text("x")
    assert cli("generate", "--prompts", "p.txt", "--out", "o", "--engine", "ray") == FAILED
    assert "pip install 'ray[data]>=2.60,<2.64'" in capsys.readouterr().err
    assert cli("generate", "--prompts", "p.txt", "--out", "o", "--workers", 2) == FAILED
    assert "add --engine ray" in capsys.readouterr().err
