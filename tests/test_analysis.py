"""Quantities of the charts, on traces made by hand and against sums over a real decode."""

from __future__ import annotations

import math

import pytest
import torch

import tiny
from mcsjd_core import Grid, InputError
from mcsjd_core.decoding.trace import RowTrace
from mcsjd_core.reporting.analysis import (
    by_age,
    committed_together,
    mean_and_variance,
    mean_token_difference,
    of_drafted_laws,
)

NAN = math.nan


def hand_made() -> RowTrace:
    """Five tokens after two given ones, window 3: commits 1, 3, 1."""
    details = [torch.tensor(row) for row in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 9.0, 9.0])]
    return RowTrace(starts=[2, 3, 6], committed=[1, 3, 1], seconds=[1, 2, 3], details={"acceptance": details})


def test_every_place_has_its_values_in_the_order_of_the_forwards():
    expected = torch.tensor([[0.1, NAN], [0.2, 0.4], [0.3, 0.5], [0.6, NAN], [0.7, NAN]])
    torch.testing.assert_close(by_age(hand_made(), "acceptance"), expected, equal_nan=True)


def test_mean_and_variance_count_only_places_that_are_there():
    mean, variance = mean_and_variance(torch.tensor([[1.0, NAN], [3.0, 0.5], [NAN, 1.5]]))
    assert mean.tolist() == [2.0, 1.0] and variance.tolist() == [1.0, 0.25]


def test_fresh_drafts_are_left_out_where_laws_are_compared():
    assert of_drafted_laws((hand_made(),), "acceptance").tolist() == pytest.approx([0.4, 0.5])


def test_tokens_know_how_many_their_forward_committed():
    assert committed_together(hand_made()).tolist() == [0, 0, 1, 3, 3, 3, 1]


def test_a_run_without_details_says_how_to_get_them():
    with pytest.raises(InputError, match="record_details"):
        by_age(RowTrace(starts=[0], committed=[1], seconds=[0.1]), "acceptance")


def test_changed_drafts_of_a_decode_are_counted():
    """Against the tokens themselves: a draft that a forward looked at before has changed where the sequence did."""
    grid, window, steps = Grid(4, 4), 6, []
    decoded = tiny.run(
        tiny.transformer(12),
        grid,
        window=window,
        trace_detail=True,
        on_step=lambda step: steps.append((step.tokens[0].clone(), step.done[0])),
    )
    (trace,), changed = decoded.traces, []
    for (before, done), (after, _), start in zip(steps, steps[1:], trace.starts, strict=False):
        survivors = range(
            done, min(start + window, 16)
        )  # the forward from `start` looked at them and did not commit them
        changed += [bool(before[place] != after[place]) for place in survivors]
    assert changed and mean_token_difference(trace) == pytest.approx(sum(changed) / len(changed))


def test_plain_ar_has_no_drafts_that_could_change():
    decoded = tiny.run(tiny.transformer(12), Grid(4, 4), coupling="autoregressive", trace_detail=True)
    assert mean_token_difference(decoded.traces[0]) == 0.0
    assert by_age(decoded.traces[0], "acceptance").shape == (16, 1)
