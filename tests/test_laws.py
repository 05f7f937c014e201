"""From logits to the target law: guidance, temperature, top-k and top-p against plain float64 code; laws as containers."""

from __future__ import annotations

import math

import pytest
import torch

from mcsjd_core import InputError, LawSettings
from mcsjd_core.laws.law import Law, guide, point_law, target_law, usable

INFINITY = float("inf")


def naive_law(logits: list[float], settings: LawSettings) -> list[float]:
    """Temperature, top-k keeping ties, softmax, top-p keeping ties, min-p; one number at a time."""
    logits = [value / settings.temperature for value in logits]
    if 0 < settings.top_k < len(logits):
        smallest = sorted(logits, reverse=True)[settings.top_k - 1]
        logits = [value if value >= smallest else -INFINITY for value in logits]
    weights = [math.exp(value - max(logits)) for value in logits]
    probs = [weight / math.fsum(weights) for weight in weights]
    if settings.top_p < 1:
        mass, last = 0.0, 1.0
        for p in sorted(probs, reverse=True):
            if mass >= settings.top_p:
                break
            mass, last = mass + p, p
        probs = [p if p >= last else 0.0 for p in probs]
    likely = settings.min_p * max(probs)
    probs = [p if p >= likely else 0.0 for p in probs]
    return [p / math.fsum(probs) for p in probs]


def random_logits(rows=40, positions=5, codes=37, scale=3.0, seed=0) -> torch.Tensor:
    return torch.randn(rows, positions, codes, generator=torch.Generator().manual_seed(seed)) * scale


SETTINGS = [
    LawSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature in (0.3, 1.0, 2.5)
    for top_k in (0, 1, 2, 10, 36, 37, 1000)
    for top_p in (0.05, 0.5, 0.95, 1.0)
    for min_p in ((0.0, 0.1, 1.0) if top_k in (0, 10) else (0.0,))
]
SETTINGS += [
    LawSettings(top_p=1e-13),
    LawSettings(top_k=5, top_p=1e-13),
]  # less than the units in which mass is counted


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_law_equals_a_naive_one(settings):
    logits = random_logits(rows=8)
    naive = torch.tensor(
        [[naive_law(position, settings) for position in row] for row in logits.tolist()], dtype=torch.float64
    )
    law = target_law(logits, settings)
    assert law.probs.dtype == torch.float32 and law.codebook_size == 37
    torch.testing.assert_close(law.dense().double(), naive, rtol=3e-5, atol=1e-7)
    assert torch.equal(law.dense() > 0, naive > 0)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5, 1.5, 7.0])
def test_what_is_impossible_under_either_row_stays_impossible_under_guidance(cfg_scale):
    cond, uncond = random_logits(rows=2, codes=6).unbind()
    cond[:, [0, 1]], uncond[:, [1, 2]] = -INFINITY, -INFINITY
    guided = guide(torch.stack((cond, uncond)), cfg_scale)
    law = target_law(guided, LawSettings(temperature=0.7, top_k=2, top_p=0.9)).dense()
    assert usable(guided) and (law[..., :3] == 0).all() and torch.isfinite(law).all()
    mixed = uncond + cfg_scale * (cond - uncond)
    torch.testing.assert_close(guided[0, :, 3:], mixed[:, 3:], rtol=0, atol=0)
    alone = guide(torch.stack((cond, uncond))[..., 3:], cfg_scale).softmax(-1)
    torch.testing.assert_close(guided.softmax(-1)[..., 3:], alone)


def test_where_nothing_is_possible_the_logits_are_not_usable():
    rows = torch.tensor([[0.0, -INFINITY], [-INFINITY, 0.0]])[:, None]
    assert not usable(guide(rows, 2.0)) and not usable(
        guide(rows.new_tensor([[INFINITY, 0.0], [0.0, 0.0]])[:, None], 2.0)
    )


