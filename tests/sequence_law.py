"""What the tests of whole sequences share: the exact law of a tiny table model, decoded sequences, and the G-test between them.

The law is enumerated in float64 by code of this file alone, which shares nothing with the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from mcsjd_core import DecodeSettings, Grid, LawSettings, decode
from tiny import TableModel

SAMPLES = 60_000
FAMILY_ERROR = 1e-3
TESTS = 103  # G-tests of a correct core in `test_sequence_law` and `test_broken_rules`
LEVEL = FAMILY_ERROR / TESTS
CHUNK = 20_000  # rows of a decode: a larger batch does not fit into the processor's caches
SPARSE = 10  # cells with a smaller expected count are pooled

CODES, TOKENS = 3, 5
# It and the seeds of tables are such that small errors show, see `test_a_law_off_by_three_percent_is_rejected_almost_always`.
SHARPNESS = 1.8
TRUNCATIONS = {
    "whole": LawSettings(),
    "top-k": LawSettings(top_k=2, temperature=1.3),
    "top-p": LawSettings(top_p=0.9),
    "both": LawSettings(top_k=2, top_p=0.9, temperature=1.5),
    "min-p": LawSettings(min_p=0.15, temperature=1.2),
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


def pair_law(model: TableModel, law: LawSettings = LawSettings()) -> dict:
    one = table_law(model, law)
    return {(*a, *b): one[a] * one[b] for a in one for b in one}


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
SHORT = TableModel(CODES, 3, sharpness=SHARPNESS, seed=27)
