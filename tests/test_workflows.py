"""The example graphs: what is shipped is well-formed, and runs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from comfy_host import WORKFLOWS, api_of_ui, node_of, read_graph, run_graph, schema_problems, shipped

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def test_there_are_workflows():
    assert NAMES
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestFiles:
    def test_the_template_browser_has_a_thumbnail_to_show(self, name):
        with Image.open(WORKFLOWS / f"{name}.jpg") as picture:
            assert picture.format == "JPEG" and picture.width == picture.height

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

    def test_values_and_links_fit_the_nodes(self, name, pack, small_models):
        assert schema_problems(pack, with_embedded(pack, name)) == []

    def test_its_model_is_the_embedded_one_or_named_in_the_download_list(self, name, pack):
        """Then Get Model puts it where the graph looks for it."""
        graph = shipped(name)
        model = graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"]
        downloads = pack.part("mcsjd_core.checkpoints.catalogue").DOWNLOADS.values()
        files = {
            f"{source.folder}/{file}"
            for download in downloads
            for source in download.sources
            for file in source.patterns
        }
        assert model in {*pack.embedded, *(download.folder for download in downloads), *files}


@pytest.fixture
def small_models(pack, tiny_checkpoint, tiny_video, clips, monkeypatch) -> None:
    """Tiny models in place of the embedded ones; the one of video has the graphs' example frames."""
    monkeypatch.setattr(pack.core, "EMBEDDED_MODEL", tiny_checkpoint)
    monkeypatch.setattr(pack.core, "EMBEDDED_VIDEO_MODEL", tiny_video)
    (tiny_video / "start_frames").mkdir(exist_ok=True)
    for node in (node for name in NAMES for node in shipped(name).values()):
        if node["class_type"] == "MCSJD_ExampleFrame":
            file = tiny_video / "start_frames" / f"{node['inputs']['frame'].replace(' ', '_')}.png"
            Image.new("RGB", (64, 64), "teal").save(file)


def with_embedded(pack, name: str) -> dict:
    """The graph with an embedded model, which everyone has, and crops that the small one has the rows for."""
    graph = shipped(name)
    draws_video = any(node["class_type"] == "MCSJD_DecodeVideo" for node in graph.values())
    model = pack.folders.EMBEDDED_VIDEO if draws_video else pack.folders.EMBEDDED
    graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"] = model
    for node in graph.values():
        if node["class_type"] == "MCSJD_CropTokens":
            node["inputs"]["rows"] = 2
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_runs_and_shows_its_pictures(name, pack, small_models):
    graph = with_embedded(pack, name)
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


def results_of(name, pack) -> dict[str, tuple]:
    return run_graph(pack, with_embedded(pack, name))


def test_comparison_draws_one_seed_by_three_methods(pack, small_models):
    results = results_of("2_ar_sjd_and_mc-sjd", pack)
    settings = [results[node][1].settings for node in ("10", "20", "30")]
    assert [each.coupling for each in settings] == ["autoregressive", "independent", "maximal"]
    assert len({each.seed for each in settings}) == 1
    assert all("Speed-up over plain AR, measured" in results[node][0] for node in ("25", "35"))


def test_seed_exact_workflow_shows_no_difference(pack, small_models):
    results = results_of("3_seed_exact", pack)
    assert results["10"][0].tokens.equal(results["20"][0].tokens) and results["30"][0].max() == 0


def test_continuations_keep_the_upper_rows(pack, small_models):
    results = results_of("4_continue_a_picture", pack)
    kept, continued = results["6"][0].tokens, results["7"][0].tokens
    assert continued.shape[0] == 4 and (continued[:, : kept.shape[1]] == kept).all()
    assert len({tuple(row.tolist()) for row in continued}) == 4


def test_warm_start_draws_the_same_picture_as_a_cold_one(pack, small_models):
    results = results_of("6_warm_start", pack)
    assert results["20"][0].tokens.equal(results["30"][0].tokens)
    assert results["30"][1].settings.initialiser == "warm"


def test_video_quickstart_goes_on_from_its_frame(pack, small_models, clips):
    results = results_of("11_video_quickstart", pack)
    frames, video, _ = results["4"]
    assert results["5"][0] is clips[0] is video and video["images"] is frames
    given = pack.core.start_codes(results["1"][0].family, results["2"][0].movedim(-1, 1))
    assert results["3"][0].tokens[:, : given[0].numel()].equal(given.flatten(1))
    assert "step compression by code frame" in results["7"][0] and len(results["7"][1]) == 1


PUBLISHED = {
    "7_lumina_mgpt": lambda models: models("chameleon").LUMINA_DEFAULTS,
    "8_janus_pro": lambda models: models("janus").DEFAULTS,
    "9_llamagen": lambda models: models("llamagen").DEFAULTS["c2i"],
    "10_emu3": lambda models: models("emu3").Emu3.defaults,
    "12_cosmos_video_to_world": lambda models: models("cosmos").SamplingDefaults(
        models("cosmos").LawSettings(top_p=models("cosmos").TOP_P[4096, False])
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_workflows_of_public_models_have_the_published_defaults(pack, name):
    assert sampler_values(name) == sampled(PUBLISHED[name](lambda family: pack.part(f"mcsjd_core.families.{family}")))


def test_video_quickstart_has_the_embedded_model_s_frame_and_defaults(pack):
    graph = shipped("11_video_quickstart")
    assert graph["2"]["inputs"]["frame"] in pack.nodes["MCSJD_ExampleFrame"].define_schema().inputs[0].options
    assert sampler_values("11_video_quickstart") == sampled(pack.core.load(pack.core.EMBEDDED_VIDEO_MODEL).defaults)


def sampled(defaults) -> dict:
    """A family's defaults by the names of the sampler's inputs."""
    return {
        "cfg": defaults.law.cfg_scale,
        "temperature": defaults.law.temperature,
        "top_k": defaults.law.top_k,
        "top_p": defaults.law.top_p,
        "window": defaults.window,
    }


def sampler_values(name: str) -> dict:
    inputs = shipped(name)[node_of(shipped(name), "MCSJD_Sampler")]["inputs"]
    return {key: inputs[key] for key in ("cfg", "temperature", "top_k", "top_p", "window")}
