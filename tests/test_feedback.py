"""Tokens that were drawn from a seed's noise come back as input under the same seed: the law stays exact.

Every test draws pairs, a first result and what is drawn from it with the same seeds, and holds them against the exact joint
law, in which the second result is drawn from the model's law given what it begins with, whatever the first one was.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import METHODS, DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.decoding import state as state_module
from mcsjd_core.decoding.grid import FREE
from mcsjd_core.families.interface import PICTURE, Clip, PictureFamily, SamplingDefaults
from mcsjd_core.laws.noise import row_seeds, seeds_given
from mcsjd_core.pipeline.sampling import encode, pictures
from mcsjd_core.pipeline.sampling import sample as draw_clips
from mcsjd_core.pipeline.video import clips, start_codes
from sequence_law import CODES, p_value, sample, table_law
from tiny import TableModel

LEVEL = 1e-3 / 60  # Bonferroni over the tests of this file
ROWS, TOKENS, GIVEN = 20_000, 4, 2
GRID, LAW = Grid(1, TOKENS), LawSettings(temperature=1.2)
MODEL = TableModel(CODES, TOKENS, seed=21)

ROUTES = {
    "its end": lambda tokens: tokens[:, -GIVEN:],
    "another position": lambda tokens: tokens[:, 1 : 1 + GIVEN],
    "its own start": lambda tokens: tokens[:, :GIVEN],
    "a codec that looks around": lambda tokens: (tokens[:, :GIVEN] + tokens[:, -GIVEN:]) % CODES,
}


def settings(method: str, **more) -> DecodeSettings:
    return DecodeSettings(method, 3, LAW, seed=5, **more)


def pairs(method: str, route, first_tokens=None, part: int = 0) -> torch.Tensor:
    """[ROWS, 2 TOKENS]: results, and what the same seeds draw after route(result)."""
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
            after = table_law(MODEL, LAW, given=begins)
            law_of |= {(*first, *second): probability * share for second, share in after.items()}
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
    for method in ("autoregressive", "maximal"):
        assert p_value(pairs(method, ROUTES["its end"]), pair_law(ROUTES["its end"])) <= LEVEL


# -- the ways of the graphs, pixels included -----------------------------------------------------------------------------


class Toy(PictureFamily):
    """A family around the table: 2 x 2 codes a picture, or clips of two frames of 1 x 2 codes of which one is given.

    Its codec loses something: what it reads at a position depends on the other positions of the picture.
    """

    name, defaults = "toy", SamplingDefaults()

    def __init__(self, clip=PICTURE):
        self.token_model, self.codec, self.clip = MODEL, self, clip
        self.sizes = ("2x2",) if clip.is_picture else ("2x1",)
        self.input_device = torch.device("cpu")

    def grid(self, size=None, frames=None):
        return Grid(2, 2) if self.clip.is_picture else Grid(1, 2, frames=2)

    def picture_prompt(self, texts, negatives, guided, size):
        return MODEL.prompt(len(texts), guided)

    def encode(self, pixels):
        codes = (pixels[:, 0] * (CODES - 1)).round().long()
        return (codes + codes.flatten(1).sum(1)[(...,) + (None,) * (codes.ndim - 1)]) % CODES

    def decode_clips(self, codes):
        return (codes / (CODES - 1))[:, :, None].expand(-1, -1, 3, -1, -1)


def drawn(model: Toy, method: str, **more) -> torch.Tensor:
    return draw_clips(model, ["x"] * ROWS, settings(method), **more).tokens


def encoded_and_cropped(model: Toy, tokens: torch.Tensor) -> torch.Tensor:
    """Decode, Encode, Crop Tokens: codes [ROWS, 1, 2] of the upper row."""
    again = encode(model, pictures(model, tokens, batch=ROWS), batch=ROWS)
    return model.grid().codes(again)[:, :1]


def cropped(model: Toy, tokens: torch.Tensor) -> torch.Tensor:
    """Crop Tokens alone."""
    return model.grid().codes(tokens)[:, :1]


def lower_part(model: Toy, tokens: torch.Tensor) -> torch.Tensor:
    """A picture that was cut, and read as the upper part of the next."""
    return model.grid().codes(tokens)[:, 1:]


@pytest.mark.parametrize("route", [encoded_and_cropped, cropped, lower_part])
@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_pictures_follow_the_law(method, route):
    model = Toy()
    first = drawn(model, method)
    second = drawn(model, method, first_codes=route(model, first))
    law = pair_law(lambda tokens: route(model, tokens).flatten(1))
    assert p_value(torch.cat((first, second), 1), law) > LEVEL


@pytest.mark.parametrize("method", METHODS)
def test_a_video_of_a_video_s_last_frame_follows_the_law(method):
    clip = Clip(frames=2, frame_rate=1.0, frames_per_code=1, start_frames=(1,))
    model, start = Toy(clip), torch.tensor([[[[1, 2]]]])

    def route(tokens):
        kinds, which = tokens.unique(dim=0, return_inverse=True)  # few clips: the codec reads one at a time
        frames = clips(model, kinds, batch=1)
        return torch.cat([start_codes(model, frame[0]) for frame in frames]).flatten(1)[which]

    first = drawn(model, method, first_codes=start)
    second = drawn(model, method, first_codes=route(first).view(ROWS, 1, 1, 2))
    back = (second[:, :GIVEN] == first[:, :GIVEN]).all(1)
    assert 0 < back.sum() < ROWS
    found = torch.cat((first, second), 1)[~back]
    assert p_value(found, pair_law(route, (1, 2), skip=(1, 2))) > LEVEL


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_warm_run_of_an_earlier_result_with_its_seed_draws_what_a_cold_one_draws(rounds):
    """For gumbel_exact; every other method refuses, whatever the earlier result was drawn by."""
    model, warm = Toy(), replace(settings("gumbel_exact"), initialiser="warm", law=LawSettings(temperature=0.9))
    for source in ("maximal", "gumbel_exact"):
        tokens = drawn(model, source)
        for _ in range(rounds):
            tokens = draw_clips(model, ["x"] * ROWS, warm, earlier_tokens=tokens).tokens
        assert p_value(tokens, table_law(MODEL, warm.law)) > LEVEL
        assert torch.equal(tokens, draw_clips(model, ["x"] * ROWS, replace(warm, initialiser="random")).tokens)
    for method in METHODS[:-1]:
        with pytest.raises(InputError, match="only with seed-exact"):
            replace(settings(method), initialiser="warm")


@pytest.mark.parametrize("method", ["independent", "maximal", "gumbel"])
def test_the_g_test_rejects_warm_drafts_where_a_draft_is_judged_by_the_noise_that_drew_it(method, monkeypatch):
    monkeypatch.setattr(DecodeSettings, "_check_warm", lambda self: None)
    warm = replace(settings(method), initialiser="warm")
    tokens = draw_clips(Toy(), ["x"] * ROWS, warm, earlier_tokens=drawn(Toy(), method)).tokens
    assert p_value(tokens, table_law(MODEL, warm.law)) <= LEVEL


# -- the seeds of rows in which something is given -----------------------------------------------------------------------

SEEDS = row_seeds(7, 2, "cpu")


def test_where_nothing_is_given_a_row_has_its_own_seed():
    for tokens in (torch.zeros(2, 0, dtype=torch.long), torch.full((2, 5), FREE)):
        assert torch.equal(seeds_given(SEEDS, tokens), SEEDS)


def test_seeds_differ_with_every_token_position_row_and_part():
    base = torch.tensor([3, FREE, 0, 5, FREE])
    others = [base.roll(1), base[:4] + torch.tensor([0, 0, 1, 0]), base[:3], torch.tensor([3, 3, 0, 5, FREE]), base * 0]
    seeds = [*SEEDS.tolist()]
    for part in (0, 1, 2):
        for tokens in (base, *others):
            seeds += seeds_given(SEEDS, tokens.expand(2, -1), part).tolist()
        if part:
            seeds += seeds_given(SEEDS, base[:0].expand(2, -1), part).tolist()
    assert len(set(seeds)) == len(seeds) == 2 + 3 * 6 * 2 + 2 * 2


def test_positions_that_are_drawn_do_not_count_wherever_the_row_ends():
    tokens = torch.tensor([[1, 4], [2, 2]])
    longer = torch.nn.functional.pad(tokens, (0, 3), value=FREE)
    assert torch.equal(seeds_given(SEEDS, tokens), seeds_given(SEEDS, longer))
    assert seeds_given(SEEDS[1:], tokens[1:]) == seeds_given(SEEDS, tokens)[1]


def test_all_bits_of_such_seeds_are_random():
    seeds = seeds_given(torch.arange(4096), torch.arange(4096)[:, None] % 7)
    bits = (seeds[:, None] >> torch.arange(64)) & 1
    assert len(seeds.unique()) == 4096 and ((bits.double().mean(0) - 0.5).abs() < 5 / 128).all()
