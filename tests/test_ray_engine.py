"""Prompt files on Ray: two workers of the CPU and the embedded model, on one small cluster for the whole file."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from pathlib import Path

import pytest

from mcsjd_core import EMBEDDED_MODEL, InputError, load
from mcsjd_core.pipeline.sampling import sample
from mcsjd_core.scale import ray_engine
from mcsjd_core.scale.output import Output
from mcsjd_core.scale.plan import Plan
from mcsjd_core.scale.ray_engine import Workers

pytest.importorskip("ray", reason="ray is not installed: pip install 'ray[data]'")
psutil = pytest.importorskip("psutil")

COUNT, TWO = 6, Workers(2, 2)
PLAN = Plan(EMBEDDED_MODEL, window=16, coupling="maximal", seed=3)


@pytest.fixture(scope="module")
def cluster():
    """Started once: Ray takes seconds to begin and to end."""
    with ray_engine.connected(None, TWO):
        yield


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": text} for text in ("red apple", "rocket", "fox", "star", "cat face", "green heart")]
    rows[4] |= {"size": "1x1"}
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def wanted(prompts) -> dict[int, str]:
    """Hashes of the single runs' tokens, by row."""
    model = load(EMBEDDED_MODEL, packed=True)
    texts = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    found = {}
    for number, text in enumerate(texts, 1):
        settings = Plan(EMBEDDED_MODEL, window=16, seed=PLAN.seed_of(number)).settings(model.defaults)
        if number != 5:
            tokens = sample(model, [text], settings).tokens
            found[number] = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    return found


def draw(prompts: Path, folder: Path, on_record=lambda record: None) -> Output:
    output = Output(folder)
    with output.taken({}):
        ray_engine.run(PLAN, prompts, output, on_record, TWO)
    return output


def hashes(output: Output) -> dict[int, str]:
    return {record["row"]: record["tokens_sha256"] for record in output.records() if not record["error"]}


def actors() -> list[psutil.Process]:
    """Processes of Ray that hold a model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_two_workers_give_the_tokens_of_single_runs(cluster, prompts, wanted, tmp_path):
    told = []
    output = draw(prompts, tmp_path, told.append)
    assert hashes(output) == wanted and sorted(record["row"] for record in told) == list(range(1, COUNT + 1))
    assert "no pictures of size '1x1'" in list(output.records())[4]["error"]
    assert len(list(tmp_path.glob("[!.]*.png"))) == COUNT - 1 and not list(tmp_path.glob(".*.part.*"))


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(cluster, prompts, wanted, tmp_path):
    killed = []

    def kill_one() -> None:
        while not list(tmp_path.glob("[!.]*.png")):
            time.sleep(0.02)
        victim = actors()[0]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    output = draw(prompts, tmp_path)
    killer.join(10)
    assert killed and hashes(output) == wanted
    assert [record["row"] for record in output.records()] == list(range(1, COUNT + 1))
    assert not list(tmp_path.glob(".*.part.*"))


def test_a_run_that_is_stopped_goes_on_with_the_same_tokens(cluster, prompts, wanted, tmp_path):
    def stop(record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(prompts, tmp_path, stop)
    while actors():  # those of the run that was stopped end by and by
        time.sleep(0.1)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("[!.]*.png")}
    assert before
    output = draw(prompts, tmp_path)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("[!.]*.png")}
    assert hashes(output) == wanted and before.items() <= after.items()


def test_what_no_row_can_mend_ends_the_run_with_its_sentence(cluster, prompts, tmp_path):
    with pytest.raises(InputError, match="There is no checkpoint at"):
        ray_engine.run(Plan(tmp_path / "none"), prompts, Output(tmp_path), lambda record: None, TWO)
