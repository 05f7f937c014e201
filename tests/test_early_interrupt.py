"""Ctrl-C before the command line has begun: a sentence for our own command, nothing for other programs."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mcsjd_core.early_interrupt import INTERRUPTED
from test_cli import ROOT


def end_of(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """How Python with these arguments ends where importing torch presses Ctrl-C."""
    (folder / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    # A job in the background of a shell ignores Ctrl-C, and so would what it starts.
    options = {"env": environment, "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("arguments", [["-m", "mcsjd_core"], ["-mmcsjd_core"], ["-um", "mcsjd_core"]], ids=" ".join)
def test_the_command_ends_with_a_sentence(tmp_path, arguments):
    ended = end_of(arguments, tmp_path)
    assert ended.returncode == INTERRUPTED
    assert ended.stderr == "Interrupted before anything was begun.\n" and not ended.stdout


@pytest.mark.parametrize("arguments", [["-c", "import mcsjd_core"], ["-m", "other"]], ids=" ".join)
def test_other_programs_keep_their_own_answer(tmp_path, arguments):
    """Such as one whose package imports ours."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/__init__.py").write_text("import mcsjd_core")
    (tmp_path / "other/__main__.py").touch()
    assert "KeyboardInterrupt" in end_of(arguments, tmp_path).stderr
