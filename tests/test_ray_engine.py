"""Prompt files on Ray: workers of the CPU and a tiny model, on one small cluster for the whole file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mcsjd_core import InputError, load
from mcsjd_core.cli import FAILED
from mcsjd_core.cli.prompt_rows import SOME_FAILED
from mcsjd_core.pipeline.sampling import sample
from mcsjd_core.scale import ray_engine
from mcsjd_core.scale.job import Job
from mcsjd_core.scale.output import Output
from mcsjd_core.scale.prompt_file import Row, digest
from mcsjd_core.scale.ray_engine import DrawingWorker, Workers
from test_cli import checkpoint, cli  # noqa: F401 - fixtures

pytest.importorskip("ray", reason="ray is not installed: pip install 'ray[data]'")
psutil = pytest.importorskip("psutil")

pytestmark = pytest.mark.slow

COUNT, WRONG = 6, 5
LIMIT = 200  # seconds that a worker waits for something, where a fault would have it wait for ever


@pytest.fixture(scope="module")
def cluster():
    """Started once: Ray takes seconds to begin and to end."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    running = ray_engine.connected(None, Workers(2, 2))
    try:
        running.__enter__()
    except InputError as error:
        pytest.skip(str(error))
    yield
    running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Row WRONG has a size that no model has."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": f"thing {number}"} for number in range(1, COUNT + 1)]
    rows[WRONG - 1] |= {"size": "1x1"}
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def job(checkpoint) -> Job:  # noqa: F811
    return Job(checkpoint, window=5, coupling="maximal", seed=3)


@pytest.fixture(scope="module")
def wanted(job) -> dict[int, str]:
    """Hashes of the single runs' tokens, by row."""
    model = load(job.model, packed=True)
    found = {}
    for number in {*range(1, COUNT + 1)} - {WRONG}:
        settings = Job(job.model, window=5, seed=job.seed_of(number)).settings(model.defaults)
        tokens = sample(model, [f"thing {number}"], settings).tokens
        found[number] = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    return found


@pytest.fixture
def draw(cluster, job, prompts, tmp_path) -> Callable:
    """Runs the file with one worker into the folder `out`, as the command line would."""

    def run(worker: type, on_record: Callable = lambda record: None) -> None:
        output = Output(tmp_path / "out")
        with output.taken({"prompts": digest(prompts), **job.kept()}):
            ray_engine.run(job, prompts, output, on_record, Workers(), worker)

    return run


def hashes(output: Output) -> dict[int, str]:
    return {record["row"]: record["tokens_sha256"] for record in output.records() if not record["error"]}


