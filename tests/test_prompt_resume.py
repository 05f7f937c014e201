"""`generate --prompts`: whatever stops a run, the next one goes on with what is whole."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcsjd_core import InputError, load
from mcsjd_core.cli import FAILED, INTERRUPTED, main
from mcsjd_core.cli.prompt_rows import SOME_FAILED
from mcsjd_core.pipeline.sampling import sample
from mcsjd_core.scale import drawer as drawer_module
from mcsjd_core.scale.job import Job
from mcsjd_core.scale.output import Output
from mcsjd_core.whole_files import part_of
from short_model import write_short_model
from test_cli import HEIGHT, ROOT, WIDTH, checkpoint, cli  # noqa: F401 - fixtures
from test_prompt_rows import COUNT, draw, hashes, held, prompts, records_of, write_prompts  # noqa: F401 - fixtures among them


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
def whole(checkpoint, tmp_path_factory) -> Path:
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
        draw("out", "--rows", 4)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert draw("out", "--rows", 4) == SOME_FAILED
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


def test_a_picture_that_was_deleted_is_drawn_again(draw, tmp_path):
    draw()
    before = hashes(tmp_path / "out")
    (tmp_path / "out/second.png").unlink()
    assert draw() == SOME_FAILED and hashes(tmp_path / "out") == before


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
