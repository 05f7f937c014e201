"""The two primitives, modified rejection and the Gumbel maximum, on random and degenerate laws against their closed forms."""

from __future__ import annotations

import pytest
import torch

from mcsjd_core import COUPLINGS
from mcsjd_core.laws.coupling import after_first_mismatch, draw, gumbel_collision, gumbel_max, modified_rejection
from mcsjd_core.laws.fixed_point import below, running_sums
from mcsjd_core.laws.law import Law
from mcsjd_core.laws.noise import ACCEPT, Noise

ROWS, CODES = 30_000, 6
SIGMAS = 4.5  # two-sided 7e-6 for every single frequency


def laws(*rows) -> torch.Tensor:
    """[1, len(rows), K] float32 laws of given weights."""
    weights = torch.tensor(rows, dtype=torch.float64)
    return (weights / weights.sum(-1, keepdim=True)).float()[None]


def random_laws(count: int, codes: int = CODES, seed: int = 0) -> torch.Tensor:
    """[1, count, codes], from nearly even to nearly a point, every third with codes cut."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.3, 4, count)[:, None]
    logits = torch.randn(count, codes, generator=generator) * sharpness
    cut = torch.rand(count, codes, generator=generator) < 0.4
    cut[:, 0] = False
    cut[torch.arange(count) % 3 != 0] = False
    return logits.masked_fill(cut, float("-inf")).softmax(-1)[None]


DEGENERATE = {
    "equal points": ([1, 0, 0], [1, 0, 0]),
    "different points": ([0, 0, 1], [1, 0, 0]),
    "point to law": ([2, 3, 5], [0, 1, 0]),
    "law to point": ([0, 1, 0], [2, 3, 5]),
    "two equal codes": ([1, 1, 0], [1, 1, 0]),
    "two equal codes, one drafted": ([1, 1, 0], [0, 1, 0]),
    "all but one cut": ([0, 0, 1], [0, 1, 1]),
    "equal laws": ([2, 3, 5], [2, 3, 5]),
    "a draft of probability 0": ([0, 3, 5], [2, 3, 5]),
    "nothing in common": ([1, 0, 1], [0, 1, 0]),
}


def stored(probs: torch.Tensor, how: str) -> Law:
    """The laws [1, L, K], dense, or as top-k stores them: some codes each, in another order, the rest not mentioned."""
    size = probs.shape[-1]
    if how == "dense":
        return Law(probs, None, size)
    kept = int((probs > 0).sum(-1).amax())
    values, codes = probs.topk(kept, dim=-1)
    return Law(values, codes, size)


def repeated(law: Law, rows: int) -> Law:
    codes = None if law.codes is None else law.codes.expand(rows, -1, -1)
    return Law(law.probs.expand(rows, -1, -1), codes, law.codebook_size)


def noise_for(length: int, rows: int = ROWS, step: int = 0) -> Noise:
    return Noise(torch.arange(rows), torch.arange(length).expand(rows, -1), step)


def drafts_from(probs: torch.Tensor, rows: int = ROWS) -> torch.Tensor:
    """[rows, L] drafts of laws [1, L, K], by torch's own sampler."""
    generator = torch.Generator().manual_seed(99)
    return torch.multinomial(probs[0], rows, replacement=True, generator=generator).T.contiguous()


def assert_follows(tokens: torch.Tensor, probs: torch.Tensor) -> None:
    """Every code's frequency in tokens [rows, L] is near its probability, and impossible codes do not occur."""
    frequencies = torch.nn.functional.one_hot(tokens, probs.shape[-1]).double().mean(0)
    expected = probs[0].double()
    rare = expected * len(tokens) < 50  # too few for a normal spread: taken together
    together = (torch.cat((x * ~rare, (x * rare).sum(-1, keepdim=True)), -1) for x in (frequencies, expected))
    assert_frequencies(*together, len(tokens))
    assert (frequencies[expected == 0] == 0).all()


