"""Graphs that people saved with earlier versions load as they were: every node that an example graph ever held still fits.

`saved_nodes.json` holds them as the browser saved them, one entry for each set of inputs and values that was ever shipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfy_host import CONTROLLED, is_valid

SAVED = json.loads((Path(__file__).parent / "saved_nodes.json").read_text(encoding="utf-8"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.fixture(scope="module")
def schemas(pack) -> dict:
    return {node_id: node.GET_SCHEMA() for node_id, node in pack.nodes.items()}


@pytest.mark.parametrize("node", SAVED, ids=lambda node: node["type"])
def test_a_saved_node_still_fits(node, schemas, pack):
    entries = {entry.id: entry for entry in schemas[node["type"]].inputs}
    kinds = {name: entry.get_io_type() for name, entry in entries.items()}
    assert all(kinds[name] == kind for name, kind in node["sockets"])
    widgets = [name for name, kind in kinds.items() if kind in WIDGETS]
    # The browser fills widgets in order, so what came later stands last; and it has a default.
    assert widgets[: len(node["widgets"])] == node["widgets"]
    assert all(entries[name].optional for name in widgets[len(node["widgets"]) :])
    assert [output.display_name for output in schemas[node["type"]].outputs][: len(node["outputs"])] == node["outputs"]
    values = iter(node["values"])
    for name in node["widgets"]:
        value = next(values)
        assert is_known(pack, node["type"], name, value) or is_valid(entries[name], value), f"{name} {value!r}"
        if (node["type"], name) in CONTROLLED:
            next(values)
    assert not list(values)


def is_known(pack, kind: str, name: str, value) -> bool:
    """Whether a model's name is one that the loader finds, or that Get Model can fetch: menus hold what is there alone."""
    if (kind, name) != ("MCSJD_LoadModel", "model"):
        return False
    downloads = pack.part("mcsjd_core.checkpoints.catalogue").DOWNLOADS
    known = {source.folder for download in downloads.values() for source in download.sources}
    return (
        value in pack.embedded
        or pack.folders.is_embedded(value)
        or value.split("/")[0] in {each.split("/")[0] for each in known}
    )


def test_old_numbers_stay_what_they_were(schemas):
    """The model's own settings are asked for by -1, which no saved graph holds: what was a number is that number."""
    for node in (node for node in SAVED if node["type"] == "MCSJD_Sampler"):
        numbers = [value for value in node["values"] if isinstance(value, int | float)]
        assert min(numbers) >= 0
