"""Which module may import which: the core knows no host, the mathematics knows no model, the loop knows no family."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "mcsjd_core"
FILES = sorted(CORE.rglob("*.py"))
HOST = (
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "nodes",
    "folder_paths",
    "server",
    "execution",
    "node_helpers",
)

# What a module may import beside torch and the standard library; names of the core are relative to it.
ALLOWED = {
    "errors": set(),
    "sizes": {"errors"},
    "imagenet": {"errors"},
    "noise": set(),
    "kv_cache": set(),
    "grid_positions": set(),
    "layers": set(),
    "laws": {"errors"},
    "grid": {"errors"},
    "drafts": {"grid"},
    "coupling": {"laws", "noise"},
    "trace": {"laws"},
    "transformer": {"errors", "kv_cache", "layers"},
    "token_model": {"kv_cache", "models.interface", "transformer"},
    "rank_tokenizer": {"errors", "tokenizers"},
    "codecs.vqgan": {"errors"},
    "codecs.torchscript_video": {"codecs.fsq_video", "errors"},
    "codecs.emu3_vq": {"codecs.vqgan"},
    "codecs.vq16": {"codecs.vqgan"},
    "codecs.fsq": {"errors"},
    "codecs.haar": set(),
    "codecs.fsq_video": {"codecs.fsq", "codecs.haar", "errors"},
    "t5": {"errors", "text_tokenizer", "transformers"},
    "arguments": {"errors", "grid", "laws", "models.interface"},
    "packing": set(),
    "timing": {"decode", "grid", "iteration", "models.interface", "runners"},
    "runners": {"errors", "iteration"},
    "window_policy": set(),
    "settings": {"coupling", "drafts", "errors", "laws", "window_policy"},
    "schedule": {"models.interface", "settings", "window_policy"},
    "trajectories": {"grid", "iteration", "kv_cache", "laws", "noise", "settings"},
    "state": {"drafts", "grid", "laws", "models.interface", "noise", "settings", "trace"},
    "iteration": {
        "coupling",
        "drafts",
        "errors",
        "grid",
        "laws",
        "models.interface",
        "noise",
        "settings",
        "state",
        "trace",
    },
    "ledger": {"trace"},
    "decode": {
        "arguments",
        "grid",
        "iteration",
        "ledger",
        "models.interface",
        "runners",
        "schedule",
        "settings",
        "state",
        "trace",
        "trajectories",
    },
    "tensor_files": {"errors", "safetensors"},
    "checkpoint": {"errors", "tensor_files"},
    "text_tokenizer": {"errors", "tokenizers"},
    "weights": {"errors", "torchao"},
    "downloads": {"errors", "huggingface_hub"},
    "hf_config": {"checkpoint", "codecs.vqgan", "errors", "models.interface", "transformer"},
    "models.interface": {"codecs.fsq_video", "codecs.vqgan", "errors", "grid", "kv_cache"},
    "pixels": {"errors"},
    "video": {"errors", "grid", "models.interface", "pixels", "sizes"},
    "preview": {"decode", "grid", "models.interface"},
    "analysis": {"errors", "grid", "trace"},
    "charts": {"analysis", "errors", "matplotlib", "report"},
}
FOR_FAMILIES = {
    "checkpoint",
    "codecs.emu3_vq",
    "codecs.fsq_video",
    "codecs.torchscript_video",
    "codecs.vq16",
    "codecs.vqgan",
    "errors",
    "grid",
    "grid_positions",
    "hf_config",
    "imagenet",
    "kv_cache",
    "layers",
    "rank_tokenizer",
    "sizes",
    "t5",
    "text_tokenizer",
    "token_model",
    "transformer",
    "models.interface",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(CORE).with_suffix("").parts)


def imports(source: str, module: str = "") -> set[str]:
    """Everything a module of the core imports: outside packages by their first name, core modules by their path in it."""
    package, found = module.split(".")[:-1], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) + 1 - node.level] + (node.module.split(".") if node.module else [])
            whole = [".".join([*parts, alias.name]) for alias in node.names]
            found |= {name if is_module(name) else ".".join(parts) for name in whole}
    return found


def is_module(name: str) -> bool:
    path = CORE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def of_core(path: Path) -> set[str]:
    return imports(path.read_text(encoding="utf-8"), module_name(path))


def own(found: set[str]) -> set[str]:
    """Without torch and the standard library."""
    return {name for name in found if name != "torch" and name.split(".")[0] not in sys.stdlib_module_names}


def test_imports_are_read_rightly():
    lines = (
        "import os.path",
        "from torch import nn",
        "from ..grid import Grid",
        "from .interface import Prompt",
        "from . import chameleon",
    )
    source = "\n".join(lines)
    assert imports(source, "models.chameleon") == {"os", "torch", "grid", "models.interface", "models.chameleon"}
    assert imports("def f():\n    import comfy.utils", "decode") == {"comfy"}
    assert len(FILES) > 15


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_core_never_imports_a_host(path):
    assert not of_core(path) & set(HOST)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_core_imports_itself_relatively(path):
    assert not of_core(path) & {"mcsjd_core", "training"}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_core_module_imports_only_what_stands_below_it(name):
    assert own(of_core(CORE.joinpath(*name.split(".")).with_suffix(".py"))) <= ALLOWED[name]


FAMILIES = [path for path in FILES if path.parent.name == "models" and path.stem not in ("__init__", "interface")]


@pytest.mark.parametrize("path", FAMILIES, ids=module_name)
def test_a_family_imports_shared_parts_and_no_other_family(path):
    assert own(of_core(path)) <= FOR_FAMILIES


def test_only_registries_and_entry_points_know_the_families():
    names = {module_name(path) for path in FAMILIES} | {"models"}
    knowing = {module_name(path) for path in FILES if of_core(path) & names}
    # The bench measures the shapes of public models, and writes a checkpoint of one.
    assert knowing <= {"models.__init__", "__init__", "loading", "bench.shapes", "bench.janus_checkpoint"}


FOR_NODES = {"comfy", "comfy_api", "folder_paths", "numpy", "torch", "PIL", "tqdm", "mcsjd_core"}
NODE_FILES = sorted((ROOT / "nodes").glob("*.py"))


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_nodes_import_at_the_start_only_what_comfyui_has_loaded_already(path):
    """ComfyUI waits for every pack: what is slow to import is imported where it is used."""
    lines = [ast.unparse(node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    found = imports("\n".join(line for line in lines if line.startswith(("import ", "from "))), "nodes.x")
    outside = {name.split(".")[0] for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    own_files = {path.stem for path in NODE_FILES} | {"nodes"}
    assert outside - {""} <= FOR_NODES | own_files  # "" is the pack itself


def test_the_core_imports_without_a_host_in_sight():
    """In a process of its own: other tests of this one have loaded hosts and second copies of the core."""
    program = "import sys, mcsjd_core; print(mcsjd_core.__file__, *sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    file, *loaded = answer.stdout.split()
    assert Path(file).parent == CORE
    assert not {name.split(".")[0] for name in loaded} & {*HOST, "transformers", "matplotlib", "huggingface_hub"}