def assert_frequencies(observed: torch.Tensor, expected: torch.Tensor, count: int) -> None:
    """Frequencies of `count` independent draws lie within SIGMAS, and one draw, of their probabilities."""
    spread = (expected * (1 - expected)).clamp_min(0).sqrt() * count**-0.5
    assert ((observed - expected).abs() <= SIGMAS * spread + 1.5 / count).all(), (observed, expected)


def cases():
    yield pytest.param(random_laws(7, seed=1), random_laws(7, seed=2), id="random")
    yield pytest.param(random_laws(2, 200, seed=3), random_laws(2, 200, seed=4), id="200 codes")
    for name, (p, q) in DEGENERATE.items():
        yield pytest.param(laws(p), laws(q), id=name)


every_law = pytest.mark.parametrize(("p", "q"), list(cases()))
every_storage = pytest.mark.parametrize(
    "storage",
    [("dense", "dense"), ("truncated", "truncated"), ("truncated", "dense"), ("dense", "truncated")],
    ids="-".join,
)


# -- modified rejection sampling -----------------------------------------------------------------------------------------


@every_law
@every_storage
def test_modified_rejection_follows_the_target_and_keeps_as_much_as_any_coupling(p, q, storage):
    rows = ROWS if p.shape[-1] < 100 else ROWS // 4
    drafts = drafts_from(q, rows)
    p_law, q_law = (repeated(stored(law, how), rows) for law, how in zip((p, q), storage, strict=True))
    tokens = modified_rejection(p_law, q_law, drafts, noise_for(p.shape[1], rows))
    assert_follows(tokens, p)
    kept = (tokens == drafts).double().mean(0)
    assert_frequencies(kept, torch.minimum(p, q)[0].double().sum(-1).clamp_max(1), rows)


@every_law
def test_a_token_equals_its_draft_exactly_where_it_was_accepted(p, q):
    rows = 20_000
    drafts, noise = drafts_from(q, rows), noise_for(p.shape[1], rows)
    tokens = modified_rejection(repeated(stored(p, "dense"), rows), repeated(stored(q, "dense"), rows), drafts, noise)
    p_x, q_x = (law.expand(rows, -1, -1).gather(-1, drafts[..., None])[..., 0] for law in (p, q))
    assert torch.equal(tokens == drafts, noise.uniform(ACCEPT) * q_x < p_x)


def test_one_revived_code_in_ten_thousand_draws_would_be_noticed():
    p, q = laws([0, 3, 5]), laws([2, 3, 5])
    tokens = modified_rejection(
        repeated(stored(p, "dense"), ROWS), repeated(stored(q, "dense"), ROWS), drafts_from(q), noise_for(1)
    )
    assert_follows(tokens, p)
    with pytest.raises(AssertionError):
        assert_follows(torch.where(torch.arange(ROWS)[:, None] % 10_000 == 0, 0, tokens), p)


def test_accept_noise_decides_nothing_about_the_correction():
    """Corrections of rejected drafts follow the residual, whatever uniform rejected them."""
    p, q = laws([4, 3, 2, 1]), laws([1, 0, 0, 3])
    drafts, noise = torch.full((ROWS, 1), 3), noise_for(1)
    tokens = modified_rejection(repeated(stored(p, "dense"), ROWS), repeated(stored(q, "dense"), ROWS), drafts, noise)
    rejected = (tokens != drafts)[:, 0]
    late = noise.uniform(ACCEPT)[:, 0] > 0.6
    residual = laws([0.15, 0.3, 0.2, 0])
    for part in (rejected & late, rejected & ~late):
        assert_follows(tokens[part], residual)


# -- inverse CDF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [[0, 1, 0, 2, 0], [0, 0, 3, 0, 0], [1e-30, 0, 1, 0, 1e-30], [1, 1, 1, 1, 0]])
@pytest.mark.parametrize("bits", [0, 2**63 - 1, -(2**63), -1])
def test_draw_never_gives_a_code_of_weight_zero(weights, bits):
    code = draw(torch.tensor([[weights]]).float(), torch.tensor([[bits]]))
    assert weights[code.item()] > 0


