"""What nodes show and what stands in the example graphs has a translation, line by line, as `web/js/translate.js` applies it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import tiny
from comfy_host import ROOT, WORKFLOWS, draw, read_graph
from mcsjd_core import DecodeSettings, Grid, LawSettings
from mcsjd_core.reporting.report import KEPT, Report
from web_host import Browser

PATHS = sorted((ROOT / "web" / "texts").glob("*.json"))
PLACE = re.compile(r"\{(\d+)\}")
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# Titles that are names of methods, and stay.
NAMES = {"SJD", "MC-SJD", "plain AR", "seed-exact", "plain AR - seed-exact", "plain AR - MC-SJD"}
pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


class Table:
    """A translation file; `used` are the entries that were needed."""

    def __init__(self, path):
        self.entries = json.loads(path.read_text(encoding="utf-8"))
        self.used: set[str] = set()
        places = sorted((line for line in self.entries if PLACE.search(line)), key=len, reverse=True)
        self.patterns = [(re.compile("(.+)".join(map(re.escape, PLACE.split(line)[::2]))), line) for line in places]

    def knows(self, line: str) -> bool:
        """Whether the line is translated; the texts in its places may be."""
        if line in self.entries:
            self.used.add(line)
            return True
        for pattern, entry in self.patterns:
            if found := pattern.fullmatch(line):
                self.used.add(entry)
                for part in found.groups():
                    if not self.knows(part):
                        self.used.update({*part.split(", ")} & self.entries.keys())
                return True
        return False

    def unknown(self, text: str) -> list[str]:
        return [line for line in text.split("\n") if line.strip() and not self.knows(line)]


def graph_texts() -> set[str]:
    nodes = [node for path in WORKFLOWS.glob("*.json") for node in read_graph(path)["nodes"]]
    notes = {value for node in nodes if node["type"] == "MarkdownNote" for value in node["widgets_values"]}
    names = {subgraph["name"] for path in BLUEPRINTS for subgraph in read_graph(path)["definitions"]["subgraphs"]}
    return notes | names | {node["title"] for node in nodes if "title" in node} - NAMES


def report(**settings) -> Report:
    grid, batch = settings.pop("grid", Grid(4, 4)), settings.pop("batch", 1)
    decoded = tiny.run(tiny.transformer(12), grid, batch, **settings)
    names = {"model": "tiny", "device": torch.device("cpu"), "dtype": torch.float32}
    return Report.of(decoded, DecodeSettings(**settings), **names, grid=grid)


CONTINUED = [f"the last {frames} of the video that this one continues" for frames in ("frame", "9 frames")]


def report_texts() -> list[str]:
    """Reports in which every sentence comes up."""
    plain, wide = report(coupling="autoregressive"), report(window=16)
    exact = report(batch=2, coupling="gumbel_exact", window=4)
    unguided = replace(exact.settings, execution="compiled", law=LawSettings(cfg_scale=1.0))
    other = replace(exact, settings=unguided, model="other", device="cuda", dtype="bfloat16")
    seeds = replace(exact, settings=replace(exact.settings, row_seeds="own", trajectories=2), dtype="bfloat16")
    shorter = "of 3 given frames the last one is used: this model continues 1 frame"
    shown = replace(
        wide, preview_seconds=0.1, kept=torch.ones(1, wide.grid.num_tokens, dtype=torch.bool).tril(), start_note=shorter
    )
    longer = "of 20 given frames the last 9 are used: this model continues 1 or 9 frames"
    guided = replace(wide, settings=replace(wide.settings, law=LawSettings(cfg_scale=2.0)))
    laws = [replace(plain.settings.law, top_p=1.0), replace(plain.settings.law, top_k=0, top_p=1.0, min_p=0.1)]
    lawful = [replace(plain, settings=replace(plain.settings, law=law)) for law in laws]
    film = report(grid=Grid(2, 4, frames=2), window=4)
    texts = [each.text() for each in (plain, wide, exact, other, seeds, shown, film, *lawful)]
    compared = [
        wide.text(plain),
        guided.text(other),
        shown.text(plain),
        replace(guided, preview_seconds=0.1).text(other),
    ]
    notes = [longer, *CONTINUED]
    detailed = replace(film, settings=replace(film.settings, trace_detail=True)).text(wide)
    return [*texts, *compared, detailed, *(replace(film, start_note=note).text() for note in notes), KEPT]


def node_texts(pack, model_folder, tiny_video, model) -> list[str]:
    """Of Load Model for a model of pictures and one of videos, and of Get Model for each download."""
    (model_folder / "film").symlink_to(tiny_video)
    film = pack.run("MCSJD_LoadModel", model="film", dtype="auto")[0]
    texts = [pack.runtime.describe(each) for each in (model, film, replace(model, logits_change=0.01))]
    texts.append(texts[0].replace(" million ", " billion "))
    texts += [text.replace(" with guidance", "") for text in texts[:2]]
    downloads = pack.part("mcsjd_core.checkpoints.catalogue").DOWNLOADS
    texts += [pack.run("MCSJD_GetModel", model=name, accept_licence=False)[0] for name in downloads]
    downloads = pack.part("nodes.downloads")
    for loader in (downloads.LOADER, *downloads.OTHER_LOADERS.values()):
        texts += [downloads.DOWNLOADED.format(loader=loader), downloads.NOT_COMPARED.format(loader=loader)]
    return [*texts, downloads.A_PART]


def sampler_texts(pack, model, folder) -> list[str]:
    """Of the sampler for unknown words, with and without a list of the known ones, for prompts whose end is not read, and for a
    negative prompt without effect."""
    (folder / "words.txt").write_text("red apple")
    spells_nothing = SimpleNamespace(
        token_to_id=lambda _: 0, encode=lambda *_, **__: SimpleNamespace(ids=[0]), truncation=None
    )
    listed = replace(model.family.words, directory=folder)
    unlisted = replace(listed, directory=folder / "elsewhere", tokenizer=spells_nothing)
    unguided, cut_note = (
        pack.part("mcsjd_core.pipeline.sampling").NO_GUIDANCE,
        pack.part("mcsjd_core.text.words").cut_note,
    )
    unknown = [words.note(["a red car"]) for words in (listed, unlisted)]
    return [
        unguided,
        *unknown,
        *(cut_note(["a red car"], limit) for limit in ("5 tokens", "5 tokens and 9 characters")),
    ]


def test_every_text_is_translated_and_nothing_else(path, pack, model_folder, tiny_video, model, tmp_path):
    table = Table(path)
    texts = [*sorted(graph_texts()), *report_texts(), *node_texts(pack, model_folder, tiny_video, model)]
    texts += sampler_texts(pack, model, tmp_path)
    texts.append(pack.run("MCSJD_Stats", stats=draw(pack, model, batch_size=2)[1])[0])
    assert [line for text in texts for line in table.unknown(text)] == []
    assert table.entries.keys() - table.used == set()


def test_what_reports_name_in_places_is_translated(path):
    table, exact = Table(path), report(batch=2, coupling="gumbel_exact", window=4)
    unlike = replace(exact.settings, execution="compiled", law=LawSettings(cfg_scale=2.0), trace_detail=True)
    other = replace(report(grid=Grid(4, 5)), settings=unlike, model="other", device="cuda", dtype="bfloat16")
    names = exact._unlike(other)
    assert len(names) == 8 and [text for text in (*names, *CONTINUED) if not table.knows(text)] == []


def test_places_are_the_same_in_both_languages(path):
    for line, translated in json.loads(path.read_text(encoding="utf-8")).items():
        assert sorted(set(PLACE.findall(line))) == sorted(set(PLACE.findall(translated))), line


def translated(folder, graph: dict, language: str) -> dict:
    """The graph as the pack's script leaves it in a host of that language."""
    return Browser(folder, language).page(("open", graph))[0]


