"""The GPU day, rehearsed on a CPU with tiny shapes: every part gives what its JSON promises. No time is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import mcsjd_core
from mcsjd_core import bench, cli
from mcsjd_core.bench import gpu, peer, shapes
from mcsjd_core.bench.gpu import fast, right
from mcsjd_core.laws.noise import Noise
from mcsjd_core.nn.transformer import TransformerConfig
from tiny_checkpoint import write_tiny_checkpoint
from tiny_failure import raising

SMALL = TransformerConfig(dim=16, layers=3, heads=2, kv_heads=2, head_dim=8, ffn_dim=24)
PLAN = replace(bench.QUICK, forward_repeats=2, iterations=2, rows=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("gpu") / "tiny")


@pytest.fixture
def day(checkpoint, monkeypatch):
    monkeypatch.setattr(peer, "measure", lambda _: {"missing": "not in this test"})
    tiny = {name: replace(shape, config=SMALL, codebook_size=32, tokens=16) for name, shape in shapes.SHAPES.items()}
    return gpu.Day(
        mcsjd_core.load(checkpoint), "tiny", "cpu", PLAN, dtype=torch.float32, shapes=tiny, windows=(1, 4),
        weights=("full", "fp8"), executions=("eager", "captured"), layers=2, seeds=3, peak=1e9,
    )  # fmt: skip


def test_every_part_runs_and_is_ready_for_json(day):
    result = json.loads(json.dumps(gpu.run(day)))
    assert set(result["right"]["checks"]) == set(right.CHECKS) and result["right"]["ok"]
    assert result["right"]["left_out"] == result["fast"]["left_out"] == []
    for weights in result["fast"]["shapes"].values():
        for found in weights.values():
            assert set(found["seconds"]["eager"]) == {"1", "4"} and found["best"] == "eager"
            assert "CUDA" in found["seconds"]["captured"]["why_not"]
            assert found["bytes_read"] > 0 and found["share_of_bandwidth_limit"] > 0
    assert 0 < result["fast"]["overhead"]["share"] < 1
    text = cli.gpu.text_of(result)
    assert text.startswith("rehearsal") and text.count("full: eager, 2 of 3 layers, W 1 ") == len(day.shapes)
    assert text.count("right") == sum(found["ok"] is True for found in result["right"]["checks"].values())


@pytest.mark.parametrize("takes_guidance", [True, False])
def test_models_without_guidance_are_checked_without(day, takes_guidance, monkeypatch):
    clip = replace(day.model.clip, takes_guidance=takes_guidance)
    monkeypatch.setattr(type(day.model), "clip", clip)
    assert day.law.guided == takes_guidance and right.couplings_run(day)["ok"]


@pytest.mark.parametrize("command", ["bench", "gpu"])
def test_a_model_that_draws_no_pictures_of_sentences_is_refused(command, checkpoint, monkeypatch, capsys):
    assert cli.main([command, "--quick", "--quiet", "--model", str(mcsjd_core.EMBEDDED_VIDEO_MODEL)]) == 2
    assert "measures pictures, and the model draws videos; give another --model." in capsys.readouterr().err

    def refuse(*_):
        raise mcsjd_core.InputError("no ImageNet class")

    monkeypatch.setattr("mcsjd_core.families.chameleon.Chameleon.prompt", refuse)
    assert cli.main([command, "--quick", "--quiet", "--model", str(checkpoint)]) == 2
    assert "of English sentences, which the model does not take (no ImageNet class)" in capsys.readouterr().err


def test_what_there_is_no_time_for_is_named(day):
    result = gpu.run(replace(day, seconds=0.0))
    assert result["right"]["left_out"] == list(right.CHECKS)
    assert "overhead of the loop" in result["fast"]["left_out"]


def test_a_check_that_fails_is_told(day, monkeypatch):
    accept = Noise.accept_and_resample
    calls = []

    def drifting(self):
        calls.append(self)
        return tuple(number + len(calls) for number in accept(self))

    monkeypatch.setattr(Noise, "accept_and_resample", drifting)
    assert right.noise_bits(day)["ok"] is False


@pytest.fixture
def small(day):
    """A day of a single forward."""
    shapes = dict(list(day.shapes.items())[:1])
    return replace(day, shapes=shapes, windows=(1,), weights=("full",), executions=("eager",), layers=1)


@pytest.fixture
def command(small, checkpoint, monkeypatch, tmp_path, capsys):
    """`gpu` on a small day: gives its exit code, its JSON and what it prints."""
    monkeypatch.setattr(cli.gpu, "_day", lambda *_: small)
    monkeypatch.setattr(right, "CHECKS", {"first": lambda _: {"ok": True}, "second": lambda _: {"ok": True}})
    file = tmp_path / "gpu.json"

    def run():
        code = cli.main(["gpu", "--quiet", "--model", str(checkpoint), "--json", str(file)])
        return code, json.loads(file.read_text()), capsys.readouterr().out

    return run


def test_a_check_that_raises_is_wrong_and_the_others_are_made(command, monkeypatch):
    monkeypatch.setitem(right.CHECKS, "first", raising(RuntimeError("CUDA error: illegal address\nlong story")))
    code, written, shown = command()
    assert code == cli.gpu.WRONG
    checks = written["right"]["checks"]
    assert checks["first"]["ok"] is written["right"]["ok"] is False and checks["second"] == {"ok": True}
    assert checks["first"]["why_not"].endswith("CUDA error: illegal address")
    assert (
        "WRONG     first" in shown and "right     second" in shown and "failed in right: first: RuntimeError" in shown
    )


@pytest.mark.parametrize(
    ("module", "name", "error", "what"),
    [
        (fast, "bytes_read", KeyError("bias"), "Janus-Pro-1B, full"),
        (fast, "part_seconds", torch.cuda.OutOfMemoryError("CUDA out of memory"), "overhead of the loop"),
        (peer, "measure", TypeError("dtype"), "plain AR against transformers"),
    ],
)
def test_what_fails_is_told_and_the_rest_is_timed(module, name, error, what, command, monkeypatch):
    monkeypatch.setattr(module, name, raising(error))
    code, written, shown = command()
    assert code == cli.gpu.WRONG and list(written["fast"]["failed"]) == [what]
    assert f"failed in fast: {what}: {type(error).__name__}" in shown
    found = written["fast"]
    parts = [found["shapes"]["Janus-Pro-1B"]["full"], found["overhead"], found["peer"]]
    assert sum("why_not" in part for part in parts) == 1


def test_a_way_to_run_that_raises_anything_leaves_the_times_of_the_others(small, monkeypatch):
    prepared = fast.prepared
    refuse = raising(FileNotFoundError("ptxas"))
    monkeypatch.setattr(fast, "prepared", lambda *given: (refuse if given[2] == "captured" else prepared)(*given))
    result = gpu.run(replace(small, executions=("captured", "eager")), ("fast",))
    found = result["fast"]["shapes"]["Janus-Pro-1B"]["full"]
    assert found["best"] == "eager" and "ptxas" in found["seconds"]["captured"]["why_not"]
    assert list(result["fast"]["failed"]) == ["Janus-Pro-1B, full, captured"]


def test_ctrl_c_keeps_the_parts_that_were_complete(command, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "fast", raising(KeyboardInterrupt()))
    code, written, _ = command()
    assert code == cli.INTERRUPTED and written["right"]["ok"] and "fast" not in written


# -- compiled forwards ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(monkeypatch):
    """Counts the graphs that torch.compile makes, and runs them as they are."""
    from torch._dynamo.testing import CompileCounterWithBackend  # seconds, and for tests that compile alone

    backend, compile = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, **how: compile(work, **how | {"backend": backend}))
    torch._dynamo.reset()
    yield backend
    torch._dynamo.reset()


def test_every_window_is_compiled_however_many_there_are(small, counting):
    """Of one function torch makes eight graphs; after that it runs it as it is, in silence."""
    windows = tuple(range(1, 11))
    result = gpu.run(replace(small, windows=windows, executions=("compiled",)), ("fast",))
    seconds = result["fast"]["shapes"]["Janus-Pro-1B"]["full"]["seconds"]["compiled"]
    assert set(seconds) == {str(window) for window in windows} and counting.frame_count == len(windows)


def test_forwards_that_torch_did_not_compile_are_not_told_as_compiled(small, counting):
    with torch.compiler.set_stance("force_eager"):
        result = gpu.run(replace(small, executions=("eager", "compiled")), ("fast",))
    found = result["fast"]["shapes"]["Janus-Pro-1B"]["full"]
    assert counting.frame_count == 0 and found["best"] == "eager"
    assert "compiled nothing" in found["seconds"]["compiled"]["why_not"]


@pytest.mark.parametrize(("found", "code"), [(True, 0), (None, 0), (False, 1)])
def test_the_exit_code_tells_whether_a_check_failed(checkpoint, monkeypatch, capsys, found, code):
    checks = {"x": {"ok": True}, "y": {"ok": found}}
    result = {"rehearsal": False, "right": {"checks": checks, "left_out": []}}
    monkeypatch.setattr(gpu, "run", lambda day, names, keep: result)
    assert cli.main(["gpu", "--quick", "--quiet", "--model", str(checkpoint)]) == code
    assert ("WRONG" in capsys.readouterr().out) == bool(code)


def test_the_command_writes_json(checkpoint, tmp_path, monkeypatch, capsys):
    right_alone = {"rehearsal": True, "right": {"checks": {"x": {"ok": None}}, "left_out": []}}
    monkeypatch.setattr(gpu, "run", lambda day, names, keep: keep(right_alone) or right_alone)
    file = tmp_path / "gpu.json"
    assert cli.main(["gpu", "--quick", "--quiet", "--model", str(checkpoint), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["right"]["left_out"] == [] and "not here" in capsys.readouterr().out
    assert cli.main(["gpu", "--parts", "slow", "--model", str(checkpoint)]) == 2