def test_a_half_precision_model_gets_a_float32_law():
    logits = random_logits(rows=4).bfloat16()
    assert guide(logits, 2.0).dtype == torch.float32


@pytest.mark.parametrize(
    "settings", [LawSettings(top_k=3), LawSettings(top_k=1), LawSettings(top_p=0.5), LawSettings(0.0, 1.0, 3, 0.5)]
)
def test_codes_that_tie_with_the_last_are_kept(settings):
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 3.0, 2.0, 0.0]]])
    probs = target_law(logits, settings).dense()[0, 0]
    naive = torch.tensor(naive_law(logits[0, 0].tolist(), settings), dtype=torch.float64)
    torch.testing.assert_close(probs.double(), naive, rtol=1e-6, atol=0)
    assert probs[2] == probs[3] == probs[5] and probs[1] == probs[4] and (probs[[0, 6]] == 0).all()


def test_top_k_keeps_the_ties_of_a_bfloat16_model():
    logits = random_logits(rows=4, codes=5000, scale=2.0).bfloat16().float()
    law = target_law(logits, LawSettings(top_k=200))
    smallest = logits.topk(200).values[..., -1:]
    tied = (logits >= smallest).sum(-1)
    assert (tied > 200).any()
    assert torch.equal((law.dense() > 0).sum(-1), tied.clamp_max(law.probs.shape[-1]))


def test_top_k_stores_only_about_k_codes():
    law = target_law(random_logits(rows=2, codes=5000), LawSettings(top_k=200))
    assert law.probs.shape[-1] <= 250 and law.codes.shape == law.probs.shape


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5, 1.0, 3.0, 7.5])
def test_guidance_is_a_line_from_the_unconditional_through_the_conditional_logits(cfg_scale):
    logits = random_logits(rows=6)
    for b in range(3):
        cond, uncond = logits[2 * b].double(), logits[2 * b + 1].double()
        expected = uncond + cfg_scale * (cond - uncond)
        torch.testing.assert_close(guide(logits, cfg_scale)[b].double(), expected, rtol=1e-5, atol=1e-5)


def test_temperature_zero_is_the_largest_logit_alone():
    logits = random_logits()
    law = target_law(logits, LawSettings(temperature=0.0, top_k=5, top_p=0.3))
    assert torch.equal(law.dense().argmax(-1), logits.argmax(-1)) and (law.dense().sum(-1) == 1).all()


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-30, 1e-38, 1e-42, 1e-300, 5e-324])
def test_a_tiny_temperature_tends_to_greedy(temperature, top_k):
    logits = random_logits() * 100
    law = target_law(logits, LawSettings(temperature=temperature, top_k=top_k))
    assert torch.equal(law.dense().argmax(-1), logits.argmax(-1))
    torch.testing.assert_close(law.dense().amax(-1), torch.ones(40, 5), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    "settings", [LawSettings(), LawSettings(top_k=4), LawSettings(top_p=0.9), LawSettings(temperature=0.0)], ids=str
)
def test_forbidden_codes_have_probability_zero(settings):
    logits = random_logits()
    logits[..., ::2] = -INFINITY
    probs = target_law(logits, settings).dense()
    assert (probs[..., ::2] == 0).all() and probs.isfinite().all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(40, 5))


def test_forbidden_codes_stay_at_zero_when_fewer_than_k_are_left():
    logits = random_logits()
    logits[..., 2:] = -INFINITY
    probs = target_law(logits, LawSettings(top_k=10)).dense()
    assert ((probs > 0).sum(-1) == 2).all() and (probs[..., 2:] == 0).all()


@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("top_k", [1, 5, 30])
def test_truncation_equals_the_public_samplers(top_k, top_p, min_p):
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = random_logits(positions=1)[:, 0]
    cut = process.TopPLogitsWarper(top_p)(None, process.TopKLogitsWarper(top_k)(None, logits))
    cut = process.MinPLogitsWarper(min_p)(None, cut)
    law = target_law(logits[:, None], LawSettings(top_k=top_k, top_p=top_p, min_p=min_p))
    torch.testing.assert_close(law.dense()[:, 0], cut.softmax(-1))


