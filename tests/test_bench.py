"""The bench on tiny models: all figures are there, and follow from the runs behind them. Nothing here depends on the clock."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import pytest
import torch

import mcsjd_core
from mcsjd_core import COUPLINGS, bench, cli
from mcsjd_core.bench import (
    automatic,
    breakdown,
    couplings,
    drawing,
    forward,
    memory,
    peer,
    shapes,
    stopwatch,
    trajectories,
    transfers,
)
from mcsjd_core.bench.timing import PARTS
from mcsjd_core.nn.transformer import TransformerConfig
from test_transfers import Watch
from tiny_checkpoint import write_tiny_checkpoint
from tiny_failure import raising

ROOT = Path(__file__).resolve().parent.parent
KEYS = {
    "step_compression", "speedup", "overhead_share", "transfers_per_iteration", "ar_ratio_to_transformers",
    "auto_window_slowdown", "trajectories", "forward_cost", "memory", "peak_bytes", "machine",
    "plan", "sections",
}  # fmt: skip
PLAN = replace(
    bench.QUICK, prompts=3, windows=(3, 5), batches=(1, 2), repeats=3, auto_repeats=3, auto_windows=(3, 5), rows=3,
    trajectories=(1, 2), trajectory_window=4, trajectory_prompts=2, forward_windows=(1, 2, 4), iterations=3,
)  # fmt: skip
SMALL = TransformerConfig(dim=16, layers=6, heads=2, kv_heads=2, head_dim=8, ffn_dim=24)
PUBLIC = dict(shapes.SHAPES)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mcsjd_core.load(write_tiny_checkpoint(tmp_path_factory.mktemp("bench") / "tiny"))


@pytest.fixture(scope="module")
def tiny(model):
    return bench.Bench(model, "tiny", PLAN, "cpu", torch.float32)


@pytest.fixture(scope="module")
def small_shapes():
    """Public shapes of a few thousand parameters, under their own names."""
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in PUBLIC.items():
            config = replace(SMALL, qk_norm=shape.config.qk_norm)
            patch.setitem(shapes.SHAPES, name, replace(shape, config=config, codebook_size=40, tokens=64))
        patch.setattr(breakdown, "WINDOW", 4)
        patch.setattr(memory, "WINDOW", 4)
        yield


@pytest.fixture(scope="module")
def result(tiny, small_shapes):
    """The whole bench but for transformers, as it comes back from JSON."""
    names = tuple(section.NAME for section in bench.SECTIONS if section is not peer)
    return json.loads(json.dumps(bench.run(tiny, names)))


def test_all_figures_are_there(result):
    assert KEYS - {"ar_ratio_to_transformers"} == set(result)
    assert set(result["step_compression"]) == {"autoregressive", *COUPLINGS}
    assert set(result["speedup"]["maximal"]) == {"3", "5", "auto"} and set(result["speedup"]["gumbel"]) == {"3", "5"}
    assert set(result["auto_window_slowdown"]) == {"1", "2"}
    assert set(result["overhead_share"]) == {"tiny", *(f"Janus-Pro-1B, {law}" for law in breakdown.LAWS)}
    assert set(result["trajectories"]) == set(trajectories.COUPLINGS)
    assert all(set(counts) == {"1", "2"} for counts in result["trajectories"].values())
    assert set(result["forward_cost"]) == set(shapes.SHAPES)


def test_the_machine_is_described_by_what_the_system_says(result):
    machine = result["machine"]
    assert machine["torch"] == torch.__version__ and machine["threads"] == torch.get_num_threads()
    assert machine["cpu"] and machine["cores"] >= 1 and machine["dtype"] == "float32"
    one = bench.machine.sentence(machine | {"gpu": None, "cpu": "Z80", "cores": 1, "threads": 2})
    assert one.startswith("Z80 (1 core, 2 threads), float32")


def test_compression_and_speedup_follow_from_the_runs(result):
    runs = result["sections"]["couplings"]["runs"]
    assert len(runs) == 3 * (1 + 2 * len(COUPLINGS) + 2)
    reference = {run["prompt"]: run for run in runs if run["coupling"] == "autoregressive"}
    for coupling, windows in result["speedup"].items():
        for window, factor in windows.items():
            own = [run for run in runs if (run["coupling"], run["window"]) == (coupling, window)]
            assert factor == pytest.approx(median(reference[r["prompt"]]["seconds"] / r["seconds"] for r in own))
            compression = mean(run["tokens"] / run["nfe"] for run in own)
            assert result["step_compression"][coupling][window] == pytest.approx(compression)
    assert all(run["nfe"] == run["tokens"] == 3 * 6 for run in reference.values())


def test_plain_ar_is_one_token_a_forward_and_no_faster_than_itself(result):
    assert result["step_compression"]["autoregressive"] == {"1": 1.0}
    assert result["speedup"]["autoregressive"] == {"1": 1.0}


def test_the_seed_exact_coupling_draws_the_tokens_of_ar(result):
    for method in result["sections"]["couplings"]["methods"]:
        if method["coupling"] in ("autoregressive", "gumbel_exact"):
            assert method["same_tokens_as_autoregressive"] == 3


def test_slowdowns_of_the_automatic_window_follow_from_the_seconds(result):
    for batch, found in result["sections"]["automatic"]["batches"].items():
        seconds, shown = found["seconds"], result["auto_window_slowdown"][batch]
        assert set(seconds) == {"AR", "3", "5", "auto"} and all(len(values) == 3 for values in seconds.values())
        best = min(("3", "5"), key=lambda window: median(seconds[window]))
        assert shown["best_fixed_window"] == int(best)
        for key, other in (("against_best_fixed", best), ("against_autoregressive", "AR")):
            assert shown[key] == pytest.approx(
                median(a / b for a, b in zip(seconds["auto"], seconds[other], strict=True))
            )


def test_compression_by_trajectories_follows_from_the_forwards(result):
    for coupling, found in result["sections"]["trajectories"]["couplings"].items():
        for count, runs in found.items():
            assert len(runs) == 2
            assert result["trajectories"][coupling][count] == pytest.approx(mean(r["tokens"] / r["nfe"] for r in runs))


def test_the_overhead_is_what_is_not_the_forward(result):
    cases = [case for case in result["sections"]["breakdown"]["cases"] if case["coupling"] == "maximal"]
    assert len(cases) == 1 + len(breakdown.LAWS)
    for case in cases:
        seconds = case["seconds"]
        assert set(seconds) == set(PARTS)
        rest = sum(value for part, value in seconds.items() if part != "forward")
        assert result["overhead_share"][case["shape"]] == pytest.approx(rest / sum(seconds.values()))


def test_the_cost_of_a_window_is_in_forwards_of_ar(result):
    for name, found in result["sections"]["forward"]["shapes"].items():
        one = found["seconds"]["1"]["median"]
        for window, spread in found["seconds"].items():
            assert result["forward_cost"][name][window] == pytest.approx(spread["median"] / one)
            assert spread["low"] <= spread["median"] <= spread["high"]
        # As many tokens per forward as the forward costs: no gain.
        assert forward.predicted_speedup(found, "4", result["forward_cost"][name]["4"]) == pytest.approx(1)


def test_trajectories_cost_the_positions_that_they_add():
    found = {"seconds": {str(w): {"median": 1.0 + w} for w in (1, 16, 32, 64)}}
    assert forward.trajectory_cost(found, 16, 2) == pytest.approx(33 / 17)
    assert forward.trajectory_cost(found, 16, 3) == pytest.approx(49 / 17)
    assert forward.seconds_at(found, 40) == pytest.approx(41)
    assert math.isnan(forward.trajectory_cost(found, 64, 2))


def test_a_forward_of_fewer_layers_is_scaled_to_all_of_them(monkeypatch, small_shapes):
    took = iter([{2: [6.0, 7.0]}, {2: [1.0, 1.0]}])
    monkeypatch.setattr(shapes, "interleaved", lambda works, repeats, device: next(took))
    model = shapes.ShapedModel(shapes.SHAPES["Janus-Pro-1B"], 2, 4, "cpu", torch.float32)
    assert len(model.token_model.model.layers) == 2
    found = model.forward_seconds((2,), 2)[2]
    assert found["layers"]["median"] == 6.5 * 3 and found["forward"]["median"] == 6.5 * 3 + 1


def test_public_shapes_are_those_of_the_published_models():
    """Parameters of layers and head, by hand: four square matrices and three of the feed-forward net a layer."""
    for name, dim, ffn, layers in (("Janus-Pro-1B", 2048, 5632, 24), ("Janus-Pro-7B", 4096, 11008, 30),
                                   ("Lumina-mGPT-7B-768", 4096, 11008, 32)):  # fmt: skip
        shape = PUBLIC[name]
        module = shape.build(shape.config, shape.codebook_size, dtype=torch.float32, device="meta")
        of_layers = sum(parameter.numel() for parameter in module.model.layers.parameters() if parameter.dim() == 2)
        norms = 4 * 128 * layers if shape.config.qk_norm else 0  # rows of weights and biases of the head norms
        assert of_layers == layers * (4 * dim * dim + 3 * dim * ffn) + norms


def test_memory_is_that_of_the_tensors(result, model):
    sizes = result["memory"]
    assert sizes["weights"] == sum(p.numel() * 4 for p in model.token_model.parameters())
    config = model.token_model.model.config
    slots = model.prompt(drawing.texts(0, 1), None, True).embeddings.shape[1] + 24 + 4
    assert sizes["cache"] == 2 * 2 * config.layers * config.kv_heads * config.head_dim * slots * 4
    assert sizes["peak"] is None or sizes["peak"] <= result["peak_bytes"]


# -- transfers -----------------------------------------------------------------------------------------------------------


def test_the_host_reads_once_an_iteration(result):
    assert result["transfers_per_iteration"] == 1
    assert all(found["iterations"] > 2 for found in result["sections"]["transfers"]["couplings"].values())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
    ],
)
def test_a_model_that_makes_the_host_wait_is_counted(tiny, monkeypatch, wait):
    token_model, logits = tiny.model.token_model, tiny.model.token_model.logits

    def waiting(hidden, index):
        wait(hidden)
        return logits(hidden, index)

    monkeypatch.setattr(token_model, "logits", waiting)
    monkeypatch.setattr(transfers, "COUPLINGS", ["maximal"])  # all of them ask the model in the same way
    assert transfers.headline(transfers.measure(tiny))["transfers_per_iteration"] == 2


def test_what_the_dispatcher_sees_waiting_agrees(tiny):
    """An independent watch: nothing but the reads on purpose waits."""
    settings = mcsjd_core.DecodeSettings("maximal", 3, drawing.checkpoint_law(tiny))
    with Watch() as watch:
        drawing.draw(tiny, ["red apple"], settings)
    assert watch.waiting == []


# -- timing, tables, command ---------------------------------------------------------------------------------------------


def test_works_take_turns_and_each_is_first_in_its_round():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = stopwatch.interleaved(works, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert all(len(values) == 3 for values in seconds.values())


def test_a_spread_is_the_median_between_the_quartiles():
    assert stopwatch.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert stopwatch.spread([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_every_section_makes_tables_for_the_terminal_and_for_a_page(result):
    made = bench.tables(result)
    assert len(made) == len(bench.SECTIONS)  # forward has two, peer was left out
    for table in made:
        assert all(len(row) == len(table.header) for row in table.rows)
        assert table.title in table.text() and table.markdown().count("\n| ") == len(table.rows) + 2


@pytest.fixture
def command(monkeypatch, tmp_path, tmp_path_factory, small_shapes):
    """`bench` on a tiny checkpoint in tmp_path; gives the exit code."""
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("bench-cli") / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "QUICK", PLAN)
    return lambda *words: cli.main(["bench", "--quick", "--model", str(path), "--quiet", *words])


def test_the_command_prints_tables_and_writes_json(command, tmp_path, capsys):
    assert command("--sections", "couplings,memory", "--json", "new/out.json") == 0
    written = json.loads((tmp_path / "new/out.json").read_text())
    assert set(written["sections"]) == {"couplings", "memory"} and written["plan"]["name"] == "quick"
    shown = capsys.readouterr().out
    assert "speed relative to AR" in shown and "KV cache" in shown and "thread" in shown


def test_an_unknown_section_is_named(command, capsys):
    assert command("--sections", "couplings,speed") == cli.FAILED
    assert "no section 'speed'" in capsys.readouterr().err


def test_ctrl_c_ends_with_one_sentence_and_keeps_what_was_measured(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(couplings, "measure", raising(KeyboardInterrupt()))
    file = tmp_path / "out.json"
    assert command("--sections", "couplings", "--json", "out.json") == cli.INTERRUPTED
    assert capsys.readouterr().err.count("\n") == 1 and not file.exists()
    assert command("--sections", "memory,couplings", "--json", "out.json") == cli.INTERRUPTED
    assert capsys.readouterr().err.count("\n") == 1
    assert set(json.loads(file.read_text())["sections"]) == {"memory"}


def test_an_interrupted_run_does_not_replace_the_file_of_an_earlier_one(command, tmp_path, monkeypatch):
    (tmp_path / "out.json").write_text("hours of work")
    monkeypatch.setattr(couplings, "measure", raising(KeyboardInterrupt()))
    assert command("--sections", "memory,couplings", "--json", "out.json") == cli.INTERRUPTED
    assert (tmp_path / "out.json").read_text() == "hours of work"


@pytest.mark.parametrize("function", ["measure", "headline"])
def test_a_section_that_fails_is_told_and_the_others_are_measured(function, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(transfers, "COUPLINGS", ["maximal"])  # one is enough
    monkeypatch.setattr(memory, function, raising(RuntimeError("out of luck\nand a long story")))
    assert command("--sections", "memory,transfers", "--json", "out.json") == 1
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["transfers_per_iteration"] == 1 and "memory" not in written
    reason = written["sections"]["memory"]["why_not"]
    assert re.fullmatch(r"RuntimeError in \w+\.py, line \d+: out of luck", reason)
    for shown in (capsys.readouterr().out, pages().tables(written)):
        assert "not measured" in shown and reason in shown and "reads by the CPU" in shown


def test_a_section_that_bad_input_ends_gives_its_sentence_alone(tiny, monkeypatch):
    monkeypatch.setattr(memory, "measure", raising(mcsjd_core.InputError("No such thing; take another.")))
    assert bench.run(tiny, ("memory",))["sections"]["memory"]["why_not"] == "No such thing; take another"


def test_the_upper_rows_of_a_grid_are_drawn_where_nothing_is_forced(model):
    grid = model.grid()
    assert drawing.upper(grid, 2).num_tokens == 2 * grid.columns
    assert drawing.upper(grid, None) is grid and drawing.upper(grid, 99) is grid
    lined = replace(grid, row_end=grid.num_tokens + 1)
    assert drawing.upper(lined, 2) is lined


def test_the_automatic_window_has_rounds_of_other_prompts(tiny, monkeypatch):
    asked, draw = [], drawing.draw
    monkeypatch.setattr(
        automatic, "draw", lambda b, prompts, *a, **k: asked.append(tuple(prompts)) or draw(b, prompts, *a, **k)
    )
    automatic.measure(replace(tiny, plan=replace(PLAN, batches=(2,))))
    assert len(set(asked)) == 3 and all(len(prompts) == 2 for prompts in asked)


# -- pages -------------------------------------------------------------------------------------------------------------


def pages():
    spec = importlib.util.spec_from_file_location("make_benchmarks", ROOT / "scripts" / "make_benchmarks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_say_what_the_bench_measured():
    script = pages()
    if not script.JSON.exists():
        pytest.skip("docs/bench.json is not there")
    result = json.loads(script.JSON.read_text(encoding="utf-8"))
    for file, (name, write) in script.PAGES.items():
        page = file.read_text(encoding="utf-8")
        assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1
        assert page == script.replaced(page, name, write(result))


def test_the_committed_figures_are_complete():
    script = pages()
    if not script.JSON.exists():
        pytest.skip("docs/bench.json is not there")
    figures = json.loads(script.JSON.read_text(encoding="utf-8"))
    assert set(figures) >= KEYS and figures["plan"]["name"] == "full" and figures["plan"]["prompts"] >= 16
    assert set(figures["ar_ratio_to_transformers"]) == {"1", "4"}


def test_what_the_pages_say_is_made_from_the_figures(result):
    script = pages()
    best = max(factor for windows in result["speedup"].values() for factor in windows.values())
    for write in (script.tables, script.highlights):
        text = " ".join(write(result).split())  # lines break anywhere
        assert f"{best:.2f} times as fast as plain AR" in text and " ".join(result["machine"]["cpu"].split()) in text
    page = "# A\n\n<!-- x: begin -->\nold\n<!-- x: end -->\n\n# B\n"
    assert script.replaced(page, "x", "new") == page.replace("old", "new")
    with pytest.raises(SystemExit, match="x: begin"):
        script.replaced("# A\n", "x", "new")
