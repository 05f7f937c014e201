"""The types of core and nodes hold: pyright finds no error in them (settings in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pyright(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_pyright_finds_no_error():
    pytest.importorskip("pyright")
    answer = pyright()
    assert answer.returncode == 0, answer.stdout


def test_pyright_finds_a_wrong_type(tmp_path):
    pytest.importorskip("pyright")
    file = tmp_path / "wrong.py"
    file.write_text("def f(x: int) -> str:\n    return x\n")
    assert pyright(str(file)).returncode == 1
