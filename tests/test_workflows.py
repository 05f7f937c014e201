"""The example graphs: what is shipped runs, here on a stand-in and, where COMFYUI_PATH says so, in a real ComfyUI."""

from __future__ import annotations

import json
import time

import pytest
import torch

from comfy_host import ROOT, Events, api_of_ui, load_file, read_graph, run_graph, schema_problems

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def shipped(name: str) -> dict:
    return read_graph(WORKFLOWS / "api" / f"{name}.json")


def node_of(graph: dict, kind: str) -> str:
    return next(node_id for node_id, node in graph.items() if node["class_type"] == kind)


def with_model(graph: dict, model: str) -> dict:
    """The same graph for another model."""
    graph = json.loads(json.dumps(graph))
    graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"] = model
    return graph


def test_there_are_workflows():
    assert NAMES
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestFiles:
    def test_browser_and_api_file_say_the_same(self, name):
        assert api_of_ui(read_graph(WORKFLOWS / f"{name}.json")) == shipped(name)

    def test_browser_file_has_what_the_frontend_insists_on(self, name):
        ui = read_graph(WORKFLOWS / f"{name}.json")
        assert {"last_node_id", "last_link_id", "nodes", "links", "version"} <= ui.keys()
        for node in ui["nodes"]:
            assert {"id", "type", "pos", "size", "flags", "order", "mode", "properties"} <= node.keys()

    def test_links_agree_from_both_ends(self, name):
        ui = read_graph(WORKFLOWS / f"{name}.json")
        nodes = {node["id"]: node for node in ui["nodes"]}
        for number, source, slot, target, place, kind in ui["links"]:
            assert number in nodes[source]["outputs"][slot]["links"]
            assert nodes[source]["outputs"][slot]["type"] == kind
            assert nodes[target]["inputs"][place]["link"] == number

    def test_nodes_do_not_overlap(self, name):
        title = 30
        boxes = [(*node["pos"], *node["size"]) for node in read_graph(WORKFLOWS / f"{name}.json")["nodes"]]
        for i, (x, y, width, height) in enumerate(boxes):
            for other_x, other_y, other_width, other_height in boxes[:i]:
                beside = x >= other_x + other_width or other_x >= x + width
                assert beside or y - title >= other_y + other_height or other_y - title >= y + height

    def test_values_and_links_fit_the_nodes(self, name, pack):
        assert schema_problems(pack, shipped(name)) == []

    def test_it_starts_with_the_embedded_model(self, name, pack):
        graph = shipped(name)
        assert graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"] == pack.folders.EMBEDDED


def shipped_for(pack, monkeypatch, directory, name: str) -> dict:
    """The graph with the model in `directory` in place of the embedded one, and windows that suit it."""
    monkeypatch.setattr(pack.core, "EMBEDDED_MODEL", directory)
    graph = shipped(name)
    for node in graph.values():
        if node["class_type"] == "MCSJD_CropTokens":
            node["inputs"]["rows"] = 2
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_runs_and_shows_its_pictures(name, pack, tiny_checkpoint, monkeypatch):
    graph = shipped_for(pack, monkeypatch, tiny_checkpoint, name)
    results = run_graph(pack, graph)
    previews = [results[node_id][0] for node_id, node in graph.items() if node["class_type"] == "PreviewImage"]
    assert previews
    for images in previews:
        assert images.ndim == 4 and images.shape[-1] == 3 and images.dtype == torch.float32
        assert images.device.type == "cpu" and images.min() >= 0 and images.max() <= 1
    for node_id, node in graph.items():
        if node["class_type"] == "MCSJD_Stats":
            pictures = len(results[node["inputs"]["stats"][0]][0].tokens)
            assert results[node_id][0].count("picture ") == pictures


def results_of(name, pack, directory, monkeypatch) -> dict[str, tuple]:
    return run_graph(pack, shipped_for(pack, monkeypatch, directory, name))


def test_comparison_draws_one_seed_by_three_methods(pack, tiny_checkpoint, monkeypatch):
    results = results_of("2_ar_sjd_and_mc-sjd", pack, tiny_checkpoint, monkeypatch)
    settings = [results[node][1].settings for node in ("10", "20", "30")]
    assert [each.coupling for each in settings] == ["autoregressive", "independent", "maximal"]
    assert len({each.seed for each in settings}) == 1
    assert all("Speed-up over plain AR, measured" in results[node][0] for node in ("25", "35"))


def test_seed_exact_workflow_shows_no_difference(pack, tiny_checkpoint, monkeypatch):
    results = results_of("3_seed_exact", pack, tiny_checkpoint, monkeypatch)
    assert results["10"][0].tokens.equal(results["20"][0].tokens) and results["30"][0].max() == 0


