"""The examples of README and of docs/python.md, run as they are written, with nothing but what README installs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcsjd_core import EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL
from short_model import write_short_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/python.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SHELL = ("", "sh", "bash", "shell", "console")
NOT_RUN = {
    "cd": "names a folder of the reader's",
    "git clone": "asks the network; its address is compared below",
    "python -m pip install": "asks the network; its file is looked for below",
    "dev.py test": "is what runs this test",
    "dev.py download": "asks the network and a person",
    "dev.py bench": "takes minutes; test_bench.py runs it at tiny sizes",
}


def blocks(page: str = "README.md") -> list[tuple[str, str]]:
    return FENCE.findall(TEXTS[page])


def commands() -> list[str]:
    """Lines of the shell examples, continued lines joined."""
    texts = [code.replace("\\\n", " ") for language, code in blocks() if language in SHELL]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def is_run(command: str) -> bool:
    return not any(command.startswith(start) or f" {start}" in command for start in NOT_RUN)


@pytest.fixture
def clone(tmp_path) -> Path:
    """What git holds of this checkout, folders as links; examples write here."""
    for name in {Path(line).parts[0] for line in git("ls-files").splitlines()}:
        if (ROOT / name).is_dir():
            (tmp_path / name).symlink_to(ROOT / name)
        else:
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def quick_clone(clone) -> Path:
    """The same with an embedded image model that takes less time: its examples draw dozens of pictures."""
    for name in ("embedded", "mcsjd_core"):
        (clone / name).unlink()
    shutil.copytree(
        ROOT / "mcsjd_core", clone / "mcsjd_core"
    )  # as a link it would find the embedded model of this checkout
    (clone / "embedded").mkdir()
    write_short_model(clone / "embedded" / EMBEDDED_MODEL.name)
    (clone / "embedded" / EMBEDDED_VIDEO_MODEL.name).symlink_to(EMBEDDED_VIDEO_MODEL)
    return clone


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def run(arguments: list[str], folder: Path, given: str = "") -> None:
    """A Python that sees what README installs alone; `given` is its standard input."""
    paths = [str(ROOT / "tests" / "readme_site"), str(folder)]
    requirements = {"README_REQUIREMENTS": str(ROOT / "requirements.txt"), "PYTHONPATH": os.pathsep.join(paths)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | requirements
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


# All examples share one process, for every new one imports torch; each begins with names of its own.
ONE_AFTER_ANOTHER = """
import json, runpy, sys
for example in json.load(sys.stdin):
    print("Example:", example, flush=True)
    if isinstance(example, str):
        exec(example, {"__name__": "__main__"})
        continue
    sys.argv[1:] = example
    try:
        runpy.run_module("mcsjd_core", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""


def test_there_are_examples():
    assert sum(map(is_run, commands())) >= 2 and any(language == "python" for language, _ in blocks())


def test_packages_beyond_the_requirements_are_out_of_sight(clone):
    with pytest.raises(AssertionError, match="No module named 'pytest'"):
        run(["-c", "import pytest"], clone)


@pytest.mark.slow
def test_every_example_runs_as_it_is_written(quick_clone):
    """In the page's order, so that a later one may use what an earlier one wrote."""
    examples = [example for page in PAGES for example in examples_of(page)]
    run(["-c", ONE_AFTER_ANOTHER], quick_clone, json.dumps(examples))
    for written in ("apple.png", "compare.png", "picture-1.png", "video.webp"):
        assert (quick_clone / written).is_file(), written


def examples_of(page: str) -> list[str | list[str]]:
    """Python as it is written, and the arguments of commands."""
    found = []
    for language, code in blocks(page):
        if language == "python":
            found.append(code)
        elif language in SHELL:
            found += [arguments_of(command) for command in commands_of(code)]
    return found


def arguments_of(command: str) -> list[str]:
    """What follows `python3 dev.py` or `python -m mcsjd_core`."""
    words = shlex.split(command)
    start = 2 if words[1].endswith("dev.py") else 3
    assert words[0] in ("python", "python3") and words[1:start] in (["dev.py"], ["-m", "mcsjd_core"]), command
    return words[start:]


def commands_of(code: str) -> list[str]:
    lines = (line.strip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#") and is_run(line)]


def test_the_address_to_clone_is_the_projects():
    address = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    for command in commands():
        if command.startswith("git clone"):
            assert command.split()[2].removesuffix(".git") == address
        if "pip install -r" in command:
            file = command.split("-r ")[1].split()[0].split("/", 1)[-1]
            assert (ROOT / file).is_file(), command
