"""A fed batch: the tokens of every prompt are those of its single run, in fewer row-forwards than fixed batches take."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import cache

import pytest
import torch

from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode
from mcsjd_core.decoding.feed import decode_feed
from mcsjd_core.decoding.interface import Prompt
from tiny import transformer

MODEL, GRID = transformer(16), Grid(4, 4)
LAW = LawSettings(cfg_scale=2.0, top_k=8)
COUNT = 9


def prompts(model=MODEL) -> Prompt:
    """Pictures with prompts of different length, guided."""
    rows = [row for number in range(COUNT) for row in ([0, *[3 + number % 5] * (1 + number % 4), 1], [0, 1])]
    return Prompt.of_ids(rows, model.embed_ids, True, "cpu")


@cache
def single(number: int, settings: DecodeSettings) -> torch.Tensor:
    own = prompts().of_pictures(number, number + 1)
    return decode(MODEL, own, GRID, replace(settings, seed=(settings.seed + number) % 2**64)).tokens[0]


@pytest.mark.parametrize("rows", [1, 4, 20])
@pytest.mark.parametrize(
    "how",
    [{"coupling": "maximal"}, {"coupling": "independent", "initialiser": "left_law"},
     {"coupling": "maximal", "initialiser": "recall"}, {"coupling": "gumbel", "initialiser": "recall", "trajectories": 2},
     {"coupling": "gumbel_exact"},
     {"coupling": "gumbel", "trajectories": 2}, {"coupling": "autoregressive"}],
    ids=str,
)  # fmt: skip
def test_tokens_of_every_prompt_are_those_of_its_single_run(how, rows):
    settings, prompt = DecodeSettings(window=6, law=LAW, seed=3, **how), prompts()
    fed = decode_feed(MODEL, prompt, GRID, settings, rows)
    for number in range(COUNT):
        assert torch.equal(fed.tokens[number], single(number, settings))
        assert fed.traces[number].num_tokens == GRID.num_tokens


def test_a_fed_batch_stays_full():
    settings, prompt, seen = DecodeSettings("maximal", 6, LAW, seed=3), prompts(), []
    fed = decode_feed(MODEL, prompt, GRID, settings, 3, on_row=seen.append)
    forwards, lanes = [trace.nfe for trace in fed.traces], [0, 0, 0]
    for count in forwards:  # every picture begins where a lane is free first
        lanes[lanes.index(min(lanes))] += count
    batches = [max(forwards[start : start + 3]) for start in (0, 3, 6)]
    assert fed.nfe == max(lanes) < sum(batches)
    assert sorted(done.row for done in seen) == list(range(COUNT))
    for done in seen:
        assert torch.equal(done.tokens, fed.tokens[done.row]) and done.nfe == fed.traces[done.row].nfe
        assert 0 < done.seconds <= fed.seconds


def test_every_picture_may_have_a_seed_of_its_own():
    prompt, seeds = prompts(), [2**64 - 1, 0, 7, 7, 5, 4, 3, 2, 1]
    settings = DecodeSettings("maximal", 6, LAW, seed=99)
    fed = decode_feed(MODEL, prompt, GRID, settings, 3, seeds=seeds)
    for number, seed in enumerate(seeds):
        assert torch.equal(fed.tokens[number], single(number, replace(settings, seed=(seed - number) % 2**64)))
    with pytest.raises(InputError, match="2 seeds for 9 pictures"):
        decode_feed(MODEL, prompt, GRID, settings, 3, seeds=[1, 2])


def test_cancelling_frees_the_cache():
    refs, new_cache = [], MODEL.new_cache

    def watched(prompt, capacity):
        cache = new_cache(prompt, capacity)
        refs.append(weakref.ref(cache))
        return cache

    def stop(done):
        raise KeyboardInterrupt

    MODEL.new_cache = watched
    try:
        with pytest.raises(KeyboardInterrupt):
            decode_feed(MODEL, prompts(), GRID, DecodeSettings("maximal", 6, LAW), 2, on_row=stop)
    finally:
        del MODEL.new_cache
    gc.collect()
    assert refs and all(ref() is None for ref in refs)


def test_what_a_feed_cannot_do_is_told():
    with pytest.raises(InputError, match="at least one row"):
        decode_feed(MODEL, prompts(), GRID, DecodeSettings(law=LAW), 0)
    with pytest.raises(InputError, match="records no details"):
        decode_feed(MODEL, prompts(), GRID, DecodeSettings(law=LAW, trace_detail=True), 2)