def test_continuations_keep_the_upper_rows(pack, tiny_checkpoint, monkeypatch):
    results = results_of("4_continue_a_picture", pack, tiny_checkpoint, monkeypatch)
    kept, continued = results["6"][0].tokens, results["7"][0].tokens
    assert continued.shape[0] == 4 and (continued[:, : kept.shape[1]] == kept).all()
    assert len({tuple(row.tolist()) for row in continued}) == 4


def test_warm_start_draws_the_same_picture_as_a_cold_one(pack, tiny_checkpoint, monkeypatch):
    results = results_of("6_warm_start", pack, tiny_checkpoint, monkeypatch)
    assert results["20"][0].tokens.equal(results["30"][0].tokens)
    assert results["30"][1].settings.initialiser == "warm"


# -- in a real ComfyUI -------------------------------------------------------------------------------------------------


def start(server, graph: dict, client_id: str) -> str:
    status, answer = server.post("/prompt", {"prompt": graph, "client_id": client_id})
    assert status == 200 and not answer["node_errors"], answer
    return answer["prompt_id"]


def run(server, graph: dict, client_id: str) -> list[dict]:
    with Events(server, client_id) as events:
        return list(events.until_done(start(server, graph, client_id)))


def runnable(server, name: str) -> dict:
    """The shipped graph; with the tiny model in place of an embedded one that has not been trained yet."""
    embedded = (ROOT / "embedded" / "emoji-256" / "config.json").exists()
    return shipped(name) if embedded else with_model(shipped(name), "tiny")


@pytest.mark.comfyui
def test_comfyui_loads_the_pack_without_a_word(comfyui):
    known = comfyui.get("/object_info")
    assert {"MCSJD_LoadModel", "MCSJD_Sampler", "MCSJD_Decode", "MCSJD_Stats"} <= known.keys()
    assert "IMPORT FAILED" not in comfyui.log
    models = known["MCSJD_LoadModel"]["input"]["required"]["model"][1]["options"]
    assert models == ["embedded: emoji-256", "many-tokens", "tiny"]


@pytest.mark.comfyui
def test_comfyui_lists_the_workflows_as_templates(comfyui):
    assert sorted(comfyui.get("/workflow_templates")["mc-sjd"]) == NAMES


@pytest.mark.comfyui
def test_shipped_files_are_what_the_generator_writes(comfyui, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    generator = load_file("make_workflows", ROOT / "scripts" / "make_workflows.py")
    for path, text in generator.files(comfyui.get("/object_info")).items():
        assert path.read_text(encoding="utf-8") == text, f"run scripts/make_workflows.py: {path.name} is out of date"


@pytest.mark.comfyui
@pytest.mark.parametrize("name", NAMES)
def test_comfyui_runs_the_workflow_and_counts_tokens(comfyui, name):
    graph = runnable(comfyui, name)
    sampler = node_of(graph, "MCSJD_Sampler")
    messages = run(comfyui, graph, f"run-{name}")
    assert messages[-1]["type"] == "execution_success", messages[-1]
    bars = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == sampler]
    assert bars[-1]["value"] == bars[-1]["max"]
    assert [bar["value"] for bar in bars] == sorted(bar["value"] for bar in bars)
    outputs = {m["data"]["node"]: m["data"]["output"] for m in messages if m["type"] == "executed"}
    assert len(outputs[node_of(graph, "PreviewImage")]["images"]) == graph[sampler]["inputs"]["batch_size"]
    assert "step compression" in outputs[node_of(graph, "PreviewAny")]["text"][0]


@pytest.mark.comfyui
def test_stop_ends_the_run_and_the_next_one_works(comfyui):
    graph = with_model(shipped("1_quickstart"), "many-tokens")
    inputs = graph[node_of(graph, "MCSJD_Sampler")]["inputs"]
    inputs |= {"coupling": "plain AR", "batch_size": 16}
    interrupted = None
    with Events(comfyui, "stop") as events:
        prompt_id = start(comfyui, graph, "stop")
        for message in events.until_done(prompt_id):
            if interrupted is None and message["type"] == "progress":
                comfyui.post("/interrupt", {})
                interrupted = time.monotonic()
    assert message["type"] == "execution_interrupted"
    assert time.monotonic() - interrupted < 5
    assert run(comfyui, with_model(graph, "tiny"), "after-stop")[-1]["type"] == "execution_success"


@pytest.mark.comfyui
def test_a_fault_reaches_the_user_in_one_sentence(comfyui):
    (damaged := comfyui.log_file.parent / "models" / "mcsjd" / "damaged").mkdir()
    (damaged / "config.json").write_text('{"model_type": "gpt2"}')
    error = run(comfyui, with_model(shipped("1_quickstart"), "damaged"), "fault")[-1]
    assert error["type"] == "execution_error"
    assert "gpt2" in error["data"]["exception_message"] and error["data"]["exception_message"].strip().count("\n") == 0
