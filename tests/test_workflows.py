"""The example graphs: what is shipped is well-formed, and runs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from comfy_host import WORKFLOWS, api_of_ui, node_of, read_graph, run_graph, schema_problems, shipped, without_diffusion

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

    def test_nodes_keep_their_distance(self, name):
        """Nodes 2.0 draws some of them taller than they were saved."""
        title, room = 30, 40
        boxes = [(*node["pos"], *node["size"]) for node in read_graph(WORKFLOWS / f"{name}.json")["nodes"]]
        for i, (x, y, width, height) in enumerate(boxes):
            for other_x, other_y, other_width, other_height in boxes[:i]:
                beside = x >= other_x + other_width + room or other_x >= x + width + room
                below, above = (y - title >= other_y + other_height + room, other_y - title >= y + height + room)
                assert beside or below or above

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
    graph = without_diffusion(shipped(name))
    draws_video = any(node["class_type"] == "MCSJD_DecodeVideo" for node in graph.values())
    model = pack.folders.EMBEDDED_VIDEO if draws_video else pack.folders.EMBEDDED
    graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"] = model
    for node in graph.values():
        if node["class_type"] == "MCSJD_CropTokens":
            node["inputs"]["rows"] = 2
        if node["class_type"] == "MCSJD_GetModel":
            node["inputs"]["accept_licence"] = False
    return graph


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, tuple]]:
    return {}


@pytest.fixture
def results_of(pack, small_models, runs):
    """Outputs of every node of a graph, drawn with the small models; each graph is run once."""

    def results(name: str) -> dict[str, tuple]:
        if name not in runs:
            runs[name] = run_graph(pack, with_embedded(pack, name))
        return runs[name]

    return results


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_runs_and_shows_its_pictures(name, pack, results_of):
    graph, results = with_embedded(pack, name), results_of(name)
    previews = [results[node_id][0] for node_id, node in graph.items() if node["class_type"] in SHOWS]
    assert previews or any(node["class_type"] == "SaveVideo" for node in graph.values())
    for images in previews:
        assert images.ndim == 4 and images.shape[-1] == 3 and images.dtype == torch.float32
        assert images.device.type == "cpu" and images.min() >= 0 and images.max() <= 1
    for node_id, node in graph.items():
        if node["class_type"] == "MCSJD_Stats":
            pictures = len(results[node["inputs"]["stats"][0]][0].tokens)
            assert results[node_id][0].count("step compression ") >= pictures


SHOWS = ("PreviewImage", "SaveImage")


def settings_of(results, *nodes: int) -> list:
    return [results[str(node)][1].settings for node in nodes]


def distinct(tokens) -> int:
    return len({tuple(row.tolist()) for row in tokens})


def test_quickstart_draws_four_pictures_that_differ(results_of):
    assert distinct(results_of("MC-SJD 01 Quickstart")["2"][0].tokens) == 4


def test_comparison_sets_mc_sjd_against_sjd(results_of):
    """Same prompts, seeds and batch, details of both, SJD as the baseline, and one chart that holds both."""
    results = results_of("MC-SJD 02 Compare with SJD")
    sjd, ours = settings_of(results, 10, 20)
    assert (sjd.coupling, ours.coupling) == ("independent", "maximal")
    assert sjd.seed == ours.seed and sjd.trace_detail and ours.trace_detail
    assert all(distinct(results[node][0].tokens) == 8 for node in ("10", "20"))
    assert "times as fast as SJD (independent) (measured)" in results["25"][0].splitlines()[0]
    assert results["26"][0].shape[0] == 1


def test_seed_exact_workflow_shows_no_difference_and_another_coupling_does(results_of):
    results = results_of("MC-SJD 03 Seed-exact")
    plain, exact, other = (results[node][0].tokens for node in ("10", "20", "30"))
    assert plain.equal(exact) and results["40"][0].max() == 0
    assert not plain.equal(other) and results["42"][0].max() > 0
    assert [each.coupling for each in settings_of(results, 10, 20, 30)] == ["autoregressive", "gumbel_exact", "maximal"]


def test_continuations_keep_the_upper_rows(results_of):
    results = results_of("MC-SJD 04 Continue a picture")
    kept, continued = results["6"][0].tokens, results["7"][0].tokens
    assert continued.shape[0] == 4 and (continued[:, : kept.shape[1]] == kept).all()
    assert distinct(continued) == 4


def test_batch_has_a_picture_for_every_seed_and_all_charts(results_of):
    results = results_of("MC-SJD 05 Batch and charts")
    assert distinct(results["2"][0].tokens) == 8 and len(results["6"][0]) == 5


def test_warm_start_draws_the_same_picture_as_a_cold_one(pack, small_models):
    graph = with_embedded(pack, "MC-SJD 06 Warm start")
    for node in ("20", "30"):
        graph[node]["inputs"]["temperature"] = 0.5  # of few codes, the graph's own change may be none
    results = run_graph(pack, graph)
    first, scratch, warm = (results[node][0].tokens for node in ("10", "20", "30"))
    assert scratch.equal(warm) and results["40"][0].max() == 0 and not first.equal(warm)
    assert results["30"][1].settings.initialiser == "warm"


def test_redrawing_changes_what_the_mask_marks_and_nothing_else(pack, small_models):
    graph = with_embedded(pack, "MC-SJD 13 Redraw a part")
    graph["6"]["inputs"] |= {"width": 64, "height": 72}  # the graph's own part touches every one of a few large cells
    graph["11"]["inputs"] |= {"x": 8, "y": 56}
    results = run_graph(pack, graph)
    before, after, mask = results["2"][0].codes(), results["7"][0].codes(), results["11"][0]
    cells = pack.part("mcsjd_core.pipeline.redraw").redrawn_cells(mask, results["7"][0].grid, 12, 8)
    assert 0 < cells.sum() < cells.numel()
    assert (after[:, ~cells[0]] == before[:, ~cells[0]]).all() and distinct(results["7"][0].tokens) == 4
    assert "not on those after it" in results["10"][0]


def test_sheet_draws_every_prompt_as_it_is_drawn_alone(pack, small_models):
    graph = with_embedded(pack, "MC-SJD 14 Sheet of prompts")
    sampler = graph[node_of(graph, "MCSJD_Sampler")]["inputs"] | {"coupling": "seed-exact (Gumbel)"}
    graph[node_of(graph, "MCSJD_Sampler")]["inputs"] = sampler
    results = run_graph(pack, graph)
    prompts, tokens = results["3"][0], results["2"][0].tokens
    assert len(tokens) == len(prompts) > 1
    for row, prompt in enumerate(prompts):
        plain = {name: value for name, value in sampler.items() if name not in ("model", "prompts")}
        plain |= {"prompt": prompt, "seed": sampler["seed"] + row}
        alone, _ = pack.run("MCSJD_Sampler", model=results["1"][0], **plain)
        assert alone.tokens[0].equal(tokens[row])


def test_video_quickstart_goes_on_from_its_frame(pack, results_of):
    results = results_of("MC-SJD 11 Video quickstart")
    frames, video, _ = results["4"]
    assert results["5"][0] is video and video["images"] is frames
    given = pack.core.start_codes(results["1"][0].family, results["2"][0].movedim(-1, 1))
    assert results["3"][0].tokens[:, : given[0].numel()].equal(given.flatten(1))
    assert "step compression by code frame" in results["7"][0] and len(results["7"][1]) == 1


def test_video_quickstart_has_a_frame_of_the_embedded_model(pack):
    graph = shipped("MC-SJD 11 Video quickstart")
    frame = graph[node_of(graph, "MCSJD_ExampleFrame")]["inputs"]["frame"]
    assert frame in pack.nodes["MCSJD_ExampleFrame"].define_schema().inputs[0].options


SETTINGS = ("cfg", "temperature", "top_k", "top_p", "window")


@pytest.mark.parametrize("name", NAMES)
def test_graphs_leave_their_settings_to_the_model(name, pack):
    """What a note says of the settings is then what the model's files say."""
    graph = shipped(name)
    inputs = graph[node_of(graph, "MCSJD_Sampler")]["inputs"]
    assert {inputs[key] for key in SETTINGS} == {-1}


