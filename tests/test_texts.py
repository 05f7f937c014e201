"""Texts beside the code: translations say all that the nodes say, and every node has its help page."""

from __future__ import annotations

import json

import pytest

from comfy_host import ROOT, load_file

LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())


def read(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def keys(texts, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of all texts in a translation."""
    if not isinstance(texts, dict):
        return {path}
    return set().union(*(keys(value, (*path, name)) for name, value in texts.items()))


def test_there_are_english_and_chinese():
    assert {"en", "zh"} <= set(LANGUAGES)


def test_english_texts_are_those_of_the_nodes(pack, model_folder):
    generator = load_file("make_locales", ROOT / "scripts" / "make_locales.py")
    infos = {node_id: node.GET_NODE_INFO_V1() for node_id, node in pack.nodes.items()}
    assert read("en", "nodeDefs") == generator.node_definitions(infos), "run scripts/make_locales.py"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["nodeDefs", "main"])
def test_a_translation_has_every_text_and_no_other(language, name):
    assert keys(read(language, name)) == keys(read("en", name))


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_translation_is_one(language):
    """Every explanation differs from the English one; names may be the same."""
    for node_id, texts in read(language, "nodeDefs").items():
        english = read("en", "nodeDefs")[node_id]
        for path in keys(texts):
            if path[-1] in ("tooltip", "description"):
                ours, theirs = texts, english
                for step in path:
                    ours, theirs = ours[step], theirs[step]
                assert ours.strip() and ours != theirs, (node_id, *path)


def test_all_values_that_mean_the_model_s_own_are_named(pack):
    """A decimal number below 0 need not be -1, and a saved graph may hold another one."""
    inputs = pack.nodes["MCSJD_Sampler"].GET_SCHEMA().inputs
    names = [entry.id for entry in inputs if entry.get_io_type() == "FLOAT" and entry.min == -1]
    assert names == ["cfg", "temperature", "top_p", "min_p"]
    for language, words in {"en": "any negative value", "zh": "任何负值"}.items():
        texts = read(language, "nodeDefs")["MCSJD_Sampler"]["inputs"]
        assert [name for name in names if words not in texts[name]["tooltip"].lower()] == []


def test_help_says_that_a_loader_runs_even_if_nothing_is_connected(pack):
    """It shows a text, so it is an output node, and ComfyUI runs all of these."""
    pages = ROOT / pack.module.WEB_DIRECTORY / "docs"
    assert pack.nodes["MCSJD_LoadModel"].GET_SCHEMA().is_output_node
    assert "mute" in (pages / "MCSJD_LoadModel.md").read_text(encoding="utf-8")
    assert "静音" in (pages / "MCSJD_LoadModel" / "zh.md").read_text(encoding="utf-8")


def test_every_node_has_a_help_page_in_every_language(pack):
    folder = ROOT / pack.module.WEB_DIRECTORY / "docs"
    for node_id, node in pack.nodes.items():
        title = (folder / f"{node_id}.md").read_text(encoding="utf-8").splitlines()[0]
        assert title == f"# {node.GET_SCHEMA().display_name}"
        for language in LANGUAGES:
            if language != "en":
                translated = (folder / node_id / f"{language}.md").read_text(encoding="utf-8").splitlines()[0]
                assert translated == f"# {read(language, 'nodeDefs')[node_id]['display_name']}"
    assert {path.stem for path in folder.glob("*.md")} == set(pack.nodes)


def test_help_pages_go_into_the_archive_of_the_registry():
    """A pattern without a leading slash would drop every folder of that name, the help pages' too."""
    patterns = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert "/docs/" in patterns and "docs/" not in patterns


def test_every_type_of_socket_has_a_name(pack):
    kinds = {
        socket.get_io_type()
        for node in pack.nodes.values()
        for socket in (*node.GET_SCHEMA().inputs, *node.GET_SCHEMA().outputs)
    }
    assert {kind for kind in kinds if kind.startswith("MCSJD_")} == read("en", "main")["dataTypes"].keys()
