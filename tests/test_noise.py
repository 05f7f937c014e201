"""The counter-based noise: the published generator, the range of its numbers, what they depend on, and their laws."""

from __future__ import annotations

import math

import pytest
import torch

from mcsjd_core.laws.noise import (
    ACCEPT,
    GUMBEL,
    INITIAL_DRAFT,
    RESAMPLE,
    Noise,
    mix,
    row_seeds,
    to_exponential,
    to_uniform,
)

PURPOSES = (ACCEPT, RESAMPLE, GUMBEL, INITIAL_DRAFT)
KEYS = [0, 1, 1234567, 2**63 - 1, 2**63, 2**64 - 1, 0xDEADBEEFCAFEF00D]
COUNTERS = [0, 1, 2, 1000, 2**31, 2**32 + 5, 2**62]


def splitmix64(key: int, counter: int) -> int:
    """Output number `counter` of java.util.SplittableRandom's generator with the golden gamma, in whole numbers."""
    mask = 2**64 - 1
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def kolmogorov_p_value(sample: torch.Tensor, cdf) -> float:
    """Asymptotic p-value of the Kolmogorov-Smirnov test of a large sample against a continuous law."""
    ordered, n = cdf(sample.flatten().double()).sort().values, sample.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max((steps[1:] - ordered).max().item(), (ordered - steps[:-1]).max().item())
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * n * distance**2) for k in range(1, 101))


def window(seeds=(5,), positions=range(8), step=0) -> Noise:
    at = torch.tensor(list(positions)).expand(len(seeds), -1)
    return Noise(torch.tensor(seeds), at, step)


