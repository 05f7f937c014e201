"""What a clone and a wheel give: help that installs nothing, every package, the embedded models."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest

from comfy_host import ROOT, load_file
from mcsjd_core.cli import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib


def dev(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "dev.py", *arguments], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h",), ("bench", "--help"), ("generate", "-h"), ("train", "scenes", "-h")]
)
def test_help_installs_nothing_and_exits_well(arguments, monkeypatch, capsys):
    module = load_file("dev", ROOT / "dev.py")
    monkeypatch.setattr(module, "make", lambda: pytest.fail("help made an environment"))
    monkeypatch.setattr(module, "is_installed", lambda *_: False)
    monkeypatch.setattr(module.sys, "argv", ["dev.py", *arguments])
    module.main()
    assert "python3 dev.py" in capsys.readouterr().out


def test_help_lists_every_command():
    done = dev("--help")
    names = {command.__name__.rsplit(".", 1)[1] for command in COMMANDS} | {"test", "train"}
    assert done.returncode == 0 and all(f"dev.py {name}" in done.stdout for name in names)


def test_training_is_a_recipe_by_name(monkeypatch):
    module, calls = load_file("dev", ROOT / "dev.py"), []
    monkeypatch.setattr(module, "install", lambda _, name, installs: calls.append(name))
    monkeypatch.setattr(module, "run", lambda _, arguments: calls.append(arguments) or sys.exit())
    monkeypatch.setattr(module.sys, "argv", ["dev.py", "train", "video", "--work", "build"])
    with pytest.raises(SystemExit):
        module.main()
    assert calls == ["train", ["-m", "training.build_video", "--work", "build"]]
    assert importlib.util.find_spec("training.build_video") is not None
    done = dev("train", "songs")
    assert done.returncode != 0 and "no recipe for 'songs'; there are scenes and video" in done.stderr


def test_training_without_a_recipe_has_the_help_of_all(monkeypatch, capsys):
    """Also where everything that a recipe imports is there, so that one could print its own."""
    module = load_file("dev", ROOT / "dev.py")
    monkeypatch.setattr(module, "can_help", lambda *_: True)
    monkeypatch.setattr(module.sys, "argv", ["dev.py", "train", "--help"])
    module.main()
    assert "train scenes --work build" in capsys.readouterr().out


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_a_wheel_has_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "mcsjd_core").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == names | {"mcsjd_core.embedded"}


def builds_wheels() -> bool:
    """Setuptools does from 70.1 on, and before with the package wheel."""
    names = ("wheel", "setuptools.command.bdist_wheel")
    return importlib.util.find_spec("setuptools") is not None and any(map(importlib.util.find_spec, names))


@pytest.mark.slow
@pytest.mark.skipif(not builds_wheels(), reason="no setuptools that builds wheels")
def test_a_wheel_carries_the_embedded_models(tmp_path):
    source = tmp_path / "source"  # setuptools writes beside what it builds
    for name in ("mcsjd_core", "embedded"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--config-settings=--build-option=--compression=stored",  # what is in it is asked here, not how large it is
        "-q",
        "-w",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    held = {
        path.relative_to(tmp_path / "site/mcsjd_core/embedded") for path in (tmp_path / "site").rglob("embedded/**/*")
    }
    here = {path.relative_to(ROOT / "embedded") for path in (ROOT / "embedded").rglob("*")}
    assert here <= held
    code = "import mcsjd_core; assert 'site' in mcsjd_core.__file__; mcsjd_core.load(mcsjd_core.EMBEDDED_MODEL)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", check=True, timeout=200)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a group are POSIX's")
def test_a_command_ends_itself_on_ctrl_c():
    """As under Windows, where the command is a child: it may take its time to leave things in order."""
    child = (
        "import time\ntry:\n print('ready', flush=True)\n time.sleep(60)\n"
        "except KeyboardInterrupt:\n time.sleep(1)\n raise SystemExit(130)"
    )
    parent = (
        f"import signal, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport dev\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs in the background inherit that it is ignored
        f"sys.exit(dev.call([sys.executable, '-c', {child!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(timeout=60) == 130
