"""Redrawing parts of pictures: what is kept stays, and the rest is what plain AR draws around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import COUPLINGS, DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.reporting.charts import acceptance_map
from mcsjd_core.reporting.report import Report
from tiny import run, transformer

CODES, GRID = 16, Grid(5, 6, row_end=16)
MODEL = transformer(CODES)
LAW = LawSettings(cfg_scale=2.0, top_k=8, top_p=0.95)


def kept(batch: int = 3, grid: Grid = GRID) -> torch.Tensor:
    """Tokens of pictures in which a block is free, another one in every row of the batch."""
    codes = torch.randint(CODES, (batch, grid.rows, grid.columns), generator=torch.Generator().manual_seed(5))
    for row in range(batch):
        codes[row, 1 + row : 3 + row, row : 3 + row] = FREE
    return grid.tokens(codes)


def redrawn(batch: int = 3, **settings):
    return run(MODEL, GRID, batch, guided=True, **{"law": LAW, "kept_tokens": kept(batch)} | settings)


@pytest.mark.parametrize("coupling", ["autoregressive", *COUPLINGS])
def test_what_is_kept_stays_and_the_rest_is_drawn(coupling):
    wanted, tokens = kept(), redrawn(coupling=coupling, window=7).tokens
    assert torch.where(wanted == FREE, FREE, tokens).equal(wanted)
    assert GRID.codes(tokens).max() < CODES and GRID.codes(tokens).min() >= 0
    assert not tokens.equal(redrawn(coupling=coupling, window=7, seed=50).tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 2},
        {"window": 7},
        {"window": 64, "initialiser": "above"},
        {"window": 7, "initialiser": "recall"},
        {"window": 7, "trajectories": 3},
    ],
    ids=str,
)
def test_seed_exact_redraws_what_plain_ar_redraws(settings):
    assert redrawn(coupling="gumbel_exact", **settings).tokens.equal(redrawn(coupling="autoregressive").tokens)


@pytest.mark.parametrize(
    "options",
    [{"coupling": name} for name in ["autoregressive", *COUPLINGS]]
    + [{"coupling": name, "initialiser": "recall"} for name in ("independent", "maximal")]
    + [{"coupling": "gumbel", "trajectories": 2}],
    ids=str,
)
def test_rows_with_masks_of_their_own_are_those_of_single_runs(options):
    """Each row begins where its own mask does: a row that began with the others would draw with other numbers. And where it
    ends, other rows go on: it must not recall laws from there."""
    settings = {"guided": True, "law": LAW, "window": 12} | options
    for seed in (0, 70, 80):
        batch = run(MODEL, GRID, 3, seed=seed, kept_tokens=kept(), **settings).tokens
        for row in range(3):
            single = run(MODEL, GRID, 1, seed=seed + row, kept_tokens=kept()[row : row + 1], **settings)
            assert single.tokens[0].equal(batch[row])


def test_a_row_whose_mask_marks_nothing_stays_as_it_is():
    wanted = kept()
    wanted[1] = torch.where(wanted[1] == FREE, 3, wanted[1])
    decoded = redrawn(window=7, kept_tokens=wanted)
    assert decoded.tokens[1].equal(wanted[1])
    assert torch.where(wanted == FREE, FREE, decoded.tokens).equal(wanted)
    assert decoded.traces[1].num_tokens == decoded.kept[1].sum() == 1


def test_one_mask_serves_a_batch_with_pictures_of_their_own():
    tokens = run(MODEL, GRID, 4, window=7, kept_tokens=kept(1)).tokens
    free = (kept(1) == FREE)[0]
    assert (tokens[:, ~free] == tokens[0, ~free]).all() and len(tokens[:, free].unique(dim=0)) == 4


def test_what_is_kept_at_both_ends_costs_no_forward():
    """Free are the positions 8 to 16 of 35: plain AR takes one forward for each of them and for what is kept in between."""
    decoded = run(MODEL, GRID, 1, coupling="autoregressive", kept_tokens=kept(1))
    free = (kept(1) == FREE)[0].nonzero().flatten().tolist()
    assert decoded.nfe == free[-1] - free[0] + 1
    between = [
        position for position in range(free[0], free[-1]) if position not in free and (position + 1) % GRID.stride
    ]
    assert decoded.kept[0].nonzero().flatten().tolist() == between


def test_steps_count_what_is_kept_after_the_last_token_once_that_is_drawn():
    done = []
    redrawn(coupling="autoregressive", on_step=lambda step: done.append(step.done))
    assert done[-1] == [GRID.num_tokens] * 3 and done[0] < done[-2] < done[-1]


def test_the_report_counts_what_was_drawn_and_says_what_it_saw():
    decoded = redrawn(1, window=7, law=LAW)
    names = {"model": "tiny", "device": "cpu", "dtype": "float32"}
    report = Report.of(decoded, DecodeSettings(window=7, law=LAW), **names, grid=GRID)
    assert report.num_tokens == decoded.traces[0].num_tokens - decoded.kept[0].sum() < GRID.num_tokens
    assert report.step_compression == report.num_tokens / decoded.nfe
    assert "not on those after it" in report.text()
    drawn_map = acceptance_map(report)
    assert drawn_map.shape[0] == 1 and drawn_map.isfinite().all()
    assert "no part" not in replace(report, kept=None).text()


def test_the_estimated_speed_up_counts_the_forwards_that_plain_ar_takes():
    """It passes what is kept between the first free code and the last, as every run does."""
    codes = torch.zeros(2, 5, 6, dtype=torch.long)
    codes[0, 0, 0] = codes[0, 4, 5] = codes[1, 2, 2] = FREE
    plain, fast = (
        run(MODEL, GRID, 2, coupling=coupling, window=window, kept_tokens=GRID.tokens(codes))
        for coupling, window in (("autoregressive", 1), ("maximal", 7))
    )
    names = {"model": "tiny", "device": "cpu", "dtype": "float32"}
    report = Report.of(fast, DecodeSettings(window=7), **names, grid=GRID)
    assert report.speedup().factor == plain.nfe / fast.nfe > 1


FAULTS = {
    "fill the grid": kept()[:, :7],
    "nothing is left to draw": GRID.tokens(torch.zeros(3, 5, 6, dtype=torch.long)),
    "do not fit this model": torch.where(kept() == FREE, FREE, CODES + 1),
    "one row, or one for each picture": kept(2),
    "whole numbers": kept().float(),
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_cannot_be_kept_is_one_sentence(message):
    with pytest.raises(InputError, match=message):
        redrawn(kept_tokens=FAULTS[message])


def test_first_tokens_and_kept_ones_are_one_too_many():
    with pytest.raises(InputError, match="give one of them"):
        redrawn(first_tokens=torch.zeros(1, 3, dtype=torch.long))
