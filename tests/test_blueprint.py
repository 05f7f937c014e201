"""The blueprint that ComfyUI offers as one node: what it shows outside is what it holds inside, and it draws."""

from __future__ import annotations

import pytest

from comfy_host import ROOT, api_of_ui, read_graph, run_graph, schema_problems

PATHS = sorted((ROOT / "subgraphs").glob("*.json"))
ENDS = {-10: "inputs", -20: "outputs"}  # ids by which links name the ends of a subgraph


def parts(path) -> tuple[dict, dict]:
    """The one node of the root, and the subgraph that it stands for."""
    ui = read_graph(path)
    (root,), (subgraph,) = ui["nodes"], ui["definitions"]["subgraphs"]
    assert root["type"] == subgraph["id"]
    return root, subgraph


def inside(subgraph: dict) -> dict:
    """The subgraph's nodes in the API format, without what comes from outside."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [
        [link[key] for key in keys]
        for link in subgraph["links"]
        if not ENDS.keys() & {link["origin_id"], link["target_id"]}
    ]
    known = {link[0] for link in links}
    nodes = [
        node
        | {"inputs": [entry | {"link": entry["link"] if entry["link"] in known else None} for entry in node["inputs"]]}
        for node in subgraph["nodes"]
    ]
    return api_of_ui({"nodes": nodes, "links": links})


def test_there_is_one():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestBlueprint:
    def test_it_stores_one_value_for_each_promoted_widget_in_their_order(self, path):
        """More of them, such as what becomes of a seed after a run, would shift all that follow."""
        root, subgraph = parts(path)
        links, graph = {link["id"]: link for link in subgraph["links"]}, inside(subgraph)
        nodes = {node["id"]: node for node in subgraph["nodes"]}
        expected = []
        for entry, end in zip(root["inputs"], subgraph["inputs"], strict=True):
            link = links[end["linkIds"][0]]
            widget = nodes[link["target_id"]]["inputs"][link["target_slot"]]["widget"]["name"]
            assert entry["name"] == end["name"] and entry["widget"] == {"name": widget}
            expected.append(graph[str(link["target_id"])]["inputs"][widget])
        assert root["widgets_values"] == expected

    def test_links_agree_from_both_ends(self, path):
        root, subgraph = parts(path)
        nodes = {node["id"]: node for node in subgraph["nodes"]}
        for link in subgraph["links"]:
            if link["origin_id"] in ENDS:
                assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
            else:
                assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
            if link["target_id"] in ENDS:
                assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]
            else:
                assert link["id"] == nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"]
        assert [entry["name"] for entry in root["outputs"]] == [end["name"] for end in subgraph["outputs"]]

    def test_what_it_holds_fits_the_nodes_and_draws(self, path, pack, tiny_checkpoint, monkeypatch):
        monkeypatch.setattr(pack.core, "EMBEDDED_MODEL", tiny_checkpoint)
        graph = inside(parts(path)[1])
        assert schema_problems(pack, graph) == []
        results = run_graph(pack, graph)
        assert any(getattr(value, "ndim", 0) == 4 for outputs in results.values() for value in outputs)
