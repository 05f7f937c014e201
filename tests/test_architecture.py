"""Dependencies point one way. The contracts stand in pyproject.toml; import-linter reads the imports and holds them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "mcsjd_core"
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "nodes", "folder_paths", "server", "execution"}
LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"


def lint(folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_contracts_hold():
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr


WRONG_IMPORTS = {
    "decoding/loop.py": ("from ..families.chameleon import load", "Packages depend on those below them"),
    "decoding/trace.py": ("from ..codecs import vqgan", "Packages depend on those below them"),
    "decoding/state.py": ("from ..nn.transformer import Transformer", "takes the cache alone"),
    "laws/law.py": ("import numpy", "The laws import torch alone"),
    "families/janus.py": ("from .emu3 import load as other", "No family imports another"),
    "pipeline/sampling.py": ("import comfy.utils", "The core knows no host"),
    "pipeline/video.py": ("from ..families.cosmos import load", "Families are known to the registry alone"),
    "stray.py": ("", "Packages depend on those below them"),  # a module that no layer names
}


def test_a_wrong_import_breaks_its_contract(tmp_path):
    """All wrong imports at once: each has to be reported under its own contract."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(CORE, tmp_path / "mcsjd_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (line, _) in WRONG_IMPORTS.items():
        file = tmp_path / "mcsjd_core" / name
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(f"{text}\n{line}\n", encoding="utf-8")
    answer = lint(tmp_path)
    assert answer.returncode == 1
    broken = [line for line in answer.stdout.splitlines() if line.endswith("BROKEN")]
    for name, (_, contract) in WRONG_IMPORTS.items():
        assert any(contract in line for line in broken), name
    for module in ("decoding.trace", "decoding.loop", "stray"):
        assert f"mcsjd_core.{module}" in answer.stdout


def test_contracts_name_every_family():
    from mcsjd_core import FAMILIES

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(text.count(f'"mcsjd_core.families.{name}"') == 2 for name in FAMILIES)


def imports_at_the_start(path: Path) -> set[str]:
    """First names of what a file imports when it is imported itself; imports of its own package are left out."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


NODE_FILES = sorted((ROOT / "nodes").glob("*.py"))
LOADED_BY_COMFYUI = {"comfy", "comfy_api", "folder_paths", "numpy", "torch", "PIL", "tqdm"}


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_nodes_import_at_the_start_only_what_comfyui_has_loaded_already(path):
    """ComfyUI waits for every pack: what is slow to import is imported where it is used."""
    assert imports_at_the_start(path) <= LOADED_BY_COMFYUI


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_imports_itself_relatively(path):
    """ComfyUI loads the pack under a name of its own, so that `mcsjd_core` is no top-level package there."""
    modules = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    absolute = {node.module for node in modules if isinstance(node, ast.ImportFrom) and not node.level}
    absolute |= {alias.name for node in modules if isinstance(node, ast.Import) for alias in node.names}
    assert not {name.split(".")[0] for name in absolute} & {"mcsjd_core", "training"}


def test_the_core_imports_no_host_no_family_no_tqdm_and_nothing_slow():
    """In a process of its own: other tests of this one have loaded hosts and second copies of the core."""
    from mcsjd_core import FAMILIES

    program = "import sys; sys.modules['tqdm'] = None; import mcsjd_core; print(mcsjd_core.__file__, *sys.modules)"
    program += "; del sys.modules['tqdm']; import mcsjd_core.cli; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    (file, *loaded), with_command_line = map(str.split, answer.stdout.splitlines())
    assert Path(file).parent == CORE
    slow = {"transformers", "matplotlib", "huggingface_hub", "torchao"}
    assert not {name.split(".")[0] for name in loaded} & (HOST | slow)
    assert not set(FAMILIES) & {name.rpartition("mcsjd_core.families.")[2] for name in loaded}
    assert "transformers" not in with_command_line, "the bench's comparison alone imports it"
