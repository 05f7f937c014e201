"""Write the example graphs in `workflows/`, for the browser and (in `workflows/api/`) for the HTTP interface, and the
blueprint in `subgraphs/`.

    python scripts/make_workflows.py --server http://127.0.0.1:8188 [--thumbnails [WORDS]]

The nodes' inputs, defaults and outputs are read from a running ComfyUI that has the pack, so that graphs and nodes
always agree. Thumbnails are made of the pictures that the graphs draw there, or of the name where a
public model would be needed.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import blueprint
from graph_parts import NOTE, Node, Workflow
from workflow_graphs import WORKFLOWS

FOLDER = Path(__file__).resolve().parent.parent / "workflows"
BLUEPRINTS = FOLDER.parent / "subgraphs"  # ComfyUI lists what lies there
PACK = {"cnr_id": "mc-sjd", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.3.64"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a menu whose choice brings inputs of its own, as newer versions have
PREFIX = "MCSJD_"  # of the pack's node ids
VIEW, MARGIN = (1430, 860), (75, 80)  # pixels of a window of 1600 x 1000 that are free, and where they begin
TITLE, GROWTH = 30, 60  # of a node above its position; of the lowest ones in Nodes 2.0
OPTIONAL_SHAPE = 7  # the browser's sign for an input that may stay open


@dataclass(frozen=True)
class Schema:
    """What `/object_info` says of a node type: options of its inputs in order, and (name, type) of its outputs."""

    inputs: dict[str, tuple[str, dict]]
    outputs: list[tuple[str, str]]
    optional: frozenset[str]

    @classmethod
    def read(cls, info: dict) -> Schema:
        inputs = {}
        for group in ("required", "optional"):
            for name in info["input_order"].get(group, []):
                kind, *options = info["input"][group][name]
                inputs[name] = _widget(kind, options[0] if options else {})
        outputs = list(zip(info["output_name"], info["output"], strict=True))
        return cls(inputs, outputs, frozenset(info["input_order"].get("optional", [])))

    def slots(self) -> list[str]:
        """Inputs as the browser saves them: sockets first, then widgets, which can be connected too."""
        return [*(name for name in self.inputs if not self.is_widget(name)), *self.widgets()]

    def widgets(self) -> list[str]:
        return [name for name in self.inputs if self.is_widget(name)]

    def is_widget(self, name: str) -> bool:
        kind, options = self.inputs[name]
        return kind in WIDGETS and not options.get("forceInput")

    def value(self, node: Node, name: str):
        """What the node sets, or the default, as the browser fills it in."""
        kind, options = self.inputs[name]
        empty = {"STRING": "", "INT": 0, "FLOAT": 0.0}.get(kind)
        return node.values.get(name, options.get("default", empty))


def _widget(kind: str | list, options: dict) -> tuple[str, dict]:
    """Type and options of an input, as older versions name them: files are the same, whichever version writes them."""
    if isinstance(kind, list):
        return "COMBO", options
    if kind == DYNAMIC_COMBO:
        choices = [choice["key"] for choice in options["options"]]
        return "COMBO", options | {"options": choices, "default": options.get("default", choices[0])}
    return kind, options


class Graph:
    """A workflow together with the schemas of its nodes' types."""

    def __init__(self, workflow: Workflow, object_info: dict):
        nodes, self.app = workflow.nodes, workflow.app
        self.nodes = nodes
        self.schemas = {node.id: Schema.read(object_info[node.type]) for node in nodes if node.type != NOTE}
        wires = [(*source, node.id, name) for node in nodes for name, source in node.links.items()]
        self.link_ids = {wire: number for number, wire in enumerate(wires, 1)}

    def api(self) -> dict:
        """The graph as `POST /prompt` takes it."""
        return {str(node.id): self._api_node(node) for node in self.nodes if node.type != NOTE}

    def _api_node(self, node: Node) -> dict:
        schema = self.schemas[node.id]
        values = {name: schema.value(node, name) for name in schema.widgets()}
        links = {name: [str(source), slot] for name, (source, slot) in node.links.items()}
        return {"class_type": node.type, "inputs": values | links}

    def ui(self, name: str) -> dict:
        """The graph as the browser opens it."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mc-sjd/{name}")),
            "last_node_id": max(node.id for node in self.nodes),
            "last_link_id": len(self.link_ids),
            "nodes": [self._ui_node(order, node) for order, node in enumerate(self.nodes)],
            "links": [self._ui_link(*wire, number) for wire, number in self.link_ids.items()],
            "groups": [],
            "config": {},
            "extra": self._extra(),
            "version": 0.4,
        }

    def _extra(self) -> dict:
        """The view that the graph opens with, and what App mode shows of it."""
        corners = [(*node.pos, node.pos[0] + node.size[0], node.pos[1] + node.size[1]) for node in self.nodes]
        left, top = (min(corner[side] for corner in corners) for side in (0, 1))
        right, bottom = (max(corner[side] for corner in corners) for side in (2, 3))
        scale = min(1.0, VIEW[0] / (right - left), VIEW[1] / (bottom - top + TITLE + GROWTH))
        scale = math.floor(scale * 100) / 100
        offset = [round(MARGIN[0] / scale - left), round(MARGIN[1] / scale - top + TITLE)]
        extra: dict = {"ds": {"scale": scale, "offset": offset}}
        if self.app:
            inputs, outputs = self.app
            extra |= {
                "linearMode": False,
                "linearData": {"inputs": [list(entry) for entry in inputs], "outputs": outputs},
            }
        return extra

    def _ui_link(self, source: int, slot: int, target: int, name: str, number: int) -> list:
        input_slot = self.schemas[target].slots().index(name)
        return [number, source, slot, target, input_slot, self.schemas[source].outputs[slot][1]]

    def _ui_node(self, order: int, node: Node) -> dict:
        common = {"id": node.id, "type": node.type, "pos": list(node.pos), "size": list(node.size), "flags": {}}
        common |= {"order": order, "mode": 0} | ({"title": node.title} if node.title else {})
        if node.type == NOTE:
            colors = {"color": "#432", "bgcolor": "#653"}
            values = list(node.values.values())
            properties = {"mcsjd_font_size": node.font_size}
            return common | {"inputs": [], "outputs": [], "properties": properties, "widgets_values": values} | colors
        properties = (PACK if node.type.startswith(PREFIX) else CORE) | {"Node name for S&R": node.type}
        return common | {
            "inputs": self._ui_inputs(node),
            "outputs": self._ui_outputs(node),
            "properties": properties,
            "widgets_values": self._widget_values(node),
        }

    def _ui_inputs(self, node: Node) -> list[dict]:
        """Sockets first, then the widgets, as the browser itself saves them."""
        schema = self.schemas[node.id]
        links = {name: self.link_ids.get((*source, node.id, name)) for name, source in node.links.items()}
        entries = []
        for name in schema.slots():
            widget = {"widget": {"name": name}} if schema.is_widget(name) else {}
            shape = {"shape": OPTIONAL_SHAPE} if name in schema.optional else {}
            entries.append({"name": name, "type": schema.inputs[name][0], **shape, **widget, "link": links.get(name)})
        return entries

    def _ui_outputs(self, node: Node) -> list[dict]:
        """Outputs of core nodes that lead nowhere are left out: they differ between versions of ComfyUI."""
        entries = []
        for slot, (name, kind) in enumerate(self.schemas[node.id].outputs):
            links = [number for wire, number in self.link_ids.items() if wire[:2] == (node.id, slot)]
            if links or node.type.startswith(PREFIX):
                entries.append({"name": name, "type": kind, "links": links or None})
        return entries

    def _widget_values(self, node: Node) -> list:
        """One value a widget, and after a seed what becomes of it when the graph has run."""
        schema, values = self.schemas[node.id], []
        for name in schema.widgets():
            values.append(schema.value(node, name))
            if schema.inputs[name][1].get("control_after_generate"):
                values.append("fixed")
        return values


def files(object_info: dict) -> dict[Path, str]:
    """Every file to write, with its text."""
    written = {}
    for name, workflow in WORKFLOWS.items():
        graph = Graph(workflow, object_info)
        for path, content in (
            (FOLDER / f"{name}.json", graph.ui(name)),
            (FOLDER / "api" / f"{name}.json", graph.api()),
        ):
            written[path] = as_text(content)
    whole = blueprint.blueprint(Graph(blueprint.INSIDE, object_info))
    return written | {BLUEPRINTS / f"{blueprint.NAME}.json": as_text(whole)}


def as_text(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


class Server:
    """A running ComfyUI."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def read(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def pictures(self, api: dict, nodes: tuple[int, ...]) -> list[bytes]:
        """Files of every picture that the given nodes of a graph show."""
        run = json.loads(self.read("/prompt", {"prompt": api}))["prompt_id"]
        while not (history := json.loads(self.read(f"/history/{run}"))):
            time.sleep(0.5)
        if history[run]["status"]["status_str"] != "success":
            raise SystemExit(f"A graph failed: {history[run]['status']['messages'][-1]}")
        outputs = history[run]["outputs"]
        images = [image for node in nodes for image in outputs[str(node)]["images"]]
        return [self.read(f"/view?{urllib.parse.urlencode(image)}") for image in images]