def bits_of(uniforms: torch.Tensor) -> torch.Tensor:
    """The 64 random bits that stand for float64 numbers in [0, 1)."""
    upper = (uniforms * 2.0**53).long()
    return (upper - 2**53 * (upper >= 2**52).long()) << 11


def test_draw_finds_its_code_among_64000_codes():
    """Near the edges of codes' shares, which a float32 running sum would miss."""
    codes = 64_000
    codes_at = torch.arange(0, codes, 640)[None]
    weights = torch.full((1, 1, codes), 1e-5).expand(1, codes_at.shape[1], -1)
    assert torch.equal(draw(weights, bits_of((codes_at.double() + 5e-4) / codes)), codes_at)
    assert torch.equal(draw(weights, bits_of((codes_at.double() + 1 - 5e-4) / codes)), codes_at)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0, 30.0])
@pytest.mark.parametrize("codes", [2, 1000, 65_536])
def test_draw_gives_every_code_the_share_that_float64_gives_it(codes, sharpness):
    """The edges between codes, as threshold and running sums put them, against a float64 sum of the same weights."""
    logits = torch.randn(1, 3, codes, generator=torch.Generator().manual_seed(1)) * sharpness
    for weights in (logits.softmax(-1), logits.softmax(-1) * 2.0**-60):  # a residual may be tiny
        sums, exact = running_sums(weights), weights.double() / weights.double().sum(-1, keepdim=True)
        shares = sums.diff(dim=-1, prepend=torch.zeros_like(sums[..., :1])).double() / sums[..., -1:]
        assert ((shares - exact).abs() <= 2.0**-39 + 2.0**-22 * exact).all()
        assert (shares - exact).abs().sum() / 2 < 3 * 2.0**-23  # total variation, over 3 laws


def test_a_threshold_is_the_whole_part_of_the_product():
    totals, bits = [1, 2**20 + 7, 2**40, 2**41 - 1], [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF]
    for total in totals:
        expected = [((word % 2**64) >> 20) * total >> 44 for word in bits]
        assert below(torch.tensor(total), torch.tensor(bits)).tolist() == expected


# -- Gumbel maxima -------------------------------------------------------------------------------------------------------


