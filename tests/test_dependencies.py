"""The lower bounds: told once, installed as they are by `dev.py test --oldest`."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def dev(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import dev

    yield dev
    sys.modules.pop("dev", None)


def required() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def in_pyproject() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return set(re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)[1]))


def test_pyproject_asks_for_what_requirements_ask_for_and_torch():
    assert {line for line in in_pyproject() if not line.startswith("torch")} == required()


def test_the_oldest_environment_holds_every_lower_bound(dev, tmp_path, monkeypatch):
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    pinned = dev.oldest().constraints.read_text(encoding="utf-8").split()
    assert {line.replace("==", ">=") for line in pinned} == in_pyproject()


def test_the_oldest_run_builds_an_environment_of_its_own_and_runs_the_tests_in_it(dev, tmp_path, monkeypatch):
    """All but pip and Python themselves, which note how they are called."""
    for name in ("requirements.txt", "pyproject.toml", "tests/requirements.txt", "tests/requirements-nodeps.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    calls = []

    def become(path, command):
        calls.append(command)
        raise SystemExit

    def create(folder, **options):
        python = dev.Environment(folder.relative_to(tmp_path), None).python
        python.parent.mkdir(parents=True)
        python.touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev.venv, "create", create)
    monkeypatch.setattr(dev.subprocess, "call", lambda command, **options: calls.append(command) or 0)
    monkeypatch.setattr(dev.os, "execv", become)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(dev.sys, "argv", ["dev.py", "test", "--oldest", "-k", "warm"])
    with pytest.raises(SystemExit):
        dev.main()
    upgrade, *installs, tests = ([str(word) for word in command] for command in calls)
    python = str(dev.Environment(".venv-oldest", None).python)
    assert {command[0] for command in (*installs, tests)} == {python}
    assert upgrade[1:4] == ["-m", "pip", "install"] and upgrade[-2:] == ["--upgrade", "pip"]
    assert len(installs) == len(dev.TEST)
    for command, wanted in zip(installs, dev.TEST, strict=True):
        assert command[1:4] == ["-m", "pip", "install"] and command[-len(wanted) :] == wanted
        assert command[command.index("-c") + 1] == str(tmp_path / "build/oldest.txt")
    assert tests[1:3] == ["-m", "pytest"] and tests[-2:] == ["-k", "warm"]
    calls.clear()
    with pytest.raises(SystemExit):
        dev.main()
    assert [str(word) for word in calls[0]] == tests and len(calls) == 1  # what is installed is not installed again