def thumbnail(pictures: list[bytes], side: int = 512) -> bytes:
    """JPEG of the pictures in a square grid; a last one that would begin a new row alone is left out."""
    from PIL import Image

    count = math.ceil((len(pictures) - 1) ** 0.5) or 1
    sheet = Image.new("RGB", (side, side), "white")
    for index, data in enumerate(pictures[: count**2]):
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((side // count, side // count), Image.LANCZOS)
        sheet.paste(picture, (index % count * (side // count), index // count * (side // count)))
    return jpeg(sheet)


def jpeg(picture) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def title_card(name: str, side: int = 512) -> bytes:
    """JPEG of a graph's name: a public model's pictures cannot be had without its weights, and a template needs a thumbnail."""
    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", (side, side), "#2b2d36")
    words = name.removeprefix("MC-SJD ")[3:] + "\n\na public model:\nGet Model downloads it"
    middle = (side // 2, side // 2)
    ImageDraw.Draw(card).multiline_text(
        middle, words, "white", ImageFont.load_default(34), anchor="mm", align="center", spacing=10
    )
    return jpeg(card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="a running ComfyUI that has the pack")
    parser.add_argument(
        "--thumbnails",
        nargs="?",
        const="",
        help="run the graphs of the embedded models, too, and make the thumbnails; of "
        "those whose names hold the given words, if any",
    )
    arguments = parser.parse_args()
    server = Server(arguments.server)
    object_info = json.loads(server.read("/object_info"))
    for path, text in files(object_info).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(FOLDER.parent))
    wanted = [] if arguments.thumbnails is None else [name for name in WORKFLOWS if arguments.thumbnails in name]
    for name, workflow in ((name, WORKFLOWS[name]) for name in wanted):
        if workflow.thumbnail:
            card = thumbnail(server.pictures(Graph(workflow, object_info).api(), workflow.thumbnail))
        else:
            card = title_card(name)
        (FOLDER / f"{name}.jpg").write_bytes(card)


if __name__ == "__main__":
    main()
