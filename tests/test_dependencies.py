"""The lower bounds: told once, installed as they are by `dev.py test --oldest`."""

from __future__ import annotations

import re
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
