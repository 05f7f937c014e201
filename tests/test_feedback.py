"""Tokens that were drawn from a seed's noise come back as input under the same seed: the law stays exact.

Every test draws pairs, a first result and what is drawn from it with the same seeds, and holds them against the exact joint
law, in which the second result is drawn from the model's law given what it begins with, whatever the first one was.
"""

from __future__ import annotations

import pytest
import torch

from mcsjd_core import METHODS, DecodeSettings, Grid, LawSettings
from mcsjd_core.decoding import state as state_module
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.laws.noise import row_seeds, seeds_given
from test_sequence_law import CODES, no_garbage_collection, p_value, sample, table_law
from tiny import TableModel

__all__ = ["no_garbage_collection"]

LEVEL = 1e-3 / 40  # Bonferroni over the tests of this file
ROWS, TOKENS, GIVEN = 40_000, 4, 2
GRID, LAW = Grid(1, TOKENS), LawSettings(temperature=1.2)
MODEL = TableModel(CODES, TOKENS, seed=21)

ROUTES = {
    "its end": lambda tokens: tokens[:, -GIVEN:],
    "another place": lambda tokens: tokens[:, 1 : 1 + GIVEN],
    "its own start": lambda tokens: tokens[:, :GIVEN],
    "a codec that looks around": lambda tokens: (tokens[:, :GIVEN] + tokens[:, -GIVEN:]) % CODES,
}


def settings(method: str, **more) -> DecodeSettings:
    return DecodeSettings(method, 3, LAW, seed=5, **more)


def pairs(method: str, route, first_tokens=None, part: int = 0) -> torch.Tensor:
    """[ROWS, 2 TOKENS]: results, and what the same seeds draw behind route(result)."""
    first = sample(MODEL, settings(method), GRID, ROWS, first_tokens=first_tokens)
    second = sample(
        MODEL, settings(method, part=part) if part else settings(method), GRID, ROWS, first_tokens=route(first)
    )
    return torch.cat((first, second), 1)


def pair_law(route, given=(), skip=None) -> dict:
    """The exact law of such pairs, without those whose second result begins with `skip`."""
    law_of = {}
    for first, probability in table_law(MODEL, LAW, given=given).items():
        begins = tuple(route(torch.tensor([first]))[0].tolist())
        if begins != skip:
            behind = table_law(MODEL, LAW, given=begins)
            law_of |= {(*first, *second): probability * share for second, share in behind.items()}
    total = sum(law_of.values())
    return {pair: probability / total for pair, probability in law_of.items()}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", METHODS)
def test_what_continues_a_result_with_its_own_seed_follows_the_law(method, route):
    assert p_value(pairs(method, ROUTES[route]), pair_law(ROUTES[route])) > LEVEL


@pytest.mark.parametrize("method", ["autoregressive", "maximal"])
def test_a_result_that_goes_on_from_its_own_end_part_by_part_follows_the_law_even_where_it_comes_back(method):
    start, route = (0, 1), ROUTES["its end"]
    found = pairs(method, route, torch.tensor([start]), part=1)
    assert (found[:, -GIVEN:] == torch.tensor(start)).all(1).sum() > ROWS // 30  # it does come back
    assert p_value(found, pair_law(route, start)) > LEVEL


@pytest.mark.parametrize("method", ["autoregressive", "maximal"])
def test_without_parts_a_result_repeats_where_it_comes_back_to_what_was_given_and_is_exact_elsewhere(method):
    """The same seed and the same beginning are the same result: the one exception that this promise makes."""
    start, route = (0, 1), ROUTES["its end"]
    found = pairs(method, route, torch.tensor([start]))
    back = (found[:, TOKENS : TOKENS + GIVEN] == torch.tensor(start)).all(1)
    assert back.any() and torch.equal(found[back, TOKENS:], found[back, :TOKENS])
    assert p_value(found[~back], pair_law(route, start, skip=start)) > LEVEL


def test_the_g_test_rejects_noise_that_does_not_know_what_was_given(monkeypatch):
    monkeypatch.setattr(state_module, "seeds_given", lambda seeds, tokens, part: seeds)
    for method in METHODS:
        assert p_value(pairs(method, ROUTES["its end"]), pair_law(ROUTES["its end"])) <= LEVEL


# -- the seeds of rows in which something is given -----------------------------------------------------------------------

SEEDS = row_seeds(7, 2, "cpu")


def test_where_nothing_is_given_a_row_has_its_own_seed():
    for tokens in (torch.zeros(2, 0, dtype=torch.long), torch.full((2, 5), FREE)):
        assert torch.equal(seeds_given(SEEDS, tokens), SEEDS)


def test_seeds_differ_with_every_token_place_row_and_part():
    base = torch.tensor([3, FREE, 0, 5, FREE])
    others = [base.roll(1), base[:4] + torch.tensor([0, 0, 1, 0]), base[:3], torch.tensor([3, 3, 0, 5, FREE]), base * 0]
    seeds = [*SEEDS.tolist()]
    for part in (0, 1, 2):
        for tokens in (base, *others):
            seeds += seeds_given(SEEDS, tokens.expand(2, -1), part).tolist()
        if part:
            seeds += seeds_given(SEEDS, base[:0].expand(2, -1), part).tolist()
    assert len(set(seeds)) == len(seeds) == 2 + 3 * 6 * 2 + 2 * 2


def test_places_that_are_drawn_do_not_count_wherever_the_row_ends():
    tokens = torch.tensor([[1, 4], [2, 2]])
    longer = torch.nn.functional.pad(tokens, (0, 3), value=FREE)
    assert torch.equal(seeds_given(SEEDS, tokens), seeds_given(SEEDS, longer))
    assert seeds_given(SEEDS[1:], tokens[1:]) == seeds_given(SEEDS, tokens)[1]


def test_all_bits_of_such_seeds_are_random():
    seeds = seeds_given(torch.arange(4096), torch.arange(4096)[:, None] % 7)
    bits = (seeds[:, None] >> torch.arange(64)) & 1
    assert len(seeds.unique()) == 4096 and ((bits.double().mean(0) - 0.5).abs() < 5 / 128).all()