def test_top_p_cuts_64000_codes_where_float64_does():
    logits = random_logits(rows=2, positions=3, codes=64_000, scale=0.5)
    probs = logits.softmax(-1)
    ordered = probs.sort(-1, descending=True).values.double()
    kept = (ordered.cumsum(-1) - ordered < 0.9).sum(-1)
    assert ((target_law(logits, LawSettings(top_p=0.9)).probs > 0).sum(-1) == kept).all()


@pytest.mark.parametrize("value", [float("nan"), INFINITY])
def test_unusable_logits_are_noticed(value):
    logits = random_logits()
    assert usable(logits)
    logits[3, 2, 1] = value
    assert not usable(logits)


def test_nothing_allowed_is_noticed_and_something_cut_is_not():
    logits = random_logits()
    logits[3, 2, 1:] = -INFINITY
    assert usable(logits)
    logits[3, 2] = -INFINITY
    assert not usable(logits)


# -- laws as containers: a truncated law says the same as its dense copy ---------------------------------------------------


@pytest.fixture
def truncated() -> Law:
    return target_law(random_logits(rows=3, positions=4, codes=50), LawSettings(top_k=6))


def dense_copy(law: Law) -> Law:
    return Law(law.dense(), None, law.codebook_size)


def test_a_truncated_law_gives_the_probabilities_of_its_dense_copy(truncated):
    tokens = torch.arange(50)[:, None, None].expand(-1, 3, 4)
    for token in tokens:
        assert torch.equal(truncated.prob_of(token), dense_copy(truncated).prob_of(token))
    assert torch.equal(dense_copy(truncated).probs_at(truncated), truncated.probs)
    assert torch.equal(truncated.probs_at(dense_copy(truncated)), truncated.dense())


def test_positions_are_taken_per_row(truncated):
    offsets = torch.tensor([[1, 2, 3], [0, 0, 3], [3, 1, 1]])
    taken = truncated.take_positions(offsets).dense()
    assert torch.equal(dense_copy(truncated).take_positions(offsets).dense(), taken)
    for row in range(3):
        assert torch.equal(taken[row], truncated.dense()[row, offsets[row]])


@pytest.mark.parametrize("stored", ["truncated", "dense"])
def test_points_replace_laws_only_where_asked(truncated, stored):
    law = truncated if stored == "truncated" else dense_copy(truncated)
    where = torch.tensor([[True, False, True, False]] * 3)
    # The first row's tokens are among the stored codes, and not the first of them: their stale copies must not count.
    tokens = torch.cat(
        (truncated.codes[:1, :, 2], torch.randint(50, (2, 4), generator=torch.Generator().manual_seed(1)))
    )
    points = law.with_points(where, tokens)
    expected = torch.where(where[..., None], torch.nn.functional.one_hot(tokens, 50).float(), law.dense())
    assert torch.equal(points.dense(), expected)
    assert torch.equal(points.prob_of(tokens), expected.gather(-1, tokens[..., None])[..., 0])
    assert torch.equal(points.probs_at(truncated), expected.gather(-1, truncated.codes))


def test_a_point_law_has_all_its_mass_on_its_token():
    tokens = torch.tensor([[3, 0, 4]])
    assert torch.equal(point_law(tokens, 5).dense(), torch.nn.functional.one_hot(tokens, 5).float())


# -- bad settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", INFINITY),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("min_p", float("nan")),
        ("cfg_scale", -1.0),
        ("cfg_scale", float("nan")),
        ("cfg_scale", INFINITY),
    ],
)
def test_bad_settings_are_named_with_value_and_rule(name, value):
    with pytest.raises(InputError, match=rf"^{name} must be .*, got {value}\.$"):
        LawSettings(**{name: value})
