"""The report: right figures, and what is estimated is not sold as measured."""

from __future__ import annotations

import pytest
import torch

import tiny
from mcsjd_core import DecodeSettings, Grid
from mcsjd_core.report import METHOD_LABELS, Report


def report(batch: int = 1, **settings) -> Report:
    decoded = tiny.run(tiny.transformer(12), Grid(4, 4), batch, **settings)
    return Report.of(decoded, DecodeSettings(**settings), model="tiny", device=torch.device("cpu"), dtype=torch.float32)


def section(text: str, title: str) -> list[str]:
    parts = {part.splitlines()[0]: part.splitlines()[1:] for part in text.split("\n\n")}
    return next(lines for name, lines in parts.items() if name.startswith(title))


def test_every_method_has_a_label():
    from mcsjd_core import METHODS

    assert list(METHOD_LABELS) == list(METHODS)
    assert len(set(METHOD_LABELS.values())) == len(METHODS)


def test_figures_are_those_of_the_traces():
    result = report(batch=3, window=8, seed=40)
    lines = section(result.text(), "Measured")
    assert len(lines) == 4
    for index, (line, trace) in enumerate(zip(lines, result.traces, strict=False)):
        assert f"picture {index + 1}, seed {40 + index}: 16 tokens, NFE {trace.nfe}," in line
        assert f"step compression {16 / trace.nfe:.2f}," in line
    assert lines[-1].startswith(f"all 3 together: 48 tokens, {result.nfe} shared forwards")


def test_one_picture_needs_no_line_for_all():
    assert len(section(report(window=8).text(), "Measured")) == 1


def test_speed_against_plain_ar_is_called_an_estimate():
    result = report(window=8)
    (line,) = section(result.text(), "Estimated")
    assert "plain AR takes 16 forwards" in line and f"up to {16 / result.nfe:.2f} times" in line


@pytest.mark.parametrize("settings", [{"coupling": "autoregressive"}, {"window": 1}])
def test_nothing_is_estimated_where_every_token_takes_a_forward(settings):
    (line,) = section(report(**settings).text(), "Estimated")
    assert line.startswith("nothing")


def test_settings_are_named():
    text = report(coupling="gumbel", window=8).text()
    assert "coupling MC-SJD (Gumbel), window 8, first drafts random" in text
    assert "model tiny, float32 on cpu" in text


def test_plain_ar_reports_the_window_it_really_had():
    assert "window 1," in report(coupling="autoregressive", window=64).text()


def test_headline_gives_the_mean_of_the_pictures():
    result = report(batch=2, window=8)
    mean = sum(16 / trace.nfe for trace in result.traces) / 2
    assert result.headline().startswith(f"{mean:.2f} tokens per forward")
