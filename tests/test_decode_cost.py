"""What a decode costs: forwards, rows, positions, memory; what a host sees of it, and how it is cancelled."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from mcsjd_core import COUPLINGS, METHODS, DecodeSettings, Grid, LawSettings, decode
from mcsjd_core.decoding import loop
from small_picture import CODES, GRID, GUIDED, MODEL, picture
from tiny import FORCED_IDS, TableModel, prompt

# -- what it costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize(
    "law", [LawSettings(), GUIDED, LawSettings(temperature=0.0)], ids=["plain", "guided", "greedy"]
)
def test_a_window_of_one_costs_one_forward_a_token(coupling, law):
    result = picture(2, coupling=coupling, window=1, law=law)
    assert result.nfe == GRID.num_tokens == result.traces[0].nfe
    assert result.traces[1].committed == [1] * GRID.num_tokens


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("law", [LawSettings(), LawSettings(top_k=4), LawSettings(temperature=0.0)], ids=str)
def test_forced_tokens_are_accepted_wherever_they_stand(coupling, law):
    """Forced positions cost a window no forward: all but the first code of a row of one are forced."""
    grid = Grid(1, 1, row_end=CODES, end=tuple(CODES + i % FORCED_IDS for i in range(11)))
    result = picture(3, grid=grid, coupling=coupling, window=13, law=law)
    assert torch.equal(result.tokens[:, 1:], grid.forced()[None, 1:].expand(3, -1))
    assert (result.tokens[:, 0] < CODES).all()
    assert result.nfe <= 2
    for window in (2, 4):
        drafted = window - 1  # an accepted window commits its drafts and one more token
        assert picture(3, grid=grid, coupling=coupling, window=window, law=law).nfe <= 1 + -(-12 // (drafted + 1))


@pytest.mark.parametrize("coupling", METHODS)
def test_row_ends_stand_where_the_grid_puts_them(coupling):
    grid = Grid(3, 3, row_end=CODES + 1, end=(CODES + 2,))
    tokens = picture(2, grid=grid, coupling=coupling, window=6, trace_detail=coupling == "maximal").tokens
    assert (tokens[:, [3, 7, 11]] == CODES + 1).all() and (tokens[:, 12] == CODES + 2).all()
    assert (grid.codes(tokens) < CODES).all()


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("law", [LawSettings(), LawSettings(top_k=4), LawSettings(temperature=0.0)], ids=str)
def test_a_coupling_sees_certainty_where_a_token_is_forced(coupling, law, monkeypatch):
    """Else a forced position would count as a lost draft, and what stands after it would be drawn afresh."""
    seen, couple = [], COUPLINGS[coupling].couple

    class Watched(type(COUPLINGS[coupling])):
        def couple(self, p, q, drafts, noise):
            tokens = couple(p, q, drafts, noise)
            seen.append((p.prob_of(drafts), tokens == drafts, noise.positions))
            return tokens

    monkeypatch.setitem(COUPLINGS, coupling, Watched())
    grid = Grid(4, 2, row_end=CODES)
    picture(2, grid=grid, coupling=coupling, window=5, law=law)
    forced = grid.forced() == CODES
    for probability, kept, positions in seen:
        checked = forced[positions.clamp_max(grid.num_tokens - 1)] & (positions < grid.num_tokens)
        assert (probability[checked] == 1).all() and kept[checked].all()


def test_windows_commit_more_than_one_token_a_forward():
    """The couplings' order on a model whose laws are sharp; the law tests say nothing about speed."""
    compression = {name: mean_compression(name) for name in METHODS}
    assert compression["autoregressive"] == 1 < compression["independent"] < compression["maximal"]
    assert (
        compression["independent"] < compression["gumbel"] and compression["independent"] < compression["gumbel_exact"]
    )


def mean_compression(coupling: str) -> float:
    traces = picture(60, coupling=coupling, window=16, law=LawSettings(temperature=0.7)).traces
    return sum(trace.num_tokens for trace in traces) / sum(trace.nfe for trace in traces)


