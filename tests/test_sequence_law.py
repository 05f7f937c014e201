"""Decoded sequences follow the model's law: 60,000 of them against an exact enumeration, for every kind of decode.

Every test of a correct core, here and in `test_broken_rules`, is one G-test at level FAMILY_ERROR / TESTS, so the chance that
any of them fails is at most FAMILY_ERROR (Bonferroni); seeds are fixed, so a result is repeatable.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from mcsjd_core import COUPLINGS, INITIALISERS, METHODS, DecodeSettings, Grid, LawSettings, decode
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.nn.kv_cache import KVCache
from sequence_law import (
    CODES,
    LEVEL,
    SAMPLES,
    SHARPNESS,
    SHORT,
    SPARSE,
    TESTS,
    TOKENS,
    TRUNCATIONS,
    WHOLE,
    enumerate_law,
    is_rejected,
    p_value,
    pair_law,
    sample,
    sample_p_value,
    table_law,
)
from tiny import TableModel, run, transformer

WINDOWS = (2, 3, 8)


COLD = [name for name in INITIALISERS if name != "warm"]  # that one has a single coupling
RULES = list(itertools.product((1.0, 2.0), TRUNCATIONS))
LEVELS = (list(COUPLINGS), WINDOWS, COLD)


def covering_design():
    """Every coupling x window x initialiser that goes with it, through which guidance and truncation run."""
    for c, coupling in enumerate(COUPLINGS):
        for w, window in enumerate(WINDOWS):
            for i, initialiser in enumerate(INITIALISERS):
                if initialiser != "warm" or coupling == "gumbel_exact":
                    yield coupling, window, initialiser, *RULES[(2 * c + 3 * w + i + c * w // 2) % len(RULES)]


def missing(cases: list[tuple]) -> list[tuple]:
    """Further cases, so that every level of each factor meets every guidance with every truncation."""
    wanted = [{(level, *rule) for level in levels for rule in RULES} for levels in LEVELS]
    for position, triples in enumerate(wanted):
        triples -= {(case[position], *case[3:]) for case in cases}
    further = []
    while any(wanted):
        rule = next(triple[1:] for triples in wanted for triple in sorted(triples, key=str))
        level = [next((each for each in levels if (each, *rule) in triples), levels[len(further) % len(levels)])
                 for levels, triples in zip(LEVELS, wanted, strict=True)]  # fmt: skip
        further.append((*level, *rule))
        for position, triples in enumerate(wanted):
            triples.discard((level[position], *rule))
    return further


OTHERS = 39  # G-tests of a correct core beyond the covering design
CASES = list(covering_design())
DESIGN = [*CASES, *missing(CASES), *(("autoregressive", 1, "random", *rule) for rule in RULES[::3])]


def test_the_design_covers_every_triple_with_guidance_and_truncation():
    cases = [case for case in DESIGN if case[0] in COUPLINGS]
    for position, levels in enumerate((COUPLINGS, WINDOWS, COLD)):
        triples = itertools.product(levels, (1.0, 2.0), TRUNCATIONS)
        assert {(case[position], *case[3:]) for case in cases} >= set(triples)
    assert len(DESIGN) + OTHERS <= TESTS


@pytest.mark.parametrize(("coupling", "window", "initialiser", "cfg_scale", "truncation"), DESIGN)
def test_sequences_follow_the_exact_law(coupling, window, initialiser, cfg_scale, truncation):
    law = replace(TRUNCATIONS[truncation], cfg_scale=cfg_scale)
    seed = 1_000_003 * DESIGN.index((coupling, window, initialiser, cfg_scale, truncation))
    settings = {"coupling": coupling, "window": window, "initialiser": initialiser, "law": law, "seed": seed}
    assert sample_p_value(**settings) > LEVEL


# -- pictures that are continued, ragged batches, grid rules, the real transformer --------------------------------------
# A model, the law it is sampled from, and what is given, forced (of the rows of two masks: kept) or forbidden.

CONTINUED = TableModel(CODES, TOKENS, sharpness=SHARPNESS, seed=2), LawSettings(cfg_scale=1.5, top_p=0.95), (2, 0)
VIDEO = TableModel(CODES, 6, sharpness=SHARPNESS, seed=22), LawSettings(top_p=0.95, temperature=1.2), (1, 2)
RULED = (
    TableModel(CODES, 6, sharpness=SHARPNESS, forced=1, seed=37), LawSettings(cfg_scale=1.5),
    {2: CODES, 5: CODES}, {0: (0,), 3: (1,), 4: (0, 1)},
)  # fmt: skip
REDRAWN = CONTINUED[0], CONTINUED[1], ({2: 1}, {0: 2, 2: 1, 4: 1})


@pytest.mark.parametrize("coupling", METHODS)
def test_continued_pictures_follow_the_law_given_their_first_tokens(coupling):
    model, law, given = CONTINUED
    tokens = sample(model, DecodeSettings(coupling, 3, law), Grid(1, TOKENS), first_tokens=torch.tensor([given]))
    assert p_value(tokens, table_law(model, law, given=given)) > LEVEL


@pytest.mark.parametrize("initialiser", ["above", "previous_frame"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_videos_follow_the_law_given_their_first_frame(coupling, initialiser):
    model, law, given = VIDEO
    settings = DecodeSettings(coupling, 3, law, initialiser, seed=13)
    tokens = sample(model, settings, Grid(1, 2, frames=3), first_tokens=torch.tensor([given]))
    assert p_value(tokens, table_law(model, law, given=given)) > LEVEL


@pytest.mark.parametrize("coupling", METHODS)
def test_forced_and_forbidden_tokens_leave_the_law_of_the_others_exact(coupling):
    model, law, forced, cuts = RULED
    forbidden = torch.tensor([[v in cut for v in range(CODES)] for cut in cuts.values()])
    forbidden_row = torch.tensor([list(cuts).index(position) if position in cuts else -1 for position in range(6)])
    grid = Grid(2, 2, row_end=CODES, forbidden=forbidden, forbidden_row=forbidden_row)
    tokens = sample(model, DecodeSettings(coupling, 4, law), grid)
    for position, cut in cuts.items():
        assert not torch.isin(tokens[:, position], torch.tensor(cut)).any()
    assert p_value(tokens, table_law(model, law, forced=forced, forbidden=cuts)) > LEVEL


@pytest.mark.parametrize("coupling", METHODS)
def test_redrawn_parts_follow_the_law_given_what_is_kept_before_them(coupling):
    """Two rows with masks of their own: one has kept codes in the middle, the other at both ends."""
    model, law, masks = REDRAWN
    kept = torch.tensor([[FREE, FREE, 1, FREE, FREE], [2, FREE, 1, FREE, 1]])
    tokens = sample(
        model, DecodeSettings(coupling, 3, law), Grid(1, 5), kept_tokens=kept.repeat(SAMPLES, 1), rows=2 * SAMPLES
    )
    for row, forced in enumerate(masks):
        assert p_value(tokens[row::2], table_law(model, law, forced=forced)) > LEVEL


def test_rows_that_end_early_and_late_have_the_same_law():
    """Rows are split by how soon they ended only through their tokens, so the whole batch is tested, and is ragged."""
    result = decode(WHOLE, WHOLE.prompt(SAMPLES, False), Grid(1, TOKENS), DecodeSettings("maximal", 3, seed=11))
    iterations = torch.tensor([trace.nfe for trace in result.traces])
    assert iterations.unique().tolist() == [2, 3, 4, 5] and (iterations.bincount()[2:] > SAMPLES // 100).all()
    assert p_value(result.tokens, table_law(WHOLE, LawSettings())) > LEVEL


def test_pairs_of_rows_are_independent():
    tokens = sample(SHORT, DecodeSettings("maximal", 3), Grid(1, 3), rows=2 * SAMPLES)
    assert p_value(tokens.view(SAMPLES, 6), pair_law(SHORT)) > LEVEL


@pytest.mark.parametrize("coupling", ["maximal", "gumbel"])
def test_the_real_transformer_follows_its_law(coupling):
    """Its cache and ragged rows included; the exact law comes from its float64 copy without a cache."""
    tokens, law_of = of_transformer(coupling)
    assert p_value(torch.cat(list(tokens)), law_of) > LEVEL


def test_the_g_test_rejects_a_cache_that_mixes_rows(monkeypatch):
    monkeypatch.setattr(KVCache, "keep_rows", lambda self, order: setattr(self, "rows", len(order)))
    assert is_rejected(*of_transformer("maximal"))


# Of 2,000 rows each: a forward costs more than a table's, and what a cache could mix up shows in fewer.
TRANSFORMER_CHUNKS = 20


def of_transformer(coupling: str):
    """Chunks of what is decoded from the real transformer, and their exact law."""
    law, positions, rows = LawSettings(cfg_scale=1.5, top_p=0.95), 4, 2000
    model, exact = transformer(CODES), transformer(CODES, dtype=torch.float64)

    def logits_of(prefix, prompt_row):
        ids = [[0, 3, 4, 1], [0, 1]][prompt_row] + [exact.vocabulary.first_code + token for token in prefix]
        hidden = exact.model(exact.embed_ids(torch.tensor([ids])), torch.arange(len(ids))[None])
        return exact.lm_head(hidden)[0, -1].tolist()

    tokens = (
        run(model, Grid(1, positions), rows, True, coupling=coupling, window=3, law=law, seed=part * rows).tokens
        for part in range(TRANSFORMER_CHUNKS)
    )
    return tokens, enumerate_law(logits_of, CODES, positions, law)


# -- power -------------------------------------------------------------------------------------------------------------

TESTED_LAWS = {
    "whole": (LawSettings(), lambda law: table_law(WHOLE, law)),
    "pairs": (LawSettings(), lambda law: pair_law(SHORT, law)),
    "continued": (CONTINUED[1], lambda law: table_law(CONTINUED[0], law, given=CONTINUED[2])),
    "video": (VIDEO[1], lambda law: table_law(VIDEO[0], law, given=VIDEO[2])),
    "ruled": (RULED[1], lambda law: table_law(RULED[0], law, forced=RULED[2], forbidden=RULED[3])),
    "redrawn in the middle": (REDRAWN[1], lambda law: table_law(REDRAWN[0], law, forced=REDRAWN[2][0])),
    "redrawn at both ends": (REDRAWN[1], lambda law: table_law(REDRAWN[0], law, forced=REDRAWN[2][1])),
}


@pytest.mark.parametrize("name", TESTED_LAWS)
def test_a_law_off_by_three_percent_is_rejected_almost_always(name):
    """By the noncentral chi-squared law that G then has, so that no test of this file has too few samples for its model."""
    law, exact = TESTED_LAWS[name]
    assert power(exact(law), exact(replace(law, temperature=1.03 * law.temperature))) > 0.98


def power(drawn: dict, tested: dict) -> float:
    """Probability that SAMPLES sequences of one law are rejected as draws of another law of the same sequences."""
    from scipy import stats  # seconds, and for this alone

    p, q = (torch.tensor([law[sequence] for sequence in drawn], dtype=torch.float64) for law in (drawn, tested))
    p, q = (law[(p > 0) & (q > 0)] for law in (p, q))
    dense = q * SAMPLES >= SPARSE
    p, q = (torch.cat((law[dense], law[~dense].sum()[None])) for law in (p, q))
    p, q = p[q > 0], q[q > 0]
    distance = 2 * SAMPLES * torch.xlogy(p, p / q).sum().item()
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL, len(q) - 1), len(q) - 1, distance))
