"""Decoded sequences follow the model's law: 80,000 of them against an exact enumeration, for every kind of decode.

A tiny table model is enumerated in float64 by code of this file alone, which shares nothing with the core. Every test below
is one G-test at level FAMILY_ERROR / TESTS, so the chance that any of them fails for a correct core is at most FAMILY_ERROR
(Bonferroni); seeds are fixed, so a result is repeatable. The second half shows the power: one broken copy for each rule
that exactness rests on, all of which the same G-test must reject at the same level with at most as many samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy import stats

from mcsjd_core import COUPLINGS, INITIALISERS, METHODS, DecodeSettings, Grid, LawSettings, decode
from mcsjd_core.decoding import iteration as iteration_module
from mcsjd_core.decoding import state as state_module
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.decoding.iteration import Iteration
from mcsjd_core.decoding.state import State
from mcsjd_core.laws.coupling import Gumbel, Maximal, after_first_mismatch, draw, gumbel_max
from mcsjd_core.laws.law import Law
from mcsjd_core.laws.noise import ACCEPT, RESAMPLE, Noise, row_seeds
from mcsjd_core.nn.kv_cache import KVCache
from tiny import TableModel, run, transformer

SAMPLES = 80_000
FAMILY_ERROR = 1e-3
OTHERS = 39  # G-tests of a correct core beyond the covering design
TESTS = 103
LEVEL = FAMILY_ERROR / TESTS
CHUNK = 20_000  # rows of a decode: a larger batch does not fit into the processor's caches
SPARSE = 10  # cells with a smaller expected count are pooled

CODES, TOKENS = 3, 5
SHARPNESS = 1.5  # it and the seeds of tables are such that small errors show, see `test_a_law_off_by_three_percent_...`
TRUNCATIONS = {
    "whole": LawSettings(),
    "top-k": LawSettings(top_k=2, temperature=1.3),
    "top-p": LawSettings(top_p=0.8),
    "both": LawSettings(top_k=2, top_p=0.9, temperature=1.5),
    "min-p": LawSettings(min_p=0.3, temperature=0.8),
}


# -- the exact law, without the core ---------------------------------------------------------------------------------


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(value - max(logits)) for value in logits]
    return [weight / sum(weights) for weight in weights]


def exact_law(logits: list[float], law: LawSettings) -> list[float]:
    """Temperature, then top-k, then top-p, then min-p, by sorting; no two logits are equal."""
    order = sorted(range(len(logits)), key=lambda v: -logits[v])
    kept = order[: law.top_k or len(order)]
    probs = dict(zip(kept, softmax([logits[v] / law.temperature for v in kept]), strict=True))
    nucleus, mass = [], 0.0
    for v in kept:
        if mass >= law.top_p:
            break
        nucleus.append(v)
        mass += probs[v]
    nucleus = [v for v in nucleus if probs[v] >= law.min_p * probs[order[0]]]
    mass = sum(probs[v] for v in nucleus)
    return [probs[v] / mass if v in nucleus else 0.0 for v in range(len(logits))]


def enumerate_law(
    logits_of, codes: int, positions: int, law: LawSettings, *, given=(), forced=None, forbidden=None
) -> dict:
    """Probability of every whole sequence that begins with `given`.

    logits_of(prefix, prompt_row) gives float64 logits, prompt row 1 being unconditional. `forced` and `forbidden` map a
    position to its token and to the codes cut there.
    """
    law_of = {tuple(given): 1.0}
    for position in range(len(given), positions):
        longer = {}
        for prefix, probability in law_of.items():
            if forced and position in forced:
                longer[(*prefix, forced[position])] = probability
                continue
            logits = logits_of(prefix, 0)
            if law.cfg_scale != 1:
                pairs = zip(logits, logits_of(prefix, 1), strict=True)
                logits = [uncond + law.cfg_scale * (cond - uncond) for cond, uncond in pairs]
            allowed = [v for v in range(codes) if v not in (forbidden or {}).get(position, ())]
            for v, p in zip(allowed, exact_law([logits[v] for v in allowed], law), strict=True):
                longer[(*prefix, v)] = probability * p
        law_of = longer
    return law_of


def table_law(model: TableModel, law: LawSettings, **rules) -> dict:
    def logits_of(prefix, prompt_row):
        return model.table[model.context(prefix, prompt_row)].tolist()

    return enumerate_law(logits_of, model.codebook_size, model.num_tokens, law, **rules)


def p_value(tokens: torch.Tensor, law_of: dict) -> float:
    """G-test of sequences [samples, positions] against the law of whole sequences; 0 if an impossible one occurred."""
    base = int(max(max(sequence) for sequence in law_of)) + 1
    powers = base ** torch.arange(tokens.shape[1])
    counts = torch.bincount((tokens * powers).sum(1), minlength=base ** tokens.shape[1]).double()
    keys = torch.tensor(list(law_of)) @ powers
    expected = torch.zeros_like(counts).index_put((keys,), torch.tensor(list(law_of.values()), dtype=torch.float64))
    expected = expected * len(tokens)
    if (counts[expected == 0] > 0).any():
        return 0.0
    dense = expected >= SPARSE
    observed = torch.cat((counts[dense], counts[~dense].sum()[None]))
    expected = torch.cat((expected[dense], expected[~dense].sum()[None]))
    observed, expected = observed[expected > 0], expected[expected > 0]
    g = 2 * torch.xlogy(observed, observed / expected).sum().clamp_min(0)
    assert len(expected) > 2, "The law is almost a point mass: this test could hardly fail."
    degrees = torch.tensor(len(expected) - 1.0, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees / 2, g / 2))


# -- decoding --------------------------------------------------------------------------------------------------------


def chunks(
    model: TableModel, settings: DecodeSettings, grid: Grid, rows: int = SAMPLES, **extra
) -> Iterator[torch.Tensor]:
    """Tokens of `rows` rows, decoded CHUNK at a time: row b has the seed + b, as in a single batch."""
    if settings.initialiser == "warm" and "earlier_tokens" not in extra:
        extra["earlier_tokens"] = torch.arange(grid.num_tokens)[None] % model.codebook_size
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        given = {name: t if t is None or len(t) == 1 else t[first : first + count] for name, t in extra.items()}
        prompt = model.prompt(count, settings.law.guided)
        yield decode(model, prompt, grid, replace(settings, seed=settings.seed + first), **given).tokens


def sample(*arguments, **options) -> torch.Tensor:
    """All rows of `chunks` together."""
    return torch.cat(list(chunks(*arguments, **options)))


def whole(coupling="maximal", window=4, initialiser="random", law=LawSettings(), seed=0):
    """Chunks of what is decoded from the model WHOLE, and their exact law."""
    settings = DecodeSettings(coupling, window, law, initialiser, seed)
    return chunks(WHOLE, settings, Grid(1, TOKENS)), table_law(WHOLE, law)


def sample_p_value(**settings) -> float:
    tokens, law_of = whole(**settings)
    return p_value(torch.cat(list(tokens)), law_of)


def is_rejected(tokens: Iterator[torch.Tensor], law_of: dict, level: float = LEVEL) -> bool:
    """Whether the G-test rejects what is drawn, after any of its chunks: most of what is broken shows in the first.

    A correct core would be rejected as well with a chance of at most the number of chunks times the level.
    """
    seen = []
    for part in tokens:
        seen.append(part)
        if p_value(torch.cat(seen), law_of) <= level:
            return True
    return False


WHOLE = TableModel(CODES, TOKENS, sharpness=SHARPNESS, seed=27)
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
REDRAWN = CONTINUED[0], CONTINUED[1], ({2: 1}, {0: 2, 2: 0, 4: 1})
SHORT = TableModel(CODES, 3, sharpness=SHARPNESS, seed=27)


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
    kept = torch.tensor([[FREE, FREE, 1, FREE, FREE], [2, FREE, 0, FREE, 1]])
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


def pair_law(model: TableModel, law: LawSettings = LawSettings()) -> dict:
    one = table_law(model, law)
    return {(*a, *b): one[a] * one[b] for a in one for b in one}


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


# -- power: every rule, broken on purpose --------------------------------------------------------------------------------
# Each function e1_... to e7_... breaks one rule in position and gives the settings in which it shows. The unbroken
# core passes in the very same settings (last test but one), so it is the broken rule that is rejected.


def reject(p: Law, q: Law, drafts, accept, resample, *, residual=None, verified=None):
    """Modified rejection with its parts open: accept and resample uniforms, the residual, the law verified against."""
    accepted = accept * q.prob_of(drafts) < (verified or p).prob_of(drafts)
    if residual is None:
        residual = (p.probs - q.probs_at(p)).clamp_min(0)
        residual = torch.where(residual.sum(-1, keepdim=True) > 0, residual, p.probs)
    return torch.where(accepted, drafts, p.pick(draw(residual, resample)))


def breaks_with(rule):
    """A coupling that is maximal but for `rule(p, q, drafts, noise)`."""

    class Broken(Maximal):
        couple = staticmethod(rule)

    return Broken()


def e1_reuse_accept_noise(patch):
    def rule(p, q, drafts, noise):
        return reject(p, q, drafts, replace(noise, step=0).uniform(ACCEPT), noise.bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_reuse_residual_noise(patch):
    def rule(p, q, drafts, noise):
        return reject(p, q, drafts, noise.uniform(ACCEPT), replace(noise, step=0).bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_share_noise_between_positions(patch):
    def rule(p, q, drafts, noise):
        return Maximal().couple(p, q, drafts, noise.at(torch.zeros_like(noise.positions)))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_share_gumbel_noise_between_positions(patch):
    class Broken(type(COUPLINGS["gumbel_exact"])):
        def couple(self, p, q, drafts, noise):
            return gumbel_max(p, noise.at(torch.zeros_like(noise.positions)))

    patch.setitem(COUPLINGS, "gumbel_exact", Broken())
    return {"coupling": "gumbel_exact"}


def e1_accept_with_the_gumbel_noise(patch):
    class Broken(Gumbel):
        def couple(self, p, q, drafts, noise):
            accept = torch.exp(-noise.exponentials(drafts[..., None])).squeeze(-1)
            tokens = reject(p, q, drafts, accept, noise.bits(RESAMPLE))
            return torch.where(after_first_mismatch(tokens, drafts), gumbel_max(p, noise), tokens)

    patch.setitem(COUPLINGS, "gumbel", Broken())
    return {"coupling": "gumbel"}


def drop_survivors(patch, keep):
    """Throw survivors away from the first on that keep(law at the survivors, tokens, old drafts) does not want."""
    commit = Iteration.commit

    def broken_commit(self, tokens, drafts, positions, p, usable_logits):
        commit(self, tokens, drafts, positions, p, usable_logits)
        state, (rows, window) = self.state, positions.shape
        counts = state.report[1 : rows + 1]
        wanted = keep(p, tokens, drafts) | (torch.arange(window) < counts[:, None])  # what is committed stays
        state.known[:rows] = state.law_start[:rows] + wanted.long().cumprod(-1).sum(-1)

    patch.setattr(Iteration, "commit", broken_commit)


def draft_by_position(patch):
    patch.setattr(Noise, "random_codes", lambda self, size, series=0: self.positions % size)


def e2_keep_only_drafts_that_did_not_change(patch):
    drop_survivors(patch, lambda law, drafts, old: drafts == old)
    draft_by_position(patch)  # averaged over uniform first drafts, this bias nearly cancels
    return {}


def e2_keep_only_confident_drafts(patch):
    drop_survivors(patch, lambda law, drafts, old: law.prob_of(drafts) > 0.5)
    return {}


def with_other_law(patch, other):
    """Maximal coupling that verifies drafts against other(logits, settings) and corrects from the target."""
    laws, target = {}, iteration_module.target_law

    def both(logits, settings):
        laws["other"] = other(logits, settings)
        return target(logits, settings)

    def rule(p, q, drafts, noise):
        accept, resample = noise.uniform(ACCEPT), noise.bits(RESAMPLE)
        return reject(p, q, drafts, accept, resample, verified=laws["other"])

    patch.setattr(iteration_module, "target_law", both)
    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))


def e3_verify_against_the_untruncated_law(patch):
    target = iteration_module.target_law
    with_other_law(patch, lambda logits, settings: target(logits, LawSettings()))
    return {"law": LawSettings(top_k=2)}


def e3_verify_against_the_unguided_law(patch):
    conditional, guide, target = {}, iteration_module.guide, iteration_module.target_law

    def watched_guide(logits, cfg_scale):
        conditional["logits"] = logits[::2]
        return guide(logits, cfg_scale)

    patch.setattr(iteration_module, "guide", watched_guide)
    with_other_law(patch, lambda logits, settings: target(conditional["logits"], settings))
    return {"law": LawSettings(cfg_scale=2.0)}


def e3_draft_law_before_temperature(patch):
    laws, target, keep_law = {}, iteration_module.target_law, State.keep_law

    def both(logits, settings):
        laws["plain"] = target(logits, LawSettings())
        return target(logits, settings)

    patch.setattr(iteration_module, "target_law", both)
    patch.setattr(State, "keep_law", lambda self, kept, law: keep_law(self, kept, laws["plain"]))
    return {"law": LawSettings(temperature=0.7)}


def e4_epsilon_on_the_residual(patch):
    def rule(p, q, drafts, noise):
        residual = (p.probs - q.probs_at(p)).clamp_min(0) + 1e-4  # revives what top-k cut
        return reject(p, q, drafts, noise.uniform(ACCEPT), noise.bits(RESAMPLE), residual=residual)

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {"law": LawSettings(top_k=2)}


def e4_epsilon_on_the_draft_law(patch):
    def rule(p, q, drafts, noise):
        padded = Law(q.dense() + 0.02, None, q.codebook_size)
        return reject(p, padded, drafts, noise.uniform(ACCEPT), noise.bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e5_draft_from_the_noise_that_verifies_it(patch):
    patch.setattr(Noise, "random_codes", lambda self, size: (self.uniform(ACCEPT) * size).long())
    return {}


def e5_draft_from_the_noise_that_corrects_it(patch):
    patch.setattr(Noise, "random_codes", lambda self, size: (self.uniform(RESAMPLE) * size).long())
    return {}


def e7_keep_the_old_law_with_a_kept_draft(patch):
    seen, keep_law = {}, State.keep_law

    def rule(p, q, drafts, noise):
        tokens = Maximal().couple(p, q, drafts, noise)
        seen.update(q=q, kept=tokens == drafts)
        return tokens

    def broken_keep_law(self, kept, law):
        mixed = torch.where(seen["kept"][..., None], seen["q"].dense(), law.dense())
        keep_law(self, kept, Law(mixed, None, law.codebook_size))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    patch.setattr(State, "keep_law", broken_keep_law)
    return {}


BROKEN = [
    breakage
    for name, breakage in sorted(globals().items())
    if name.startswith(("e1_", "e2_", "e3_", "e4_", "e5_", "e7_"))
]


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_the_g_test_rejects(breakage, monkeypatch):
    with monkeypatch.context() as patch:
        assert is_rejected(*whole(**breakage(patch)))


@pytest.mark.parametrize("sharers", [2, SAMPLES])
def test_the_g_test_rejects_e6_rows_that_share_noise(sharers, monkeypatch):
    def shared(seed, batch, device):
        return row_seeds(seed, batch, device) // sharers

    monkeypatch.setattr(state_module, "row_seeds", shared)
    tokens = chunks(SHORT, DecodeSettings("maximal", 3), Grid(1, 3), rows=2 * SAMPLES)
    assert is_rejected((part.view(-1, 6) for part in tokens), pair_law(SHORT))


UNBROKEN = [
    {},
    {"coupling": "gumbel_exact"},
    {"coupling": "gumbel"},
    {"law": LawSettings(top_k=2)},
    {"law": LawSettings(cfg_scale=2.0)},
    {"law": LawSettings(temperature=0.7)},
]


@pytest.mark.parametrize("settings", UNBROKEN, ids=str)
def test_the_unbroken_core_passes_where_broken_copies_are_rejected(settings):
    assert sample_p_value(**settings) > LEVEL


def test_the_unbroken_core_passes_with_first_drafts_that_the_position_decides(monkeypatch):
    draft_by_position(monkeypatch)
    assert sample_p_value() > LEVEL


def test_the_g_test_rejects_a_law_that_is_off_by_three_percent():
    tokens, _ = whole()
    assert is_rejected(tokens, table_law(WHOLE, LawSettings(temperature=1.03)))


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
    p, q = (torch.tensor([law[sequence] for sequence in drawn], dtype=torch.float64) for law in (drawn, tested))
    p, q = (law[(p > 0) & (q > 0)] for law in (p, q))
    dense = q * SAMPLES >= SPARSE
    p, q = (torch.cat((law[dense], law[~dense].sum()[None])) for law in (p, q))
    p, q = p[q > 0], q[q > 0]
    distance = 2 * SAMPLES * torch.xlogy(p, p / q).sum().item()
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL, len(q) - 1), len(q) - 1, distance))