def test_graphs_of_public_models_have_get_model_for_them(pack):
    downloads = pack.part("mcsjd_core.checkpoints.catalogue").DOWNLOADS
    for graph in map(shipped, NAMES):
        model = graph[node_of(graph, "MCSJD_LoadModel")]["inputs"]["model"]
        if not pack.folders.is_embedded(model):
            download = downloads[graph[node_of(graph, "MCSJD_GetModel")]["inputs"]["model"]]
            assert model.split("/")[0] in {source.folder.split("/")[0] for source in download.sources}


def test_pictures_are_saved_under_the_pack_s_name():
    for name in NAMES:
        kinds = {node["class_type"]: node["inputs"].get("filename_prefix") for node in shipped(name).values()}
        prefix = kinds.get("SaveImage") or kinds["SaveVideo"]
        assert prefix.startswith(("MC-SJD/", "video/MC-SJD"))


def test_notes_are_as_large_as_a_reader_needs_at_that_zoom():
    """The browser's own 10 pixels are 6 at 60 %."""
    for name in NAMES:
        ui = read_graph(WORKFLOWS / f"{name}.json")
        (note,) = (node for node in ui["nodes"] if node["type"] == "MarkdownNote")
        assert note["properties"]["mcsjd_font_size"] * ui["extra"]["ds"]["scale"] >= 7


@pytest.mark.parametrize("name", NAMES)
def test_graphs_open_where_their_texts_can_be_read(name):
    """In a window of 1600 x 1000 all of a graph is seen at 60 % or more; below that the browser draws no texts."""
    ui = read_graph(WORKFLOWS / f"{name}.json")
    view, boxes = ui["extra"]["ds"], [(*node["pos"], *node["size"]) for node in ui["nodes"]]
    width = max(x + w for x, _, w, _ in boxes) - min(x for x, *_ in boxes)
    height = max(y + h for _, y, _, h in boxes) - min(y for _, y, *_ in boxes)
    assert 0.6 <= view["scale"] <= 1 and width * view["scale"] <= 1500 and height * view["scale"] <= 900
    assert all(round((x + view["offset"][0]) * view["scale"]) >= 60 for x, *_ in boxes)