def test_the_script_translates_example_graphs_and_leaves_what_a_person_wrote(path, tmp_path):
    example = read_graph(next(iter(sorted(WORKFLOWS.glob("*01*.json")))))
    note = next(node for node in example["nodes"] if node["type"] == "MarkdownNote")
    chinese = translated(tmp_path / "zh", example, path.stem)
    first = next(node for node in chinese["nodes"] if node["id"] == note["id"])
    assert first["widgets_values"] != note["widgets_values"] and first["title"] == Table(path).entries[note["title"]]
    assert translated(tmp_path / "en", example, "en") == example
    own = {"nodes": [
        {"type": "MCSJD_Sampler", "title": "My: 3 frames"},
        {"type": "MarkdownNote", "title": "Prompt", "properties": {}, "widgets_values": ["to: Bob\nI render 24 frames\nmodel"]},
    ]}  # fmt: skip
    assert translated(tmp_path / "own", own, path.stem) == own


def test_titles_in_subgraphs_are_translated_and_those_of_other_packs_stay(path, tmp_path):
    """Also in a graph that began as an example."""
    (blueprint,) = (read_graph(each) for each in BLUEPRINTS)
    (inside,) = blueprint["definitions"]["subgraphs"]
    inside["nodes"][0]["title"] = "Prompt"
    note = {"type": "MarkdownNote", "properties": {"mcsjd_font_size": 14}, "widgets_values": ["## MC-SJD quickstart"]}
    inside["nodes"].append(note | {"id": 9, "title": "What to try"})
    others = [
        {"type": "Display", "properties": {"cnr_id": pack}, "title": "Prompt"} for pack in ("other", "comfy-core")
    ]
    blueprint["nodes"] += [
        {"id": 8, **others[0]},
        {"id": 9, **others[1]},
        {"id": 10, "type": "Label", "title": "Prompt"},
    ]
    entries = Table(path).entries
    chinese = translated(tmp_path / path.stem, blueprint, path.stem)
    (shown,) = chinese["definitions"]["subgraphs"]
    assert shown["name"] == chinese["nodes"][0]["title"] == entries[inside["name"]]
    assert [shown["nodes"][place]["title"] for place in (0, -1)] == [entries["Prompt"], entries["What to try"]]
    assert shown["nodes"][-1]["widgets_values"] == [entries["## MC-SJD quickstart"]]
    assert [node["title"] for node in chinese["nodes"][1:]] == ["Prompt", entries["Prompt"], "Prompt"]


def test_all_titles_of_the_example_graphs_are_translated(path, tmp_path):
    browser, entries = Browser(tmp_path, path.stem), Table(path).entries
    graphs = [read_graph(each) for each in sorted(WORKFLOWS.glob("*.json"))]
    for before, after in zip(graphs, browser.page(*(("open", graph) for graph in graphs)), strict=True):
        titles = [
            (old["title"], new["title"])
            for old, new in zip(before["nodes"], after["nodes"], strict=True)
            if "title" in old
        ]
        assert [pair for pair in titles if pair[1] != entries.get(pair[0], pair[0])] == []