def brute_force_collision(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """sum over v of 1 / sum over u of max(p_u / p_v, q_u / q_v), for codes v that both laws can give; [1, L, K] to [L]."""
    p, q = p[0].double(), q[0].double()
    ratios = torch.maximum(p[:, None, :] / p[:, :, None], q[:, None, :] / q[:, :, None])  # L, v, u
    return torch.where((p > 0) & (q > 0), 1 / ratios.sum(-1), 0).sum(-1)


@every_law
@every_storage
def test_gumbel_maxima_follow_their_laws_and_agree_as_often_as_the_closed_form_says(p, q, storage):
    rows = ROWS if p.shape[-1] < 100 else ROWS // 4
    noise = noise_for(p.shape[1], rows)
    p_law, q_law = (repeated(stored(law, how), rows) for law, how in zip((p, q), storage, strict=True))
    tokens, others = gumbel_max(p_law, noise), gumbel_max(q_law, noise)
    assert_follows(tokens, p)
    assert_follows(others, q)
    assert_frequencies((tokens == others).double().mean(0), brute_force_collision(p, q), rows)


@every_law
@every_storage
def test_gumbel_collision_equals_the_quadratic_formula_and_its_bound(p, q, storage):
    p_law, q_law = (stored(law, how) for law, how in zip((p, q), storage, strict=True))
    collision = gumbel_collision(p_law, q_law)[0].double()
    torch.testing.assert_close(collision, brute_force_collision(p, q), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gumbel_collision(q_law, p_law)[0].double(), collision, rtol=1e-5, atol=1e-6)
    variation = 1 - torch.minimum(p, q)[0].double().sum(-1)
    assert (collision >= (1 - variation) / (1 + variation) - 1e-6).all() and (collision <= 1 - variation + 1e-6).all()


def test_gumbel_maxima_do_not_depend_on_how_the_law_is_stored():
    p, noise = random_laws(12), noise_for(12, 2000)
    dense, truncated = (gumbel_max(repeated(stored(p, how), 2000), noise) for how in ("dense", "truncated"))
    assert torch.equal(dense, truncated)


# -- the couplings -------------------------------------------------------------------------------------------------------


def test_after_means_strictly_after_the_first_mismatch():
    drafts = torch.zeros(3, 5, dtype=torch.long)
    tokens = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    expected = [[False, False, False, True, True], [False, True, True, True, True], [False] * 5]
    assert after_first_mismatch(tokens, drafts).tolist() == expected


@pytest.mark.parametrize("name", COUPLINGS)
@every_storage
def test_every_coupling_preserves_the_marginals_of_the_whole_window(name, storage):
    """Drafts of each position follow q; `gumbel` needs drafts that owe nothing to this window's noise, as these do."""
    p, q = random_laws(5, seed=7), random_laws(5, seed=8)
    p_law, q_law = (repeated(stored(law, how), ROWS) for law, how in zip((p, q), storage, strict=True))
    assert_follows(COUPLINGS[name].couple(p_law, q_law, drafts_from(q), noise_for(5)), p)


@pytest.mark.parametrize("name", COUPLINGS)
@every_law
def test_collision_is_how_often_a_token_after_the_mismatch_stays(name, p, q):
    """Two steps of the coupling: a draft drawn by it from q, then its new token from p, both after a lost draft."""
    rows = ROWS if p.shape[-1] < 100 else ROWS // 4
    length = p.shape[1]
    lost_p, lost_q = (laws([[1] + [0] * (p.shape[-1] - 1), [0] * (p.shape[-1] - 1) + [1]][side]) for side in (0, 1))
    p_law = repeated(Law(torch.cat((lost_p, p), 1), None, p.shape[-1]), rows)
    q_law = repeated(Law(torch.cat((lost_q, q), 1), None, p.shape[-1]), rows)
    start = torch.zeros(rows, length + 1, dtype=torch.long)
    uniform = Law(torch.full_like(q_law.probs, 1 / p.shape[-1]), None, p.shape[-1])
    start[:, 1:] = drafts_from(uniform.probs[:1, 1:], rows)
    drafts = COUPLINGS[name].couple(q_law, uniform, start, noise_for(length + 1, rows, step=0))
    drafts[:, 0] = p.shape[-1] - 1
    if name == "gumbel":
        drafts[:, 1:] = gumbel_max(q_law, noise_for(length + 1, rows))[:, 1:]
    tokens = COUPLINGS[name].couple(p_law, q_law, drafts, noise_for(length + 1, rows, step=1))
    assert (tokens[:, 0] == 0).all()
    expected = COUPLINGS[name].collision(stored(p, "dense"), stored(q, "dense"))[0].double()
    assert_frequencies((tokens == drafts).double().mean(0)[1:], expected.clamp(0, 1), rows)


@pytest.mark.parametrize("name", COUPLINGS)
def test_a_coupling_is_a_function_of_its_arguments(name):
    p, q = (repeated(stored(random_laws(5, seed=seed), "dense"), 50) for seed in (1, 2))
    noise = noise_for(5, 50)
    drafts = drafts_from(q.probs[:1], 50)
    first = COUPLINGS[name].couple(p, q, drafts, noise)
    COUPLINGS[name].couple(q, p, drafts, noise_for(5, 50, step=3))
    assert torch.equal(first, COUPLINGS[name].couple(p, q, drafts, noise))
    assert COUPLINGS[name].label
