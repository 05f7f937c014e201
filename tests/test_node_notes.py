"""Notes of a run that goes on: told in the console and in the node, and gone with the next run that has none."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from comfy_host import draw_result


@pytest.fixture
def told(pack, monkeypatch) -> list[tuple]:
    """What the server tells the browser while node 7 runs: event, node, text, and to whom."""
    sent = []

    def send(event, data, client):
        sent.append((event, data["node"], *data["output"]["mcsjd_text"], client))

    host = SimpleNamespace(last_node_id="7", client_id="tab", send_sync=send)
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=host)))
    pack.part("nodes.sampling").DRAWN._runs.clear()
    return sent


def test_words_that_the_model_does_not_know_are_told_in_console_and_node(
    pack, model, tmp_path, monkeypatch, log_lines, told
):
    """At once, and with the result; a run of which nothing is to be said takes away what an earlier one left in the node."""
    (tmp_path / "words.txt").write_text("red apple")
    monkeypatch.setattr(model.family, "words", replace(model.family.words, directory=tmp_path))
    runs = [
        {"negative": "car"}, {"cfg": 1.0, "negative": "car"}, {"prompt": "red car"}, {},
        {"prompt": "red car", "live_preview": False}, {"live_preview": False},  # drawn already: only the result tells
    ]  # fmt: skip
    results = [draw_result(pack, model, **{"prompt": "red apple"} | changes) for changes in runs]
    notes = [result.ui["mcsjd_text"][0] for result in results]
    assert ["does not know car:" in note for note in notes] == [True, False, True, False, True, False]
    assert ["no effect, since this run has no guidance" in note for note in notes] == [i == 1 for i in range(6)]
    assert notes[3] == notes[5] == "" and notes[4] == notes[2]
    assert told == [("mcsjd.text", "7", note, "tab") for note in notes[:4]]
    assert [any(note in line for line in log_lines) for note in notes[:3]] == [True] * 3
    assert sum("MC-SJD: " in line for line in log_lines) == 3


def test_a_run_that_no_browser_asked_for_is_told_in_the_console_alone(pack, told):
    sys.modules["server"].PromptServer.instance.client_id = None
    pack.part("nodes.notes").tell("a note")
    assert told == []
