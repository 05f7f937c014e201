"""The pack in a real ComfyUI, where COMFYUI_PATH names one: over HTTP and WebSocket, as the browser uses it."""

from __future__ import annotations

import json
import time
import urllib.request

import pytest

from comfy_host import ROOT, WORKFLOWS, is_link, load_file, node_of, shipped, without_diffusion
from comfy_server import Events

pytestmark = pytest.mark.comfyui

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
NODE_IDS = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}  # every node has a help page


def with_model(graph: dict, model: str) -> dict:
    """The same graph for another model; crops keep 2 rows, which the small ones have, and videos are drawn by another one."""
    graph = without_diffusion(json.loads(json.dumps(graph)))
    if draws_video(graph):
        model = f"{model}-video"
    for node in graph.values():
        if node["class_type"] == "MCSJD_LoadModel":
            node["inputs"]["model"] = model
        elif node["class_type"] == "MCSJD_CropTokens":
            node["inputs"]["rows"] = 2
    return graph


def draws_video(graph: dict) -> bool:
    return any(node["class_type"] == "MCSJD_DecodeVideo" for node in graph.values())


def small(**changes) -> dict:
    """The quickstart with the tiny model and `changes` of the sampler; a seed of its own, so that nothing is cached."""
    graph = with_model(shipped("MC-SJD 01 Quickstart"), "tiny")
    graph[node_of(graph, "MCSJD_Sampler")]["inputs"] |= {"seed": time.monotonic_ns() % 2**31} | changes
    return graph


def start(server, graph: dict, client_id: str) -> str:
    status, answer = server.post("/prompt", {"prompt": graph, "client_id": client_id})
    assert status == 200 and not answer["node_errors"], answer
    return answer["prompt_id"]


