"""Texts that nodes show: which graph they stand in, what is saved of them, and when they go away."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from comfy_host import ROOT, WORKFLOWS, read_graph
from web_host import Browser

QUICKSTART = WORKFLOWS / "MC-SJD 01 Quickstart.json"
LOADER, SAMPLER, STATS = "1", "2", "5"  # nodes in it
PROMPT, SEED = 0, 1  # places of the sampler's widgets
FIRST, SECOND = "1.5 tokens per forward, 170 forwards, 2 s.", "3.0 tokens per forward, 85 forwards, 1 s."
NOTE = "This model does not know car: what it draws for that is left to chance."


@pytest.fixture
def browser(tmp_path):
    return Browser(tmp_path)


def quickstart(prompt: str = "a red apple on grass") -> dict:
    graph = read_graph(QUICKSTART)
    next(node for node in graph["nodes"] if str(node["id"]) == SAMPLER)["widgets_values"][PROMPT] = prompt
    return graph


def shown(browser, graph: dict, node: str = STATS) -> str | None:
    """The text that a node shows on a page that is opened with that graph."""
    return browser.page(("open", graph), ("texts",))[1].get(node)


@pytest.mark.parametrize("next_seed", [None, (SAMPLER, SEED, 7)], ids=["the seed stays", "the seed changes"])
def test_a_text_outlives_a_change_of_tab_and_a_reload(browser, next_seed):
    left = quickstart()
    if next_seed:
        left["nodes"][1]["widgets_values"][SEED] = 7
    asked = [
        ("open", quickstart()),
        ("queue", next_seed),
        ("executed", 1, STATS, FIRST),
        ("executed", 1, LOADER, "facts"),
    ]
    pages = browser.page(*asked, ("open", {"nodes": []}), ("texts",), ("open", left), ("texts",))
    assert pages[-3] == {} and (pages[-1][STATS], pages[-1][LOADER]) == (FIRST, "facts")
    assert (shown(browser, left), shown(browser, left, LOADER)) == (FIRST, "facts")


def test_a_graph_shows_the_text_that_was_made_by_it_and_no_other(browser):
    """Pictures hold the graphs that made them, and can be opened in any order."""
    first, second = browser.page(
        ("open", quickstart()), ("queue", (SAMPLER, SEED, 1)), ("executed", 1, STATS, FIRST),
        ("set", SAMPLER, PROMPT, "a pumpkin on pebbles"), ("queue", (SAMPLER, SEED, 2)), ("executed", 2, STATS, SECOND),
    )[1:5:3]  # fmt: skip
    assert [shown(browser, graph) for graph in (first, second, first)] == [FIRST, SECOND, FIRST]
    other = deepcopy(first)
    other["nodes"][1]["widgets_values"][PROMPT] = "a blue car in a city"
    assert shown(browser, other) == ""
    assert shown(browser, deepcopy(first) | {"links": first["links"][1:]}) == ""


def test_what_is_changed_during_a_run_does_not_get_its_text(browser):
    changed = quickstart("a pumpkin on pebbles")
    browser.page(
        ("open", quickstart()),
        ("queue",),
        ("set", SAMPLER, PROMPT, "a pumpkin on pebbles"),
        ("executed", 1, STATS, FIRST),
    )
    assert (shown(browser, quickstart()), shown(browser, changed)) == (FIRST, "")


def test_another_graph_that_is_open_when_a_run_ends_does_not_keep_its_text(browser):
    other = quickstart("a blue car in a city")
    browser.page(("open", quickstart()), ("queue",), ("open", other), ("executed", 1, STATS, FIRST))
    assert (shown(browser, quickstart()), shown(browser, other)) == (FIRST, "")


def test_results_that_come_before_the_answer_to_the_queue_are_kept(browser):
    """The server may be done with what it has cached before the browser hears that it was queued."""
    browser.page(("open", quickstart()), ("executed", 1, STATS, FIRST), ("queue",))
    assert shown(browser, quickstart()) == FIRST


def test_graphs_are_saved_without_the_texts(browser):
    sent = browser.page(("open", quickstart()), ("queue",), ("executed", 1, STATS, FIRST), ("queue",))[3]
    assert FIRST not in json.dumps(sent) and "mcsjd_text" not in json.dumps(sent)
    assert [node["widgets_values"] for node in sent["nodes"]] == [n["widgets_values"] for n in quickstart()["nodes"]]


def blueprint() -> dict:
    """The blueprint with a report behind its sampler, inside."""
    graph = read_graph(ROOT / "subgraphs" / "Text to image (MC-SJD).json")
    (inside,) = graph["definitions"]["subgraphs"]
    inside["links"].append(
        {"id": 99, "origin_id": 2, "origin_slot": 1, "target_id": 9, "target_slot": 0, "type": "MCSJD_STATS"}
    )
    stats = {"id": 9, "type": "MCSJD_Stats", "inputs": [{"name": "stats", "link": 99}], "widgets_values": ["all"]}
    inside["nodes"].append(stats)
    return graph


def test_a_text_in_a_subgraph_depends_on_what_comes_from_outside(browser):
    browser.page(("open", blueprint()), ("queue",), ("executed", 1, "1:9", FIRST))
    assert shown(browser, blueprint(), "1:9") == FIRST
    other = blueprint()
    other["nodes"][0]["widgets_values"][1] = "a blue car in a city"
    assert shown(browser, other, "1:9") == ""


@pytest.mark.parametrize(("graph", "sampler"), [(quickstart, SAMPLER), (blueprint, "1:2")])
def test_a_note_goes_with_the_next_run_that_has_none(browser, graph, sampler):
    def message(text: str) -> tuple:
        return ("message", "mcsjd.text", {"node": sampler, "output": {"mcsjd_text": [text]}})

    seen = browser.page(
        ("open", graph()), ("texts",),
        ("queue",), message(NOTE), ("texts",), ("executed", 1, sampler, NOTE), ("texts",),
        ("queue",), message(""), ("texts",), ("executed", 2, sampler, ""), ("texts",),
        ("executed", 3, sampler, NOTE), ("executed", 4, sampler, ""), ("texts",),  # of results that the server had kept
    )  # fmt: skip
    texts = [each.get(sampler) for each in seen if isinstance(each, dict) and "nodes" not in each]
    assert texts == [None, NOTE, NOTE, None, None, None]


def test_a_note_is_kept_as_long_as_it_holds(browser):
    asked = [("open", quickstart()), ("queue",), ("executed", 1, SAMPLER, NOTE)]
    browser.page(*asked)
    assert shown(browser, quickstart(), SAMPLER) == NOTE
    browser.page(*asked[:2], ("executed", 1, SAMPLER, ""))
    assert shown(browser, quickstart(), SAMPLER) is None


def test_a_note_is_shown_in_the_reader_s_language(tmp_path):
    seen = Browser(tmp_path, "zh").page(("open", quickstart()), ("queue",), ("executed", 1, SAMPLER, NOTE), ("texts",))[
        -1
    ]
    assert "此模型不认识 car" in seen[SAMPLER]


def test_a_graph_that_cannot_be_read_is_queued_all_the_same(browser):
    """Other packs may save what they like: without keys a graph has no texts, and that is all."""
    strange = quickstart()
    strange["nodes"].append({"id": 99, "type": "FromAnotherPack", "inputs": 5})
    queued = browser.page(("open", strange), ("queue", None), ("executed", 1, STATS, FIRST))[1]
    assert queued["nodes"][-1]["inputs"] == 5
    assert shown(browser, strange) != FIRST