class Spy(TableModel):
    """Counts the rows of every forward."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.rows: list[int] = []

    def hidden(self, embeddings, slots, cache, extent):
        assert slots.max() < extent and len(embeddings) == len(slots) == len(cache.digits)
        self.rows.append(len(embeddings))
        return super().hidden(embeddings, slots, cache, extent)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("coupling", METHODS)
def test_a_finished_row_costs_nothing_more(coupling, guided):
    model = Spy(3, 6)
    law = LawSettings(cfg_scale=2.0 if guided else 1.0)
    result = decode(model, model.prompt(50, guided), Grid(1, 6), DecodeSettings(coupling, 4, law))
    at_work = [sum(trace.nfe > i for trace in result.traces) for i in range(result.nfe)]
    assert model.rows == [count * (1 + guided) for count in at_work]
    assert coupling == "autoregressive" or at_work[-1] < 50  # rows did end at different forwards


def test_the_prompt_and_first_tokens_are_read_once():
    model = Spy(3, 6)
    lengths = []
    model.hidden = lambda embeddings, *rest: lengths.append(embeddings.shape[1]) or Spy.hidden(model, embeddings, *rest)
    first = torch.tensor([[1, 2]])
    decode(model, model.prompt(2, False), Grid(1, 6), DecodeSettings("maximal", 3), first_tokens=first)
    assert lengths[0] == 2 and all(length <= 3 for length in lengths[1:])  # prompt and all but the last given token


def test_what_is_given_is_read_in_parts(monkeypatch):
    first = picture(2, coupling="autoregressive").tokens[:, :20]
    whole = picture(2, coupling="gumbel_exact", window=5, first_tokens=first).tokens
    lengths, hidden = [], MODEL.hidden
    monkeypatch.setattr(loop, "PREFILL", 7)
    monkeypatch.setattr(MODEL, "hidden", lambda x, *rest: lengths.append(x.shape[1]) or hidden(x, *rest))
    assert torch.equal(picture(2, coupling="gumbel_exact", window=5, first_tokens=first).tokens, whole)
    assert lengths[:5] == [7, 7, 7, 2, 5]  # 4 of the prompt and 20 tokens, but for the last one


# -- the host's opening: progress and cancelling ---------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", METHODS)
def test_on_step_shows_counts_and_tokens_that_are_final(coupling):
    steps = []
    result = picture(
        3, coupling=coupling, window=8, on_step=lambda step: steps.append(replace(step, tokens=step.tokens.clone()))
    )
    assert [step.iteration for step in steps] == list(range(1, result.nfe + 1))
    assert steps[-1].done == [GRID.num_tokens] * 3
    for step in steps:
        assert step.tokens.shape == (3, GRID.num_tokens)
        for b in range(3):
            assert torch.equal(step.tokens[b, : step.done[b]], result.tokens[b, : step.done[b]])
            assert step.done[b] <= step.drafted[b] <= min(step.done[b] + 8, GRID.num_tokens)


class Cancelled(Exception):
    pass


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_cancelling_leaves_nothing_allocated_and_the_next_run_is_the_same(monkeypatch):
    caches, new_cache = [], MODEL.new_cache

    def watched(prompt, capacity):
        caches.append(weakref.ref(cache := new_cache(prompt, capacity)))
        return cache

    def cancel(step):
        if step.iteration == 3:
            raise Cancelled

    settings = {"coupling": "maximal", "window": 8, "law": GUIDED}
    before_tokens = picture(2, **settings).tokens
    monkeypatch.setattr(MODEL, "new_cache", watched)
    before = tensors_alive()
    with pytest.raises(Cancelled):
        picture(2, on_step=cancel, **settings)
    assert tensors_alive() == before and len(caches) == 1 and caches[0]() is None
    assert torch.equal(picture(2, **settings).tokens, before_tokens)


def test_a_host_is_asked_between_the_forwards_that_read_what_is_given(monkeypatch):
    """Many given tokens are read in parts, each as long as a forward: Stop must not wait for all of them."""
    monkeypatch.setattr(loop, "PREFILL", 8)
    forwards, steps, hidden = [], [], MODEL.hidden
    monkeypatch.setattr(MODEL, "hidden", lambda *args: forwards.append(1) or hidden(*args))

    def watch(step):
        steps.append((len(forwards), step.iteration, step.done))

    def cancel(step):
        raise Cancelled

    first = torch.zeros(2, 30, dtype=torch.long)
    told = picture(2, first_tokens=first, on_step=watch, window=8, law=GUIDED)
    reading = [step for step in steps if step[1] == 0]
    parts = len(forwards) - told.nfe
    assert parts == 5 and reading == [(count, 0, [30, 30]) for count in range(1, parts)]
    assert torch.equal(told.tokens, picture(2, first_tokens=first, window=8, law=GUIDED).tokens)
    del forwards[:]
    with pytest.raises(Cancelled):
        picture(2, first_tokens=first, on_step=cancel, law=GUIDED)
    assert len(forwards) == 1


@pytest.mark.parametrize("coupling", ["maximal", "gumbel_exact"])
def test_memory_does_not_grow_with_the_iterations(coupling):
    counts = {}

    def count(step):
        if step.iteration in (2, 5, 8):
            counts[step.iteration] = tensors_alive()

    picture(1, coupling=coupling, window=3, on_step=count)
    assert counts[2] == counts[5] == counts[8]


def test_a_result_keeps_nothing_but_itself():
    caches, new_cache = [], MODEL.new_cache
    try:
        MODEL.new_cache = lambda *args: caches.append(weakref.ref(cache := new_cache(*args))) or cache
        result = picture(1, window=8)
    finally:
        del MODEL.new_cache
    gc.collect()
    assert caches[0]() is None and result.tokens.untyped_storage().nbytes() == GRID.num_tokens * 8


def test_a_window_larger_than_the_picture_costs_no_more_than_the_picture():
    capacities, new_cache = [], MODEL.new_cache
    try:
        MODEL.new_cache = lambda prompt, capacity: capacities.append(capacity) or new_cache(prompt, capacity)
        picture(1, window=100_000)
    finally:
        del MODEL.new_cache
    assert capacities[0] <= prompt(MODEL).embeddings.shape[1] + 2 * GRID.num_tokens