def run(server, graph: dict, client_id: str = "test") -> list[dict]:
    with Events(server, client_id) as events:
        events.send({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        return list(events.until_done(start(server, graph, client_id)))


def succeeds(server, graph: dict) -> list[dict]:
    messages = run(server, graph)
    assert messages[-1]["type"] == "execution_success", messages[-1]
    return messages


def executed(messages: list[dict]) -> set[str]:
    """Nodes that ran, in a run whose other nodes were remembered."""
    # A client that comes back at once is told the last node of the run before, without the run's id.
    told = [message["data"] for message in messages if message["type"] == "executing"]
    return {data["node"] for data in told if "prompt_id" in data} - {None}


def test_the_pack_loads_without_a_word(comfyui):
    known = comfyui.get("/object_info")
    assert known.keys() >= NODE_IDS
    assert "IMPORT FAILED" not in comfyui.log and "Traceback" not in comfyui.log
    models = known["MCSJD_LoadModel"]["input"]["required"]["model"][1]["options"]
    assert models == ["embedded: scenes", "embedded: motion", "many-rows", "many-tokens", "tiny", "tiny-video"]


def test_texts_help_and_script_are_served(comfyui):
    texts = comfyui.get("/i18n")
    assert texts["zh"]["nodeDefs"].keys() == texts["en"]["nodeDefs"].keys() == NODE_IDS
    for path in ("js/text.js", "docs/MCSJD_Sampler.md", "docs/MCSJD_Sampler/zh.md"):
        with urllib.request.urlopen(f"http://127.0.0.1:{comfyui.port}/extensions/mc-sjd/{path}") as answer:
            assert answer.read() == (ROOT / "web" / path).read_bytes()


def test_comfyui_lists_the_workflows_as_templates(comfyui):
    assert sorted(comfyui.get("/workflow_templates")["mc-sjd"]) == NAMES


def test_shipped_files_are_what_the_generators_write(comfyui, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    object_info = comfyui.get("/object_info")
    for path, text in load_file("make_workflows", ROOT / "scripts" / "make_workflows.py").files(object_info).items():
        assert path.read_text(encoding="utf-8") == text, f"run scripts/make_workflows.py: {path.name} is out of date"
    definitions = load_file("make_locales", ROOT / "scripts" / "make_locales.py").node_definitions(object_info)
    assert json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")) == definitions


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_runs_counts_its_tokens_and_shows_its_pictures(comfyui, name):
    graph = with_model(shipped(name), "tiny")
    for node in graph.values():  # a seed of its own, or what another graph drew would be shown
        if "seed" in node["inputs"] and not is_link(node["inputs"]["seed"]):
            node["inputs"]["seed"] += 1000 * NAMES.index(name)
    messages = succeeds(comfyui, graph)
    outputs = {m["data"]["node"]: m["data"]["output"] for m in messages if m["type"] == "executed"}
    for node_id, node in graph.items():
        if node["class_type"] == "MCSJD_Sampler":
            bars = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == node_id]
            values = [bar["value"] for bar in bars]
            assert values == sorted(values) and values[-1] == bars[-1]["max"]
        elif node["class_type"] in ("PreviewImage", "SaveVideo"):
            assert outputs[node_id]["images"]
        elif node["class_type"] == "MCSJD_Stats":
            assert "step compression" in outputs[node_id]["mcsjd_text"][0]
        elif node["class_type"] == "MCSJD_LoadModel":
            family = "cosmos" if draws_video(graph) else "chameleon"
            assert f"{family} family" in outputs[node_id]["mcsjd_text"][0]


def test_what_has_not_changed_is_not_run_again(comfyui):
    graph = small()
    succeeds(comfyui, graph)
    assert executed(succeeds(comfyui, graph)) == set()
    stats = node_of(graph, "MCSJD_Stats")
    graph[stats]["inputs"]["chart"] = "tokens per forward"
    ran = executed(succeeds(comfyui, graph))
    assert stats in ran and node_of(graph, "MCSJD_Sampler") not in ran and node_of(graph, "MCSJD_Decode") not in ran
    graph[node_of(graph, "MCSJD_Sampler")]["inputs"]["window"] = 3
    ran = executed(succeeds(comfyui, graph))
    assert node_of(graph, "MCSJD_Sampler") in ran and node_of(graph, "MCSJD_LoadModel") not in ran


def slow() -> dict:
    """A run long enough to be looked at and stopped: seconds, also on a machine with nothing else to do."""
    return with_model(small(coupling="plain AR", batch_size=64), "many-tokens")


def test_previews_arrive_while_the_sampler_runs_and_are_timed(comfyui):
    """As JPEG files, for the sampler's node, before it is done; the report names their time."""
    graph = slow()
    sampler, pictures, done = node_of(graph, "MCSJD_Sampler"), [], 0
    messages = succeeds(comfyui, graph)
    for message in messages:
        if message["type"] == "progress" and message["data"]["node"] == sampler:
            done = message["data"]["value"] / message["data"]["max"]
        elif message["type"] == "preview" and message["data"]["node_id"] == sampler:
            pictures.append((done, message["data"]["picture"]))
    assert pictures and pictures[0][0] < 1
    assert all(picture.startswith(b"\xff\xd8\xff") for _, picture in pictures)
    (text,) = next(
        message["data"]["output"]["mcsjd_text"]
        for message in messages
        if message["type"] == "executed" and message["data"]["node"] == node_of(graph, "MCSJD_Stats")
    )
    previews = float(text.split("live preview ")[1].split(" s")[0])
    seconds = float(text.split("shared forwards, ")[1].split(" s")[0])
    assert 0 < previews < seconds


def stop(server, graph: dict, kind: str, after: int) -> None:
    """Press Stop at the update `after` of a node type's progress bar, and wait until the run has ended unfinished."""
    node, seen = node_of(graph, kind), 0
    with Events(server, "stop") as events:
        prompt_id = start(server, graph, "stop")
        for message in events.until_done(prompt_id):
            if message["type"] == "progress" and message["data"]["node"] == node:
                seen += 1
                if seen == after:
                    server.post("/interrupt", {})
    assert message["type"] == "execution_interrupted", message


def through_the_codec() -> dict:
    """A run that encodes and decodes 512 pictures, four at a time."""
    color = time.monotonic_ns() % 2**24  # so that nothing is cached
    return {
        "1": {"class_type": "MCSJD_LoadModel", "inputs": {"model": "many-tokens", "dtype": "auto"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 80, "height": 80, "batch_size": 512, "color": color}},
        "3": {"class_type": "MCSJD_Encode", "inputs": {"model": ["1", 0], "image": ["2", 0]}},
        "4": {"class_type": "MCSJD_Decode", "inputs": {"model": ["1", 0], "tokens": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }


@pytest.mark.parametrize(
    ("make", "kind", "after"),
    [
        (slow, "MCSJD_Sampler", 1),
        (slow, "MCSJD_Sampler", 5),
        (through_the_codec, "MCSJD_Encode", 2),
        (through_the_codec, "MCSJD_Decode", 2),
    ],
)
def test_stop_ends_the_run_and_the_next_one_works(comfyui, make, kind, after):
    stop(comfyui, make(), kind, after)
    succeeds(comfyui, small())


@pytest.mark.parametrize("what", [{"unload_models": True}, {"free_memory": True, "unload_models": True}])
def test_memory_is_given_back_when_asked_for_and_the_next_run_works(comfyui, what):
    graph = small()
    succeeds(comfyui, graph)
    assert comfyui.post("/free", what)[0] == 200
    succeeds(comfyui, graph)


FAULTS = {
    "unknown model": ("MCSJD_LoadModel", {"model": "gone"}),
    "a path out of the folder": ("MCSJD_LoadModel", {"model": "../../../etc"}),
    "an unknown family": ("MCSJD_LoadModel", {"model": "damaged"}),
    "warm without tokens": ("MCSJD_Sampler", {"initialiser": "warm"}),
    "an unknown size": ("MCSJD_Sampler", {"size": "9x9"}),
    "a chart without details": ("MCSJD_Stats", {"chart": "acceptance trajectories"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_reaches_the_user_in_one_sentence_and_the_next_run_works(comfyui, fault):
    damaged = comfyui.log_file.parent / "models" / "mcsjd" / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "config.json").write_text('{"model_type": "gpt2"}')
    kind, changes = FAULTS[fault]
    graph = small()
    graph[node_of(graph, kind)]["inputs"] |= changes
    status, answer = comfyui.post("/prompt", {"prompt": graph, "client_id": "fault"})
    if status == 200:  # newer versions refuse what is not in a menu before anything runs
        text = wait_for_error(comfyui, answer["prompt_id"]).strip()
        assert text.endswith(".") and "\n" not in text
    (damaged / "config.json").unlink()
    damaged.rmdir()
    succeeds(comfyui, small())


def wait_for_error(server, prompt_id: str) -> str:
    """The message that a failed run leaves in the history."""
    deadline = time.monotonic() + 120
    while not (history := server.get(f"/history/{prompt_id}")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    messages = dict(history[prompt_id]["status"]["messages"])
    return messages["execution_error"]["exception_message"]