def pictures(folder: Path) -> dict[str, int]:
    """When each was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("[!.]*.png")}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def one_that_dies(folder: Path, again: bool = False) -> type:
    class Dying(DrawingWorker):
        """The first to write a picture is killed when half of it is written; or everyone."""

        def __init__(self, job, output):
            super().__init__(job, output)
            commit = output.commit

            def die(part: Path) -> None:
                part.write_bytes(b"half")
                (folder / "dead").touch()
                os.kill(os.getpid(), signal.SIGKILL)

            def commit_or_die(record, write):
                lives = write is None or ((folder / "dead").exists() and not again)
                commit(record, write if lives else die)

            output.commit = commit_or_die

    return Dying


def two_that_meet(folder: Path) -> type:
    class Meeting(one_that_dies(folder)):
        """The same, but none draws before two have rows."""

        def __call__(self, batch):
            (folder / f"{os.getpid()}.met").touch()
            wait_for(lambda: len(list(folder.glob("*.met"))) >= 2)
            return super().__call__(batch)

    return Meeting


def one_that_stays(folder: Path) -> type:
    class Staying(DrawingWorker):
        """Tells its process, and never ends with its third row; which one that is, Ray decides."""

        calls = 0

        def __call__(self, batch):
            self.calls += 1
            if self.calls == 3:
                (folder / f"{os.getpid()}.stays").touch()
                time.sleep(LIMIT)
            return super().__call__(batch)

    return Staying


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_stopped_run_ends_its_workers_and_is_gone_on_with_though_one_is_killed(
    draw,
    wanted,
    cli,  # noqa: F811
    prompts,
    tmp_path,
    monkeypatch,
):
    """The first run is stopped while its worker draws; two workers of the next give the tokens of single runs."""

    def stop(record) -> None:
        wait_for(lambda: list(tmp_path.glob("*.stays")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as held:  # with all that the stopped loop had
        draw(one_that_stays(tmp_path), stop)
    (worker,) = (int(file.stem) for file in tmp_path.glob("*.stays"))
    wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)
    assert held.value is not None
    before, done = pictures(tmp_path / "out"), {record["row"] for record in Output(tmp_path / "out").records()}
    assert len(done) == 2 and len(before) == len(done - {WRONG})

    told, run = [], ray_engine.run

    def watched(job, prompts, output, on_record, workers):
        def both(record):
            told.append(record["row"])
            on_record(record)

        run(job, prompts, output, both, workers, two_that_meet(tmp_path))

    monkeypatch.setattr(ray_engine, "run", watched)
    options = ["--seed", 3, "--window", 5, "--coupling", "maximal", "--engine", "ray", "--workers", 2]
    assert cli("generate", "--prompts", prompts, "--out", tmp_path / "out", *options) == SOME_FAILED
    output = Output(tmp_path / "out")
    assert (tmp_path / "dead").exists() and hashes(output) == wanted
    assert sorted(told) == sorted({*range(1, COUNT + 1)} - done)
    records = list(output.records())
    assert [record["row"] for record in records] == list(range(1, COUNT + 1))
    assert "no pictures of size '1x1'" in records[WRONG - 1]["error"]
    after = pictures(output.folder)
    assert len(after) == COUNT - 1 and before.items() <= after.items()
    assert not list(output.folder.glob(".*.part.*"))


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_row_that_takes_every_worker_with_it_ends_the_run_with_a_sentence(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "LOST_WORKERS", 0)
    with pytest.raises(InputError, match="lost their worker 1 times, most often for lack of memory"):
        draw(one_that_dies(tmp_path, again=True))
    assert (tmp_path / "dead").exists() and not pictures(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*.part.*"))


def test_gpus_that_are_not_there_are_not_waited_for(cluster, cli, prompts, tmp_path, capsys):  # noqa: F811
    assert cli("generate", "--prompts", prompts, "--out", tmp_path / "out", "--engine", "ray", "--gpus", 99) == FAILED
    assert "A worker asks for 99 GPUs, and Ray finds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", f"{'a' * 64}.b:1"]
)
def test_an_address_where_nothing_answers_is_told_at_once(address, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # or the cluster of the other tests would serve
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    with (
        pytest.raises(InputError, match=f"Nothing answers at {re.escape(address)} .*correct --address"),
        ray_engine.connected(address, Workers()),
    ):
        pass


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")])
def test_an_address_that_answers_is_left_to_ray(family, host, monkeypatch):
    reached = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda address, **_: reached.append(address))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    try:
        server = socket.create_server((host.strip("[]"), 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host} ({error})")
    with server, ray_engine.connected(f"{host}:{server.getsockname()[1]}", Workers()):
        assert reached == [f"{host}:{server.getsockname()[1]}"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"size": "9x9"}, "no pictures of size '9x9'"), ({"model": Path("none")}, "There is no checkpoint")],
)
def test_what_would_fail_every_row_ends_the_run_with_a_sentence(job, prompts, tmp_path, monkeypatch, wrong, sentence):
    """Without Ray, which gives back what the worker does."""
    import pyarrow

    worker, row = DrawingWorker(replace(job, **wrong), Output(tmp_path)), Row(1, "thing 1")
    records = worker(pyarrow.table({"row": [json.dumps(asdict(row))]})).to_pylist()
    assert not list(worker.output.records())
    monkeypatch.setattr(ray_engine, "waiting_rows", lambda *_: ())
    monkeypatch.setattr(ray_engine, "_drawn", lambda *_: SimpleNamespace(iter_rows=lambda: iter(records)))
    with pytest.raises(InputError, match=sentence):
        ray_engine.run(job, prompts, worker.output, lambda record: pytest.fail("no row is done"))


def test_a_worker_that_cannot_hold_the_model_ends_the_run_with_a_sentence(job, tmp_path, monkeypatch):
    """Without Ray: the record is of the kind that ends a run."""
    import pyarrow

    def too_large(self):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Job, "load", too_large)
    rows = pyarrow.table({"row": [json.dumps(asdict(Row(1, "owl")))]})
    (record,) = DrawingWorker(job, Output(tmp_path))(rows)["record"].to_pylist()
    assert "Memory ran out" in json.loads(record)[ray_engine.FATAL]


def test_ray_without_its_data_part_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    sentence = r"package ray with its data part; install it with `pip install 'ray\[data\]"
    with pytest.raises(InputError, match=sentence), ray_engine.connected(None, Workers(1)):
        pass
