"""The report: right figures, and what is estimated is not sold as measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from mcsjd_core import DecodeSettings, Grid
from mcsjd_core.reporting.report import METHOD_LABELS, Report


def report(batch: int = 1, grid: Grid = Grid(4, 4), **settings) -> Report:
    decoded = tiny.run(tiny.transformer(12), grid, batch, **settings)
    names = {"model": "tiny", "device": torch.device("cpu"), "dtype": torch.float32}
    return Report.of(decoded, DecodeSettings(**settings), **names, grid=grid)


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


def test_without_a_baseline_the_speedup_is_called_an_estimate():
    result = report(window=8)
    (line,) = section(result.text(), "Speed-up over plain AR, estimated")
    assert line.startswith(f"{16 / result.nfe:.2f} times: plain AR takes 16 forwards, this run took {result.nfe}")
    assert not result.speedup().measured and result.speedup().factor == 16 / result.nfe


@pytest.mark.parametrize("settings", [{"coupling": "autoregressive"}, {"window": 1}])
def test_a_run_with_one_forward_a_token_is_no_faster_than_plain_ar(settings):
    (line,) = section(report(**settings).text(), "Speed-up")
    assert line.startswith("1.00 times: this run took one forward a token")


def timed(seconds: float, **settings) -> Report:
    return replace(report(**settings), seconds=seconds)


def test_with_a_baseline_the_speedup_is_that_of_the_seconds():
    speedup = timed(0.5, window=8).speedup(timed(2.0, coupling="autoregressive"))
    assert speedup.measured and speedup.factor == pytest.approx(4.0)
    text = timed(0.5, window=8).text(timed(2.0, coupling="autoregressive"))
    (line,) = section(text, "Speed-up over plain AR, measured")
    assert line == "4.00 times: 2.00 s for 16 tokens by plain AR, 0.50 s for 16 here."


def test_a_baseline_of_more_pictures_is_compared_by_the_token_and_named_unfair():
    speedup = timed(1.0, window=8).speedup(timed(2.0, batch=4, coupling="autoregressive"))
    assert speedup.factor == pytest.approx((2.0 / 64) / (1.0 / 16))
    assert "differ in number of pictures" in speedup.basis


def test_the_baseline_is_called_what_it_is():
    assert "Speed-up over SJD (independent), measured" in report(window=8).text(report(coupling="independent"))


@pytest.mark.parametrize("field", ["model", "device", "dtype"])
def test_a_baseline_that_ran_elsewhere_is_named(field):
    other = replace(report(coupling="autoregressive"), **{field: "other"})
    assert f"differ in {field}" in report().speedup(other).basis


@pytest.mark.parametrize(
    ("other", "name"), [({"grid": Grid(4, 5)}, "size"), ({"trace_detail": True, "window": 8}, "recorded details")]
)
def test_a_baseline_that_drew_something_else_is_named(other, name):
    speedup = report(window=8).speedup(report(**other))
    assert f"differ in {name}" in speedup.basis


def test_seconds_are_those_of_drawing():
    """Of the pictures, of all together and in the headline: live previews are told apart from them."""
    result = replace(report(window=8, batch=2), seconds=5.0, prefill_seconds=1.0, preview_seconds=2.5)
    for trace in result.traces:
        trace.seconds[-1] = 4.0
    *pictures, together = section(result.text(), "Measured")
    assert all(f", 2.50 s, {16 / 2.5:.0f} tokens/s" in line for line in pictures)
    assert f", 2.50 s, {32 / 2.5:.0f} tokens/s" in together and result.headline().endswith("2.50 s.")


def test_live_preview_is_told_where_there_was_one():
    assert "live preview" not in report().text()
    assert "live preview 0.25 s" in replace(report(), preview_seconds=0.25).text()


def test_a_comparison_counts_no_live_previews():
    text = replace(timed(1.25, window=8), preview_seconds=0.25).text(timed(2.0, coupling="autoregressive"))
    (line,) = section(text, "Speed-up over plain AR, measured")
    assert line == "2.00 times: 2.00 s for 16 tokens by plain AR, 1.00 s for 16 here, live previews not counted."


def test_a_picture_of_which_nothing_is_drawn_counts_in_no_mean():
    """Of a batch that is redrawn, it may be all that another picture's mask leaves."""
    whole = report(batch=2, window=8, grid=Grid(2, 4, frames=2))
    kept = torch.zeros(2, 16, dtype=torch.bool)
    kept[1] = True
    half = replace(whole, kept=kept)
    alone = replace(whole, traces=whole.traces[:1])
    assert half.step_compression == alone.step_compression
    assert half.compression_by_frame() == alone.compression_by_frame() and len(alone.compression_by_frame()) == 2
    assert replace(whole, kept=torch.ones_like(kept)).step_compression == 1


def test_settings_are_named():
    text = report(coupling="gumbel", window=8).text()
    assert "coupling MC-SJD (Gumbel), window 8, first drafts random" in text
    assert "eager iterations" in text and "trajectories" not in text
    assert "model tiny, float32 on cpu" in text
    assert "first drafts random, 3 trajectories," in report(coupling="gumbel_exact", window=8, trajectories=3).text()


def test_compiled_iterations_are_named_and_not_compared_with_others_unnoticed():
    compiled = replace(report(window=8), settings=DecodeSettings(window=8, execution="compiled"))
    assert "compiled iterations" in compiled.text()
    assert "differ in execution" in compiled.speedup(report(coupling="autoregressive")).basis


def test_plain_ar_reports_the_window_it_really_had():
    assert "window 1," in report(coupling="autoregressive", window=64).text()


def test_headline_gives_the_mean_of_the_pictures():
    result = report(batch=2, window=8)
    mean = sum(16 / trace.nfe for trace in result.traces) / 2
    assert result.headline().startswith(f"{mean:.2f} tokens per forward")


@pytest.mark.parametrize(("dtype", "words"), [(torch.float32, "in float32"), (torch.bfloat16, "in bfloat16: rounding")])
def test_a_seed_exact_run_says_in_which_number_format_it_is_exact(dtype, words):
    exact = replace(report(coupling="gumbel_exact"), dtype=str(dtype).removeprefix("torch."))
    assert words in section(exact.text(), "Settings")[-1]
    assert "seed-exact in" not in report(coupling="maximal").text()


def test_pictures_with_seeds_of_their_own_are_not_named_by_a_seed_that_would_draw_another():
    first, second, _ = section(report(batch=2, seed=7, row_seeds="own").text(), "Measured")
    assert "picture 1, seed 7:" in first and "picture 2, seed 7 of a batch:" in second
