"""`generate --prompts`: rows to pictures and records, whatever stops a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import tiny_cosmos
from mcsjd_core import InputError, load
from mcsjd_core.cli import FAILED, INTERRUPTED, main
from mcsjd_core.cli.prompt_rows import SOME_FAILED
from mcsjd_core.decoding import feed
from mcsjd_core.decoding.runners import Compiled
from mcsjd_core.pipeline.sampling import sample
from mcsjd_core.scale import drawer as drawer_module
from mcsjd_core.scale.drawer import Drawer
from mcsjd_core.scale.job import Job
from mcsjd_core.scale.output import Output
from mcsjd_core.scale.ray_engine import Workers
from mcsjd_core.whole_files import part_of
from short_model import write_short_model
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


def test_a_run_that_is_stopped_goes_on_and_draws_nothing_twice(draw, tmp_path, monkeypatch, capsys):
    assert draw("whole", "--rows", 2) == SOME_FAILED
    drawn, commit = [], Output.commit

    def counted(self, record, write):
        if len(drawn) in (2, 3, 5):
            drawn.append("stop")
            raise KeyboardInterrupt
        commit(self, record, write)
        drawn.append(record["row"])

    monkeypatch.setattr(Output, "commit", counted)
    codes = [draw("out", "--rows", 2) for _ in range(4)]
    assert codes == [INTERRUPTED, INTERRUPTED, INTERRUPTED, SOME_FAILED]
    rows = [row for row in drawn if row != "stop"]
    assert sorted(rows) == list(range(1, COUNT + 1))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert [r["tokens_sha256"] for r in records_of(tmp_path / "out")] == [
        r["tokens_sha256"] for r in records_of(tmp_path / "whole")
    ]
    assert "Run the same command again to resume" in capsys.readouterr().err
    monkeypatch.setattr(Job, "load", lambda self: pytest.fail("a finished run loads no model"))
    assert draw("out", "--rows", 2) == SOME_FAILED


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory) -> Path:  # noqa: F811
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    prompts = write_prompts(folder.parent)
    command = ["generate", "--prompts", prompts, "--out", folder, "--seed", 5, "--model", checkpoint, "--quiet"]
    assert main(list(map(str, command))) == SOME_FAILED
    return folder


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_of_a_commit_loses_nothing(draw, whole, tmp_path, monkeypatch, moment):
    """Dies in place of the n-th operation on files of a commit, as kill -9 would: nothing is tidied up."""
    left, dead = moment, False

    class Killed(BaseException):
        pass

    def mortal(call):
        def called(*arguments, **named):
            nonlocal left, dead
            if dead or (armed and left == 0):
                dead = True
                raise Killed
            left -= armed
            return call(*arguments, **named)

        return called

    armed = False
    for owner, name in (
        (os, "replace"),
        (Path, "write_text"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (Image.Image, "save"),
    ):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    commit = Output.commit

    def watched(self, record, write):
        nonlocal armed
        armed = record["row"] == 2
        commit(self, record, write)

    monkeypatch.setattr(Output, "commit", watched)
    with pytest.raises(Killed):
        draw("out")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert draw("out") == SOME_FAILED
    assert hashes(tmp_path / "out") == hashes(whole)
    assert [record["row"] for record in records_of(tmp_path / "out")] == list(range(1, COUNT + 1))
    assert held(tmp_path / "out") == {"run.json", "records.jsonl", ".lock", ".turn"}


def test_a_picture_that_only_has_to_be_moved_is_not_drawn_again(tmp_path):
    output = Output(tmp_path)
    record = {"row": 12, "file": "a.png", "error": None}
    output.commit(record, lambda part: part.write_text("picture"))
    (tmp_path / "a.png").rename(part_of(tmp_path / "a.png"))
    assert output.record(12) == record and (tmp_path / "a.png").read_text() == "picture"
    (tmp_path / "a.png").unlink()
    assert output.record(12) is None and output.record(13) is None


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(draw, tmp_path, monkeypatch, capsys):
    save, calls = Image.Image.save, []

    def full(self, path, *arguments, **named):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, path, *arguments, **named)

    monkeypatch.setattr(Image.Image, "save", full)
    assert draw() == FAILED
    assert "cannot be written to (No space left on device); fix that" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".*.part.*"))
    assert draw() == SOME_FAILED and len(hashes(tmp_path / "out")) == COUNT - 1 == len(calls) - 1


def test_another_command_may_not_go_on_in_the_same_folder(draw, prompts, tmp_path, capsys):
    draw()
    assert draw("out", "--window", 3) == FAILED
    assert "another window (None, now 3)" in capsys.readouterr().err
    assert draw("out", "--rows", 2) == SOME_FAILED  # what no token depends on may change
    prompts.write_text("{}")
    assert draw() == FAILED
    assert "another prompts" in capsys.readouterr().err


def test_one_run_at_a_time_has_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    with (
        Output(tmp_path).taken({}),
        pytest.raises(InputError, match="Another run is writing"),
        Output(tmp_path).taken({}),
    ):
        pass


def test_processes_of_a_run_that_has_ended_write_nothing_more(tmp_path):
    """As workers on other machines would, which do not know yet that the run was stopped, and that it goes on."""
    record = {"row": 1, "file": "a.png", "error": None}
    old, new = Output(tmp_path), Output(tmp_path)
    with old.taken({}):
        worker = Output(tmp_path, old.run)
    for begun in (contextlib.nullcontext(), new.taken({})):
        with begun:
            before = held(tmp_path)
            for commit in (worker.commit, old.commit):
                with pytest.raises(InputError, match="has ended; nothing is written"):
                    commit(record, lambda part: part.write_text("picture"))
            with pytest.raises(InputError, match="has ended"):
                worker.record(1)
            assert held(tmp_path) == before and not hashes(tmp_path)
    with new.taken({}):
        Output(tmp_path, new.run).commit(record, lambda part: part.write_text("picture"))
    assert list(new.records()) == [record] and set(hashes(tmp_path)) == {"a.png"}


def test_two_processes_with_one_row_commit_it_once(tmp_path):
    """A worker that was taken for lost, and the one that took its place; the first is not done with writing."""
    output = Output(tmp_path)
    record = {"row": 1, "file": "a.png", "error": None}

    def slow(part: Path) -> None:
        part.write_text("first, ")
        output.commit(record, lambda other: other.write_text("second"))
        with part.open("a") as stream:
            stream.write("late")

    with output.taken({}):
        output.commit(record, slow)
        assert (tmp_path / "a.png").read_text() == "second" and output.record(1) == record
    assert list(output.records()) == [record] and not list(tmp_path.glob(".*.part.*"))


def test_rows_that_failed_are_tried_again_when_asked(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(drawer_module, "decode_feed", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    assert draw() == SOME_FAILED
    errors = {record["error"] for record in records_of(tmp_path / "out")}
    assert len(errors) == 2 and any("Memory ran out" in error for error in errors)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert draw() == SOME_FAILED and not hashes(tmp_path / "out")
    assert draw("out", "--retry") == SOME_FAILED and len(hashes(tmp_path / "out")) == COUNT - 1


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


def test_a_row_whose_record_or_picture_is_empty_is_drawn_again(draw, tmp_path):
    """As a machine that goes down may leave files that were moved to their place."""
    assert draw() == SOME_FAILED
    before, folder = hashes(tmp_path / "out"), tmp_path / "out"
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(["\0\0\0\n", *lines[1:]]))
    (folder / "00000001.png").unlink()
    (folder / "00000004.png").write_bytes(b"")
    (folder / "records/1-1000").mkdir(parents=True)
    (folder / "records/1-1000/5.json").write_text("")
    assert draw() == SOME_FAILED
    assert hashes(folder) == before and [record["row"] for record in records_of(folder)] == [*range(1, COUNT + 1)]
    (folder / "run.json").write_text("")
    assert draw() == FAILED


def test_a_negative_prompt_that_leads_away_from_nothing_is_not_recorded(cli, prompts, tmp_path):  # noqa: F811
    for cfg, recorded in ((1, ""), (3, "blue")):
        assert cli("generate", "--prompts", prompts, "--out", tmp_path / str(cfg), "--cfg", cfg) == SOME_FAILED
        assert records_of(tmp_path / str(cfg))[1]["negative"] == recorded


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


def test_a_picture_that_was_deleted_is_drawn_again(draw, tmp_path):
    draw()
    before = hashes(tmp_path / "out")
    (tmp_path / "out/second.png").unlink()
    assert draw() == SOME_FAILED and hashes(tmp_path / "out") == before


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
            "With --address, name a --device",
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


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path):
    """A real kill -9."""
    path = write_short_model(tmp_path / "model")
    (tmp_path / "p.txt").write_text("red apple\nrocket\nfox\n")
    command = ["generate", "--prompts", tmp_path / "p.txt", "--model", path, "--out", tmp_path / "out", "--quiet"]
    command = list(map(str, command))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([sys.executable, "-m", "mcsjd_core", *command], cwd=ROOT, env=environment)
    limit = time.monotonic() + 200
    while not hashes(tmp_path / "out") and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("[!.]*.png")}
    assert main(command) == 0
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("[!.]*.png")}
    assert len(after) == 3 and before.items() <= after.items()
    model = load(path, packed=True)
    for seed, (record, text) in enumerate(
        zip(records_of(tmp_path / "out"), ["red apple", "rocket", "fox"], strict=True)
    ):
        tokens = sample(model, [text], Job(path, seed=seed).settings(model.defaults)).tokens
        assert record["tokens_sha256"] == hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    assert torch.get_num_threads() == 1