def test_the_reference_gives_the_published_numbers():
    outputs = [splitmix64(1234567, counter) for counter in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", KEYS)
def test_mix_is_the_splitmix64_stream(key):
    expected = [signed(splitmix64(key, counter)) for counter in COUNTERS]
    assert mix(torch.tensor(signed(key)), torch.tensor(COUNTERS)).tolist() == expected
    assert [mix(torch.tensor(signed(key)), counter).item() for counter in COUNTERS] == expected


@pytest.mark.parametrize("bits", [0, 1, 4095, 4096, -1, -4096, 2**63 - 1, -(2**63), 2**52, -(2**52)])
def test_uniforms_and_exponentials_never_touch_their_bounds(bits):
    uniform = to_uniform(torch.tensor([bits]))
    exponential = to_exponential(torch.tensor([bits]))
    assert uniform.dtype == torch.float32 and 0 < uniform.item() < 1
    assert exponential.dtype == torch.float32 and 0 < exponential.item() < math.inf


def test_uniforms_resolve_the_smallest_and_largest_numbers():
    low, next_low, high = to_uniform(torch.tensor([0, 1 << 12, -1])).tolist()
    assert (low, next_low, high) == (2.0**-53, 3 * 2.0**-53, 1 - 2.0**-24)


def test_uniforms_are_float64_s_rounded_once():
    words = torch.arange(2**17) * signed(0x9E3779B97F4A7C15)
    words = torch.cat((words, words >> 20, words >> 40))  # many sizes, down to the smallest
    exact = (((words >> 12) & (2**52 - 1)).double() + 0.5) * 2.0**-52
    assert len(words) > 100_000 and torch.equal(to_uniform(words), exact.float().clamp_max(1 - 2.0**-24))


def test_first_drafts_are_the_whole_parts_of_float64_s_products():
    noise = Noise(torch.arange(500), torch.arange(100).expand(500, -1), 0)
    exact = ((noise._keys(INITIAL_DRAFT, INITIAL_DRAFT).squeeze(1) >> 12) & (2**52 - 1)).double() * 2.0**-52
    for size in (1, 7, 1024, 131_072):
        codes = noise.random_codes(size)
        assert torch.equal(codes, (exact * size).long()) and codes.min() >= 0 and codes.max() < size


def test_small_exponentials_keep_their_relative_precision():
    bits = torch.tensor([0, 1 << 12, 1 << 20, 1 << 40])
    expected = -torch.log1p(-to_uniform(bits).double())
    torch.testing.assert_close(to_exponential(bits).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [0, 17, 2**63 - 2, 2**64 - 2])
def test_row_b_has_the_seed_plus_b(seed):
    assert row_seeds(seed, 4, "cpu").tolist() == [signed((seed + b) % 2**64) for b in range(4)]
    for b in range(4):
        assert row_seeds((seed + b) % 2**64, 1, "cpu").item() == row_seeds(seed, 4, "cpu")[b]


def test_a_number_depends_on_its_row_and_position_not_on_the_window_or_batch():
    codes = torch.arange(11)
    whole = window(seeds=(3, 4, 5), positions=range(20), step=2)
    part = window(seeds=(4,), positions=range(6, 9), step=2)
    for purpose in PURPOSES:
        assert torch.equal(whole.uniform(purpose)[1:2, 6:9], part.uniform(purpose))
    assert torch.equal(whole.exponentials(codes)[1:2, 6:9], part.exponentials(codes))
    assert torch.equal(whole.random_codes(11)[1:2, 6:9], part.random_codes(11))


def test_keys_that_were_computed_before_give_the_same_numbers():
    every, some = window(seeds=(3, 4, 5), positions=range(20)), torch.tensor([[4, 5, 6], [0, 1, 2], [17, 18, 19]])
    anew, kept = Noise(every.seeds, some, 7), Noise(every.seeds, some, 7, every.position_keys())
    for purpose in PURPOSES:
        assert torch.equal(anew.uniform(purpose), kept.uniform(purpose))
    for noise in (anew, kept):
        both = (noise.uniform(ACCEPT), noise.bits(RESAMPLE))
        assert all(torch.equal(*pair) for pair in zip(noise.accept_and_resample(), both, strict=True))
    assert torch.equal(anew.exponentials(torch.arange(9)), kept.exponentials(torch.arange(9)))
    assert torch.equal(anew.random_codes(9), kept.random_codes(9))


def test_exponentials_depend_on_the_code_not_on_which_others_are_asked_for():
    noise, some = window(), torch.tensor([7, 2, 5])
    assert torch.equal(noise.exponentials(torch.arange(9))[..., some], noise.exponentials(some.expand(1, 8, 3)))


def test_accept_and_resample_numbers_are_fresh_each_iteration_and_gumbel_noise_and_first_drafts_are_not():
    now, later = window(step=3), window(step=4)
    for purpose in (ACCEPT, RESAMPLE):
        assert (now.uniform(purpose) != later.uniform(purpose)).all()
    assert torch.equal(now.exponentials(torch.arange(5)), later.exponentials(torch.arange(5)))
    assert torch.equal(now.random_codes(1000), later.random_codes(1000))


def test_noise_leaves_torch_s_random_state_alone():
    state = torch.random.get_rng_state()
    noise = window()
    noise.uniform(ACCEPT), noise.exponentials(torch.arange(5)), noise.random_codes(5)
    assert torch.equal(state, torch.random.get_rng_state())


# 64 rows x 64 positions x 64 steps or codes. Consecutive seeds, positions, steps and codes are the hard case for a hash.
ROWS, POSITIONS, DEPTH = 64, 64, 64


def numbers(kind: str) -> torch.Tensor:
    """[ROWS, POSITIONS, DEPTH] uniform numbers of a kind."""
    seeds, positions = torch.arange(ROWS), torch.arange(POSITIONS).expand(ROWS, -1)
    if kind == "gumbel":
        return 1 - torch.exp(-Noise(seeds, positions, 0).exponentials(torch.arange(DEPTH)).double())
    purpose = {"accept": ACCEPT, "resample": RESAMPLE}[kind]
    return torch.stack([Noise(seeds, positions, step).uniform(purpose) for step in range(DEPTH)], -1)


@pytest.mark.parametrize("kind", ["accept", "resample", "gumbel"])
def test_uniforms_are_uniform(kind):
    sample = numbers(kind)
    assert kolmogorov_p_value(sample, lambda u: u) > 1e-4
    assert kolmogorov_p_value(sample**1.03, lambda u: u) < 1e-4  # this test can fail


def test_exponentials_are_exponential():
    sample = Noise(torch.arange(ROWS), torch.arange(POSITIONS).expand(ROWS, -1), 0).exponentials(torch.arange(DEPTH))
    assert kolmogorov_p_value(sample, lambda e: -torch.expm1(-e)) > 1e-4
    assert kolmogorov_p_value(sample * 1.03, lambda e: -torch.expm1(-e)) < 1e-4


def test_first_drafts_are_uniform_over_an_odd_codebook():
    codes = Noise(torch.arange(3000), torch.arange(100).expand(3000, -1), 0).random_codes(7)
    counts = codes.flatten().bincount(minlength=7).double()
    expected = codes.numel() / 7
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == 7 and chi_square < 30  # p = 4e-5 with 6 degrees of freedom


@pytest.mark.parametrize("kind", ["accept", "resample", "gumbel"])
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["rows", "positions", "steps or codes"])
def test_neighbours_are_independent(kind, axis):
    """Serial pairs along each axis fill a 16 x 16 table evenly."""
    sample = numbers(kind).movedim(axis, 0)
    assert serial_chi_square(sample[::2], sample[1::2]) < 360  # p = 1e-5 with 255 degrees of freedom
    assert serial_chi_square(sample[::2], sample[::2]) > 360


@pytest.mark.parametrize("pair", [("accept", "resample"), ("accept", "gumbel"), ("resample", "gumbel")])
def test_purposes_are_independent(pair):
    assert serial_chi_square(*(numbers(kind) for kind in pair)) < 360


@pytest.mark.parametrize("purpose", [ACCEPT, RESAMPLE])
def test_first_drafts_are_independent_of_the_numbers_that_verify_them(purpose):
    noise = Noise(torch.arange(4096), torch.arange(64).expand(4096, -1), 0)
    drafts = (noise.random_codes(16) + 0.5) / 16
    assert serial_chi_square(drafts, noise.uniform(purpose)) < 360


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 3)])
def test_chains_are_independent(pair):
    chains = [Noise(torch.arange(4096), torch.arange(64).expand(4096, -1), 0, chain=number) for number in pair]
    one, other = ((noise.random_codes(16) + 0.5) / 16 for noise in chains)
    assert serial_chi_square(one, other) < 360
    assert serial_chi_square(*(noise.uniform(ACCEPT) for noise in chains)) < 360


def serial_chi_square(a: torch.Tensor, b: torch.Tensor) -> float:
    cells = (a.flatten() * 16).long() * 16 + (b.flatten() * 16).long()
    expected = cells.numel() / 256
    return float(((cells.bincount(minlength=256) - expected) ** 2 / expected).sum())
