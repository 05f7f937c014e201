"""The subgraph blueprint that ComfyUI offers as one node: from a prompt to pictures with any of the pack's models.

ComfyUI lists the files in a pack's folder `subgraphs/` (0.3.67 or newer). Such a file is a graph whose root holds one node, and
whose `definitions` hold the subgraph that the node stands for.
"""

from __future__ import annotations

import uuid

from graph_parts import DECODE, GAP, LOADER, SAMPLER, Node, Workflow

NAME = "Text to image (MC-SJD)"
DESCRIPTION = "Draws pictures from a prompt with an autoregressive model, several tokens per forward."
ALIASES = ["MC-SJD", "SJD", "autoregressive", "speculative", "text to image"]
IN, OUT = -10, -20  # ids that ComfyUI gives the ends of a subgraph
LOAD, SAMPLE, DRAW = 1, 2, 3
PROMOTED = ((LOAD, "model"), (SAMPLE, "prompt"), (SAMPLE, "seed"), (SAMPLE, "coupling"), (SAMPLE, "batch_size"))
RESULTS = ((DRAW, 0, "image"), (SAMPLE, 1, "stats"))
SIZE, END = (400, 420), (120, 40)  # of the node that stands for it; of an end inside of it

x = [0, LOADER[0] + GAP, LOADER[0] + SAMPLER[0] + 2 * GAP]
INSIDE = Workflow(
    [
        Node(LOAD, "MCSJD_LoadModel", (x[0], 0), LOADER),
        Node(SAMPLE, "MCSJD_Sampler", (x[1], 0), SAMPLER, {}, {"model": (LOAD, 0)}),
        Node(DRAW, "MCSJD_Decode", (x[2], 0), DECODE, {}, {"model": (LOAD, 0), "tokens": (SAMPLE, 0)}),
    ],
    thumbnail=(),
)


def id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mc-sjd/blueprint/{name}"))


def blueprint(graph) -> dict:
    """The file's content; `graph` is INSIDE with the schemas of its nodes, see `make_workflows.Graph`."""
    inner = graph.ui(NAME)
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
             for link in inner["links"]]  # fmt: skip
    inputs = [_promote(nodes, links, slot, *promoted) for slot, promoted in enumerate(PROMOTED)]
    outputs = [_hand_out(nodes, links, slot, *result) for slot, result in enumerate(RESULTS)]
    subgraph = {
        "id": id_of(NAME),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": max(nodes), "lastLinkId": links[-1]["id"], "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": NAME,
        "category": "MC-SJD",
        "description": DESCRIPTION,
        "inputNode": {"id": IN, "bounding": [-END[0] - GAP, 0, *END]},
        "outputNode": {"id": OUT, "bounding": [x[2] + DECODE[0] + GAP, 0, *END]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
    }
    return {
        "id": id_of("root"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [_stand_in(graph, inputs, outputs)],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {"BlueprintDescription": DESCRIPTION, "BlueprintSearchAliases": ALIASES},
        "version": 0.4,
    }


def _promote(nodes: dict, links: list[dict], slot: int, id: int, name: str) -> dict:
    """Let a widget of an inner node be filled in from outside: a link from the subgraph's input to the widget's."""
    place, entry = next((i, e) for i, e in enumerate(nodes[id]["inputs"]) if e["name"] == name)
    number = links[-1]["id"] + 1
    links.append({"id": number, "origin_id": IN, "origin_slot": slot, "target_id": id, "target_slot": place,
                  "type": entry["type"]})  # fmt: skip
    entry["link"] = number
    return {"id": id_of(name), "name": name, "type": entry["type"], "linkIds": [number], "pos": [0, 20 * slot]}


def _hand_out(nodes: dict, links: list[dict], slot: int, id: int, output: int, name: str) -> dict:
    entry = nodes[id]["outputs"][output]
    number = links[-1]["id"] + 1
    links.append({"id": number, "origin_id": id, "origin_slot": output, "target_id": OUT, "target_slot": slot,
                  "type": entry["type"]})  # fmt: skip
    entry["links"] = [*(entry["links"] or []), number]
    return {"id": id_of(f"out {name}"), "name": name, "type": entry["type"], "linkIds": [number], "pos": [0, 20 * slot]}


def _stand_in(graph, inputs: list[dict], outputs: list[dict]) -> dict:
    """The one node of the root, with the promoted widgets' defaults: one value each, since what becomes of a seed after a run is
    not promoted with it.
    """
    by_id = {node.id: node for node in graph.nodes}
    values = [graph.schemas[id].value(by_id[id], name) for id, name in PROMOTED]
    return {
        "id": 1,
        "type": id_of(NAME),
        "pos": [0, 0],
        "size": list(SIZE),
        "flags": {},
        "order": 0,
        "mode": 0,
        "title": NAME,
        "inputs": [{"name": i["name"], "type": i["type"], "widget": {"name": i["name"]}, "link": None} for i in inputs],
        "outputs": [{"name": o["name"], "type": o["type"], "links": None} for o in outputs],
        "properties": {"cnr_id": "mc-sjd", "ver": "0.1.0"},
        "widgets_values": values,
    }
