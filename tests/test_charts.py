"""Charts and the acceptance map: they are drawn of every kind of run, and the map colours the right cells."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

import tiny
from mcsjd_core import DecodeSettings, Grid, InputError
from mcsjd_core.decoding.trace import RowTrace
from mcsjd_core.reporting.charts import (
    BY_FRAME,
    CHARTS,
    HEIGHT,
    LEGEND_HEIGHT,
    WIDTH,
    acceptance_map,
    all_charts,
    available,
    chart,
)
from mcsjd_core.reporting.report import Report

pytest.importorskip("matplotlib")


def report(batch: int = 1, grid: Grid = Grid(4, 4), **settings) -> Report:
    decoded = tiny.run(tiny.transformer(12), grid, batch, **settings)
    return Report.of(decoded, DecodeSettings(**settings), model="tiny", device="cpu", dtype="float32", grid=grid)


def subject(name: str) -> Grid:
    """A grid of what the chart is of: one is of videos alone."""
    return Grid(2, 4, frames=2) if name == BY_FRAME else Grid(4, 4)


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize(
    ("settings", "with_baseline"),
    [
        ({"window": 8}, False),
        ({"window": 8}, True),
        ({"window": 8, "initialiser": "left"}, False),
        ({"batch": 3, "coupling": "gumbel"}, True),
    ],
    ids=str,
)
def test_every_chart_is_drawn_of_every_kind_of_run(name, settings, with_baseline):
    grid = subject(name)
    run = report(**{"batch": 2} | settings, trace_detail=True, grid=grid)
    baseline = report(coupling="independent", trace_detail=True, grid=grid) if with_baseline else None
    drawn = chart(name, run, baseline)
    assert drawn.shape == (HEIGHT, WIDTH, 3) and drawn.dtype == torch.float32
    assert 0 <= drawn.min() < 0.3 and drawn.max() == 1.0  # ink on white


def test_a_video_of_which_nothing_was_drawn_has_no_bars():
    run = report(grid=subject(BY_FRAME), window=8)
    empty = replace(run, kept=torch.ones(1, run.grid.num_tokens, dtype=torch.bool))
    assert torch.equal(chart(BY_FRAME, run, empty), chart(BY_FRAME, run))


def test_a_baseline_is_seen_in_the_chart():
    for name in CHARTS:
        run, baseline = (
            report(2, coupling=coupling, trace_detail=True, grid=subject(name))
            for coupling in ("maximal", "independent")
        )
        if name != "collision against TV":  # which is of one run
            assert not torch.equal(chart(name, run), chart(name, run, baseline)), name


def test_without_details_only_counts_can_be_drawn():
    assert available(report()) == ["tokens per forward"]
    assert available(report(2, trace_detail=True)) == [name for name in CHARTS if name != BY_FRAME]
    assert available(report(grid=subject(BY_FRAME))) == ["tokens per forward", BY_FRAME]
    for name in set(CHARTS) - {"tokens per forward", BY_FRAME}:
        with pytest.raises(InputError, match="record_details"):
            chart(name, report(2))
    with pytest.raises(InputError, match="videos"):
        chart(BY_FRAME, report())


def test_a_baseline_without_details_is_left_out():
    run, baseline = report(trace_detail=True), report(coupling="independent")
    assert torch.equal(chart("collision histogram", run), chart("collision histogram", run, baseline))


def test_what_would_be_a_single_dot_is_said():
    assert "NFE against token difference" not in available(report(trace_detail=True))
    with pytest.raises(InputError, match="batch_size"):
        chart("NFE against token difference", report(trace_detail=True))


@pytest.mark.parametrize("settings", [{"coupling": "autoregressive"}, {"window": 1}])
def test_of_one_token_a_forward_there_is_nothing_to_draw(settings):
    """The charts give way to a card, and the map to the picture with a line below."""
    run = report(2, trace_detail=True, **settings)
    assert available(run) == [] and all_charts(run).shape == (1, HEIGHT, WIDTH, 3)
    with pytest.raises(InputError, match="one token per forward"):
        chart("tokens per forward", run)
    picture = torch.rand(2, 512, 512, 3)
    assert acceptance_map(run, picture)[:, :-LEGEND_HEIGHT].equal(picture)


def test_no_chart_makes_matplotlib_warn(recwarn):
    for settings in ({"trace_detail": True}, {"coupling": "autoregressive"}, {}):
        run = report(**settings)
        all_charts(run)
        acceptance_map(run)
    assert not recwarn.list


def test_an_unknown_chart_is_named():
    with pytest.raises(InputError, match="'pie'"):
        chart("pie", report())


def test_drawing_leaves_no_figure_behind():
    chart("tokens per forward", report())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_missing_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"requirements\.txt"):
        chart("tokens per forward", report())


def with_commits(committed: list[int], given: int = 0, grid: Grid = Grid(4, 4)) -> Report:
    starts = [given + sum(committed[:i]) for i in range(len(committed))]
    trace = RowTrace(starts, committed, [float(i + 1) for i in range(len(committed))])
    return Report(DecodeSettings(window=16), (trace,), len(committed), 0.1, 1.0, "tiny", "cpu", "float32", grid)


def cells(picture: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Colour [rows, columns, 3] in the middle of every cell of the map's first picture."""
    picture = picture[0, :-LEGEND_HEIGHT]
    height, width = picture.shape[0] // grid.rows, picture.shape[1] // grid.columns
    return picture[height // 2 :: height, width // 2 :: width]


def test_cells_of_one_forward_have_one_colour_and_others_another():
    colours = cells(acceptance_map(with_commits([1, 7, 8])), Grid(4, 4)).reshape(16, 3)
    groups = [colours[:1], colours[1:8], colours[8:]]
    assert all((group == group[0]).all() for group in groups)
    assert len({tuple(group[0].tolist()) for group in groups}) == 3
    brightness = [group[0].sum().item() for group in groups]
    assert brightness == sorted(brightness)  # more tokens at once are brighter


def test_cells_that_were_given_keep_the_picture():
    picture = torch.rand(1, 64, 64, 3)
    shown = acceptance_map(with_commits([4, 4], given=8), picture)[0, :-LEGEND_HEIGHT]
    times = shown.shape[0] // 64
    assert torch.equal(
        shown[: len(shown) // 2], picture[0, :32].repeat_interleave(times, 0).repeat_interleave(times, 1)
    )
    assert not torch.equal(shown[len(shown) // 2 :: times, ::times], picture[0, 32:])


def test_forced_tokens_between_the_rows_are_left_out_of_the_map():
    grid = Grid(2, 3, row_end=50)
    colours = cells(acceptance_map(with_commits([4, 4], grid=grid)), grid)
    assert (colours[0] == colours[0, 0]).all() and (colours[1] == colours[1, 0]).all()


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 64, 64, 4), (64, 64, 3)])
def test_a_picture_of_another_run_is_refused(shape):
    with pytest.raises(InputError, match="1 picture"):
        acceptance_map(report(), torch.rand(shape))


def test_small_pictures_are_enlarged_and_large_ones_are_not():
    assert acceptance_map(report(), torch.rand(1, 100, 50, 3)).shape == (1, 600 + LEGEND_HEIGHT, 300, 3)
    assert acceptance_map(report(), torch.rand(1, 640, 512, 3)).shape == (1, 640 + LEGEND_HEIGHT, 512, 3)


@pytest.mark.parametrize("size", [(width, 300 + width // 7) for width in range(201, 2000, 97)], ids=str)
def test_charts_have_the_size_asked_for_with_every_matplotlib(size):
    """Some versions cut the pixels that inches make, others round them."""
    from mcsjd_core.reporting.charts import _draw

    assert _draw(lambda axes: None, *size).shape == (size[1], size[0], 3)
