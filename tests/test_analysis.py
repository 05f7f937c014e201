"""Quantities of the charts, on traces made by hand and against sums over a real decode."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import tiny
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.trace import RowTrace
from mcsjd_core.reporting.analysis import (
    by_age,
    committed_together,
    compression_by_frame,
    drawn_by_forward,
    drawn_together,
    mean_and_variance,
    mean_token_difference,
    of_drafted_laws,
)
from mcsjd_core.reporting.entropy import picture_entropies

NAN = math.nan


def hand_made() -> RowTrace:
    """Five tokens after two given ones, window 3: commits 1, 3, 1."""
    details = [torch.tensor(row) for row in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 9.0, 9.0])]
    return RowTrace(
        starts=[2, 3, 6], committed=[1, 3, 1], seconds=[1, 2, 3], details={"acceptance": details}, windows=[3] * 3
    )


def test_every_position_has_its_values_in_the_order_of_the_forwards():
    expected = torch.tensor([[0.1, NAN], [0.2, 0.4], [0.3, 0.5], [0.6, NAN], [0.7, NAN]])
    torch.testing.assert_close(by_age(hand_made(), "acceptance"), expected, equal_nan=True)


def test_what_a_narrow_window_gave_up_is_drafted_afresh_when_a_wide_one_comes_back():
    """Four positions; windows 4, 2, 3 commit 1, 1, 2: the last two positions are given up in between."""
    details = [torch.tensor(row) for row in ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6], [0.7, 0.8])]
    counts = {"starts": [0, 1, 2], "committed": [1, 1, 2], "windows": [4, 2, 3], "seconds": [1, 2, 3]}
    trace = RowTrace(**counts, details={"acceptance": details})
    expected = [[0.1, NAN, NAN], [0.2, 0.5, NAN], [0.3, 0.6, 0.7], [0.4, NAN, NAN], [0.8, NAN, NAN]]
    torch.testing.assert_close(by_age(trace, "acceptance"), torch.tensor(expected), equal_nan=True)
    assert sorted(of_drafted_laws((trace,), "acceptance").tolist()) == pytest.approx([0.5, 0.6, 0.7])


def test_mean_and_variance_count_only_positions_that_are_there():
    mean, variance = mean_and_variance(torch.tensor([[1.0, NAN], [3.0, 0.5], [NAN, 1.5]]))
    assert mean.tolist() == [2.0, 1.0] and variance.tolist() == [1.0, 0.25]


def test_fresh_drafts_are_left_out_where_laws_are_compared():
    assert of_drafted_laws((hand_made(),), "acceptance").tolist() == pytest.approx([0.4, 0.5])


def test_tokens_know_how_many_their_forward_committed():
    assert committed_together(hand_made(), 7).tolist() == [0, 0, 1, 3, 3, 3, 1]


def test_codes_that_were_kept_count_for_no_forward_as_drawn():
    kept = torch.tensor([True, True, False, True, False, False, True])  # the first two were given in any case
    assert drawn_by_forward(hand_made(), kept).tolist() == [1, 2, 0]
    assert drawn_together(hand_made(), kept).tolist() == [0, 0, 1, 0, 2, 2, 0]
    # Frames of [given 0 1 2], [3 4 5] and [6 and nothing else]: 1 code by 1 forward, 2 codes by another, none by the last.
    grid = Grid(1, 3, frames=3)
    trace = RowTrace(starts=[2, 3, 6], committed=[1, 3, 3], seconds=[1, 2, 3], windows=[3] * 3)
    by_frame = compression_by_frame(trace, grid, torch.cat((kept, torch.tensor([True, True]))))
    torch.testing.assert_close(by_frame, torch.tensor([1.0, 2.0, NAN]), equal_nan=True)


def test_a_run_without_details_says_how_to_get_them():
    with pytest.raises(InputError, match="record_details"):
        by_age(RowTrace(starts=[0], committed=[1], seconds=[0.1]), "acceptance")


class Widths:
    """A schedule that goes round `widths`."""

    def __init__(self, widths):
        self.widths, self.largest = itertools.cycle(widths), max(widths)

    def next(self, rows: int) -> int:
        return next(self.widths)

    def observe(self, *_) -> None:
        pass


@pytest.mark.parametrize("widths", [(6,), (6, 1, 3, 6, 2)])
def test_changed_drafts_of_a_decode_are_counted(widths, monkeypatch):
    """Against the tokens themselves: a draft that a forward looked at before has changed where the sequence did."""
    grid, steps = Grid(4, 4), []
    monkeypatch.setattr(loop, "schedule_of", lambda *_: Widths(widths))
    decoded = tiny.run(
        tiny.transformer(12),
        grid,
        trace_detail=True,
        on_step=lambda step: steps.append((step.tokens[0].clone(), step.done[0])),
    )
    (trace,), changed = decoded.traces, []
    ends = [start + window for start, window in zip(trace.starts, trace.windows, strict=True)]
    for (before, done), (after, _), end, next_end in zip(steps, steps[1:], ends, ends[1:], strict=False):
        survivors = range(
            done, min(end, next_end, 16)
        )  # both forwards looked at them, and the first did not commit them
        changed += [bool(before[position] != after[position]) for position in survivors]
    assert changed and mean_token_difference(trace) == pytest.approx(sum(changed) / len(changed))


def test_plain_ar_has_no_drafts_that_could_change():
    decoded = tiny.run(tiny.transformer(12), Grid(4, 4), coupling="autoregressive", trace_detail=True)
    assert mean_token_difference(decoded.traces[0]) == 0.0
    assert by_age(decoded.traces[0], "acceptance").shape == (16, 1)


def test_entropies_of_a_batch_are_those_of_uncached_forwards_picture_by_picture():
    model, grid, law = tiny.transformer(12), Grid(4, 4), LawSettings(temperature=0.9)
    tokens = tiny.run(model, grid, 3, coupling="autoregressive", law=law).tokens

    def replay(settings):
        return decode(model, tiny.prompt(model, 3), grid, settings, earlier_tokens=tokens)

    embeddings = torch.cat((tiny.prompt(model, 3).embeddings, model.embed(tokens, tokens)), 1)
    hidden = model.model(embeddings, torch.arange(embeddings.shape[1]).expand(3, -1))
    p = (model.logits(hidden, None)[:, 3:-1].double() / 0.9).softmax(-1)
    found = picture_entropies(replay, DecodeSettings("autoregressive", law=law), grid)
    assert found == pytest.approx((-torch.xlogy(p, p)).sum(-1).mean(1).tolist(), rel=1e-4)
    assert max(found) > 1.03 * min(found)
