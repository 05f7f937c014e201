"""The loop: the same tokens as plain AR with `gumbel_exact`, whatever the window, the batch and what is given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import COUPLINGS, INITIALISERS, METHODS, DecodeSettings, Grid, LawSettings, decode
from mcsjd_core.decoding.drafts import RECALL
from small_picture import CODES, GUIDED, MODEL, picture
from tiny import TableModel, prompt, transformer

# -- equality with plain AR ----------------------------------------------------------------------------------------------

SEEDS = 50  # rows of one batch: row b has seed b
WINDOWS = (1, 2, 7, 16, 200)
CASES = [
    (w, i) for w in WINDOWS for i in (*INITIALISERS, RECALL) if w > 1 or i == "random"
]  # a window of 1 has no drafts


@pytest.fixture(scope="module")
def plain():
    """Tokens of plain AR, drawn once for each law and model."""
    known = {}

    def tokens(law: LawSettings, model=MODEL) -> torch.Tensor:
        if (law, model) not in known:
            known[law, model] = picture(SEEDS, model=model, coupling="autoregressive", law=law).tokens
        return known[law, model]

    return tokens


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize(("window", "initialiser"), CASES)
def test_gumbel_exact_equals_autoregressive_token_for_token(window, initialiser, law, plain):
    settings = {"coupling": "gumbel_exact", "window": window, "initialiser": initialiser, "law": law}
    differing = (picture(SEEDS, **settings).tokens != plain(law)).any(1)
    if differing.any():  # float32 forwards of different shapes round differently; in float64 there is no such tie
        assert differing.sum() <= 1
        wide = transformer(CODES, dtype=torch.float64)
        assert torch.equal(picture(SEEDS, model=wide, **settings).tokens, plain(law, wide))


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
def test_gumbel_exact_equals_autoregressive_for_every_batch_size(batch, law, plain):
    for seed in range(0, SEEDS - batch, 29):
        tokens = picture(batch, coupling="gumbel_exact", window=16, law=law, seed=seed).tokens
        assert torch.equal(tokens, plain(law)[seed : seed + batch])


def test_different_seeds_give_different_pictures(plain):
    assert len(plain(LawSettings()).unique(dim=0)) == SEEDS


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("coupling", METHODS)
def test_row_b_of_a_batch_equals_a_single_run_with_the_seed_plus_b(coupling, law):
    batch = picture(3, coupling=coupling, window=9, seed=40, law=law)
    for b in range(3):
        single = picture(1, coupling=coupling, window=9, seed=40 + b, law=law)
        assert torch.equal(batch.tokens[b], single.tokens[0])
        assert batch.traces[b].committed == single.traces[0].committed


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_row_that_recalls_is_its_single_run_in_a_batch_too(coupling):
    """A row that is ahead of the others has a window beyond its last token, whose laws no single run has."""
    model, grid, rows = TableModel(3, 8, sharpness=1.0, seed=3), Grid(2, 4), 24
    settings = DecodeSettings(coupling, 5, initialiser=RECALL)
    batch = decode(model, model.prompt(rows, False), grid, settings).tokens
    singles = [decode(model, model.prompt(1, False), grid, replace(settings, seed=seed)) for seed in range(rows)]
    assert torch.equal(batch, torch.cat([single.tokens for single in singles]))


@pytest.mark.parametrize("coupling", METHODS)
def test_batches_of_the_next_seed_share_no_picture_where_rows_have_seeds_of_their_own(coupling):
    counted, own = (
        [picture(4, coupling=coupling, window=9, seed=seed, row_seeds=rows).tokens for seed in (5, 6)]
        for rows in ("counted", "own")
    )
    assert torch.equal(counted[0][1:], counted[1][:-1]) and len(torch.cat(own).unique(dim=0)) == 8
    assert torch.equal(own[0][0], counted[0][0]) and torch.equal(own[1][0], counted[1][0])


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("initialiser", ["random", "above"])
def test_greedy_equals_greedy_autoregressive(coupling, initialiser, plain):
    law = LawSettings(temperature=0.0, cfg_scale=1.5)
    for window in (1, 5, 40):
        greedy = picture(2, coupling=coupling, window=window, initialiser=initialiser, law=law).tokens
        assert torch.equal(greedy, plain(law)[:2])


def test_greedy_takes_the_largest_logit_of_an_uncached_forward():
    tokens = picture(1, coupling="maximal", window=8, law=LawSettings(temperature=0.0)).tokens
    embeddings = torch.cat((prompt(MODEL).embeddings, MODEL.embed(tokens, tokens)), 1)
    hidden = MODEL.model(embeddings, torch.arange(embeddings.shape[1])[None])
    assert torch.equal(MODEL.logits(hidden, None)[:, 3:-1].argmax(-1), tokens)


def test_a_warm_start_from_the_result_itself_is_confirmed_in_one_window():
    first = picture(1, coupling="gumbel_exact", window=36)
    again = picture(1, coupling="gumbel_exact", window=36, initialiser="warm", earlier_tokens=first.tokens)
    assert torch.equal(first.tokens, again.tokens) and again.nfe == 1 < first.nfe


@pytest.mark.parametrize("coupling", METHODS)
def test_runs_repeat_and_leave_torch_s_random_state_alone(coupling):
    state = torch.random.get_rng_state()
    first = picture(2, coupling=coupling, window=8, seed=3)
    torch.rand(1)
    torch.random.set_rng_state(state)
    assert torch.equal(first.tokens, picture(2, coupling=coupling, window=8, seed=3).tokens)
    assert torch.equal(state, torch.random.get_rng_state())


# -- continued pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [1, 6, 17, 35])
@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
def test_a_continued_picture_is_the_one_that_plain_ar_draws_of_the_same_beginning(given, law, plain):
    first = plain(law)[:4, :given]
    expected = picture(4, coupling="autoregressive", law=law, first_tokens=first).tokens
    for window in (1, 8, 64):
        result = picture(4, coupling="gumbel_exact", window=window, law=law, first_tokens=first)
        assert torch.equal(result.tokens, expected)
        assert all(trace.num_tokens == 36 - given for trace in result.traces)


@pytest.mark.parametrize("coupling", METHODS)
def test_a_row_that_continues_equals_a_single_run_with_its_beginning_and_the_seed_plus_b(coupling):
    first = torch.arange(12).view(3, 4) % CODES
    batch = picture(3, coupling=coupling, window=5, seed=9, first_tokens=first)
    for b in range(3):
        single = picture(1, coupling=coupling, window=5, seed=9 + b, first_tokens=first[b : b + 1])
        assert torch.equal(batch.tokens[b], single.tokens[0])


@pytest.mark.parametrize("coupling", METHODS)
def test_given_tokens_stay_as_they_are(coupling):
    first = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    result = picture(3, coupling=coupling, window=5, first_tokens=first)
    assert torch.equal(result.tokens[:, :7], first.expand(3, -1))
