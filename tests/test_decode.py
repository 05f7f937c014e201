"""The loop: the same tokens as plain AR with `gumbel_exact`, what a decode costs, its trace, cancelling, bad input."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from mcsjd_core import (
    COUPLINGS,
    INITIALISERS,
    METHODS,
    DecodeSettings,
    DecodingError,
    Grid,
    InputError,
    LawSettings,
    decode,
)
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.drafts import RECALL
from mcsjd_core.decoding.interface import Prompt
from tiny import FORCED_IDS, TableModel, prompt, run, transformer

CODES, GRID = 16, Grid(6, 6)
MODEL = transformer(CODES)
GUIDED = LawSettings(cfg_scale=2.0, top_k=8, top_p=0.95)
EARLIER = torch.arange(GRID.num_tokens)[None] % CODES


def picture(batch=1, grid=GRID, model=MODEL, **settings):
    if settings.get("initialiser") == "warm":
        settings.setdefault("earlier_tokens", EARLIER[:, : grid.num_tokens])
    return run(model, grid, batch, settings.get("law", LawSettings()).guided, **settings)


# -- equality with plain AR ----------------------------------------------------------------------------------------------

SEEDS = 100  # rows of one batch: row b has seed b
WINDOWS = (1, 2, 7, 16, 200)


@pytest.fixture(scope="module")
def plain():
    """Tokens of plain AR for each law, once; `exactly` picks the model in which a rounding tie is settled."""
    known = {}

    def tokens(law: LawSettings, model=MODEL) -> torch.Tensor:
        if (law, model) not in known:
            known[law, model] = picture(SEEDS, model=model, coupling="autoregressive", law=law).tokens
        return known[law, model]

    return tokens


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("initialiser", [*INITIALISERS, RECALL])
@pytest.mark.parametrize("window", WINDOWS)
def test_gumbel_exact_equals_autoregressive_token_for_token(window, initialiser, law, plain):
    settings = {"coupling": "gumbel_exact", "window": window, "initialiser": initialiser, "law": law}
    differing = (picture(SEEDS, **settings).tokens != plain(law)).any(1)
    if differing.any():  # float32 forwards of different shapes round differently; in float64 there is no such tie
        assert differing.sum() <= 1
        wide = transformer(CODES, dtype=torch.float64)
        assert torch.equal(picture(SEEDS, model=wide, **settings).tokens, plain(law, wide))


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
def test_gumbel_exact_equals_autoregressive_for_every_batch_size(batch, law, plain):
    for seed in range(0, SEEDS - batch, 29):
        tokens = picture(batch, coupling="gumbel_exact", window=16, law=law, seed=seed).tokens
        assert torch.equal(tokens, plain(law)[seed : seed + batch])


def test_different_seeds_give_different_pictures(plain):
    assert len(plain(LawSettings()).unique(dim=0)) == SEEDS


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("coupling", METHODS)
def test_row_b_of_a_batch_equals_a_single_run_with_the_seed_plus_b(coupling, law):
    batch = picture(5, coupling=coupling, window=9, seed=40, law=law)
    for b in range(5):
        single = picture(1, coupling=coupling, window=9, seed=40 + b, law=law)
        assert torch.equal(batch.tokens[b], single.tokens[0])
        assert batch.traces[b].committed == single.traces[0].committed


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_row_that_recalls_is_its_single_run_in_a_batch_too(coupling):
    """A row that is ahead of the others has a window beyond its last token, whose laws no single run has."""
    model, grid, rows = TableModel(3, 8, sharpness=1.0, seed=3), Grid(2, 4), 40
    settings = DecodeSettings(coupling, 5, initialiser=RECALL)
    batch = decode(model, model.prompt(rows, False), grid, settings).tokens
    singles = [decode(model, model.prompt(1, False), grid, replace(settings, seed=seed)) for seed in range(rows)]
    assert torch.equal(batch, torch.cat([single.tokens for single in singles]))


@pytest.mark.parametrize("coupling", METHODS)
def test_batches_of_the_next_seed_share_no_picture_where_rows_have_seeds_of_their_own(coupling):
    counted, own = (
        [picture(4, coupling=coupling, window=9, seed=seed, row_seeds=rows).tokens for seed in (5, 6)]
        for rows in ("counted", "own")
    )
    assert torch.equal(counted[0][1:], counted[1][:-1]) and len(torch.cat(own).unique(dim=0)) == 8
    assert torch.equal(own[0][0], counted[0][0]) and torch.equal(own[1][0], counted[1][0])


@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize("initialiser", ["random", "above"])
def test_greedy_equals_greedy_autoregressive(coupling, initialiser):
    law = LawSettings(temperature=0.0, cfg_scale=1.5)
    greedy = picture(2, coupling="autoregressive", law=law).tokens
    for window in (1, 5, 40):
        assert torch.equal(
            picture(2, coupling=coupling, window=window, initialiser=initialiser, law=law).tokens, greedy
        )


def test_greedy_takes_the_largest_logit_of_an_uncached_forward():
    tokens = picture(1, coupling="maximal", window=8, law=LawSettings(temperature=0.0)).tokens
    embeddings = torch.cat((prompt(MODEL).embeddings, MODEL.embed(tokens, tokens)), 1)
    hidden = MODEL.model(embeddings, torch.arange(embeddings.shape[1])[None])
    assert torch.equal(MODEL.logits(hidden, None)[:, 3:-1].argmax(-1), tokens)


def test_a_warm_start_from_the_result_itself_is_confirmed_in_one_window():
    first = picture(1, coupling="gumbel_exact", window=36)
    again = picture(1, coupling="gumbel_exact", window=36, initialiser="warm", earlier_tokens=first.tokens)
    assert torch.equal(first.tokens, again.tokens) and again.nfe == 1 < first.nfe


@pytest.mark.parametrize("coupling", METHODS)
def test_runs_repeat_and_leave_torch_s_random_state_alone(coupling):
    state = torch.random.get_rng_state()
    first = picture(2, coupling=coupling, window=8, seed=3)
    torch.rand(1)
    torch.random.set_rng_state(state)
    assert torch.equal(first.tokens, picture(2, coupling=coupling, window=8, seed=3).tokens)
    assert torch.equal(state, torch.random.get_rng_state())


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


# -- continued pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [1, 6, 17, 35])
@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
def test_a_continued_picture_is_the_one_that_plain_ar_draws_of_the_same_beginning(given, law, plain):
    first = plain(law)[:4, :given]
    expected = picture(4, coupling="autoregressive", law=law, first_tokens=first).tokens
    for window in (1, 8, 64):
        result = picture(4, coupling="gumbel_exact", window=window, law=law, first_tokens=first)
        assert torch.equal(result.tokens, expected)
        assert all(trace.num_tokens == 36 - given for trace in result.traces)


@pytest.mark.parametrize("coupling", METHODS)
def test_a_row_that_continues_equals_a_single_run_with_its_beginning_and_the_seed_plus_b(coupling):
    first = torch.arange(12).view(3, 4) % CODES
    batch = picture(3, coupling=coupling, window=5, seed=9, first_tokens=first)
    for b in range(3):
        single = picture(1, coupling=coupling, window=5, seed=9 + b, first_tokens=first[b : b + 1])
        assert torch.equal(batch.tokens[b], single.tokens[0])


@pytest.mark.parametrize("coupling", METHODS)
def test_given_tokens_stay_as_they_are(coupling):
    first = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    result = picture(3, coupling=coupling, window=5, first_tokens=first)
    assert torch.equal(result.tokens[:, :7], first.expand(3, -1))


# -- the trace -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize("given", [0, 7])
def test_trace_counts_add_up(coupling, given):
    first = torch.zeros(3, given, dtype=torch.long) if given else None
    result = picture(3, coupling=coupling, window=9, first_tokens=first)
    for trace in result.traces:
        assert sum(trace.committed) == trace.num_tokens == GRID.num_tokens - given
        assert trace.starts == [given + sum(trace.committed[:i]) for i in range(trace.nfe)]
        assert trace.seconds == sorted(trace.seconds) and min(trace.committed) >= 1 and max(trace.committed) <= 9
        assert trace.step_compression == trace.num_tokens / trace.nfe
    assert result.nfe == max(trace.nfe for trace in result.traces)
    assert result.seconds >= result.prefill_seconds > 0


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_details_are_what_the_coupling_saw(coupling, law, monkeypatch):
    seen, couple = [], COUPLINGS[coupling].couple

    class Watched(type(COUPLINGS[coupling])):
        def couple(self, p, q, drafts, noise):
            tokens = couple(p, q, drafts, noise)
            seen.append((p.dense().double(), q.dense().double(), drafts, tokens, noise.positions))
            return tokens

    monkeypatch.setitem(COUPLINGS, coupling, Watched())
    result = picture(1, coupling=coupling, window=6, law=law, trace_detail=True)
    details = result.traces[0].details
    assert set(details) >= {"acceptance", "tv", "changed", "collision"}
    assert all(len(rows) == len(seen) == result.nfe for rows in details.values())
    for i, (p, q, drafts, tokens, positions) in enumerate(seen):
        assert positions[0, 0] == result.traces[0].starts[i]
        close(details["acceptance"][i], torch.minimum(p, q).sum(-1)[0])
        close(details["tv"][i], (p - q).abs().sum(-1)[0] / 2)
        assert details["changed"][i].bool().tolist() == (tokens != drafts)[0].tolist()
        close(details["collision"][i], independent_collision(coupling, p, q)[0])
        if "entropy" in details:
            close(details["entropy"][i], -torch.xlogy(p, p).sum(-1)[0])
    assert result.traces[0].as_dict()["acceptance"][0] == details["acceptance"][0].tolist()


def test_details_end_with_the_picture():
    """The window of a row that is ahead of others reaches past its end."""
    result, cut = picture(5, coupling="maximal", window=9, trace_detail=True), 0
    for trace in result.traces:
        for i, (start, values) in enumerate(zip(trace.starts, trace.details["acceptance"], strict=True)):
            behind = min(other.starts[i] for other in result.traces if i < other.nfe)
            window = min(9, GRID.num_tokens - behind)
            assert len(values) == min(window, GRID.num_tokens - start)
            cut += len(values) < window
    assert cut


def independent_collision(coupling: str, p, q):
    """Chance that a draft from q, coupled by `coupling` to p after the first mismatch, stays the same; [B, L, V] float64."""
    if coupling == "independent":
        return (p * q).sum(-1)
    if coupling == "maximal":
        return torch.minimum(p, q).sum(-1)
    ratio = torch.maximum(p[..., None, :] / p[..., None], q[..., None, :] / q[..., None])
    return torch.where((p > 0) & (q > 0), 1 / ratio.sum(-1), 0).sum(-1)


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def test_details_do_not_change_what_is_drawn():
    for coupling in COUPLINGS:
        with_detail, without = (picture(2, coupling=coupling, window=7, trace_detail=flag) for flag in (True, False))
        assert torch.equal(with_detail.tokens, without.tokens) and not without.traces[0].details


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


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling": "magic"}, r"coupling must be one of autoregressive, .*, got 'magic'"),
        ({"initialiser": "below"}, r"initialiser must be one of random, .*, got 'below'"),
        ({"window": -3}, r"window must be .*at least 1, or 0 for auto, got -3"),
        ({"seed": -1}, r"seed must be .*between 0 and 2\^64 - 1, got -1"),
        ({"seed": 2**64}, r"seed must be .*between 0 and 2\^64 - 1, got 18446744073709551616"),
        ({"row_seeds": "new"}, r"row_seeds must be one of counted, own, got 'new'"),
        ({"part": -1}, r"part must be .*at least 0, got -1"),
        *(
            ({"coupling": name, "initialiser": "warm"}, f"Warm .* gumbel_exact alone, got {name}")
            for name in METHODS[:-1]
        ),
    ],
)
def test_bad_settings_are_named_with_value_and_rule(settings, message):
    with pytest.raises(InputError, match=message):
        DecodeSettings(**settings)


def codes(*shape, fill=0, dtype=torch.long):
    return torch.full(shape, fill, dtype=dtype)


WARM = {"coupling": "gumbel_exact", "initialiser": "warm"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_tokens": codes(1, 36)}, r"36 first tokens leave nothing to draw on a grid of 36"),
        ({"first_tokens": codes(1, 50)}, r"50 first tokens leave nothing to draw"),
        ({"first_tokens": codes(36)}, r"first_tokens must be whole numbers of shape \[batch, n\], got \[36\]"),
        ({"first_tokens": codes(1, 6, dtype=torch.float32)}, r"first_tokens must be whole numbers.*torch\.float32"),
        ({"first_tokens": codes(1, 6, dtype=torch.bool)}, r"first_tokens must be whole numbers.*torch\.bool"),
        ({"first_tokens": codes(3, 6)}, r"first_tokens has 3 rows for a batch of 2; give one row, or one for each"),
        ({"first_tokens": codes(1, 6, fill=16)}, r"first tokens do not fit this model.* from 0 to 15"),
        ({"first_tokens": codes(1, 6, fill=-1)}, r"first tokens do not fit this model.* from 0 to 15"),
        (WARM, r"warm initialiser needs the tokens of an earlier result"),
        ({**WARM, "earlier_tokens": codes(1, 20)}, r"fill the grid of 36, got 20"),
        ({**WARM, "earlier_tokens": codes(3, 36)}, r"earlier_tokens has 3 rows for a batch of 2"),
        ({**WARM, "earlier_tokens": codes(36)}, r"earlier_tokens must be whole numbers"),
    ],
)
def test_bad_arguments_are_named_with_value_and_rule(arguments, message):
    with pytest.raises(InputError, match=message):
        run(MODEL, GRID, 2, **arguments)


def test_first_tokens_have_to_hold_the_grid_s_forced_tokens():
    grid = Grid(3, 3, row_end=CODES)
    run(MODEL, grid, 1, first_tokens=torch.tensor([[1, 2, 3, CODES]]))
    with pytest.raises(InputError, match="first tokens do not fit"):
        run(MODEL, grid, 1, first_tokens=torch.tensor([[1, 2, 3, 4]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, embeddings=p.embeddings[0]), r"needs embeddings \[rows, P, dim\].*got \[4, 16\]"),
        (lambda p: replace(p, embeddings=p.embeddings[:, :0]), r"P of at least 1, got \[2, 0, 16\]"),
        (lambda p: replace(p, embeddings=p.embeddings[:0]), r"needs embeddings \[rows, P, dim\]"),
        (lambda p: replace(p, embeddings=p.embeddings.long()), r"must be floating point, got torch\.int64"),
        (lambda p: replace(p, padding=p.padding[:1]), r"one padding count for each of its 2 rows, got \[1\]"),
        (
            lambda p: Prompt(p.embeddings[[0, 1, 1]], p.padding[[0, 1, 1]], True),
            r"unconditional row for every picture, got 3",
        ),
        (lambda p: replace(p, guided=True), r"cfg_scale 1\.0 needs a prompt without unconditional rows"),
    ],
)
def test_bad_prompts_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        decode(MODEL, change(prompt(MODEL, 2)), GRID)


def test_guidance_needs_a_guided_prompt():
    with pytest.raises(InputError, match=r"cfg_scale 3\.0 needs a prompt with unconditional rows"):
        decode(MODEL, prompt(MODEL, 2), GRID, DecodeSettings(law=LawSettings(cfg_scale=3.0)))


class Faulty(TableModel):
    """Its logits are `spoil`ed from the third forward on."""

    def __init__(self, spoil):
        super().__init__(3, 6)
        self.spoil, self.forwards = spoil, 0

    def logits(self, hidden, index):
        self.forwards += 1
        logits = super().logits(hidden, index)
        return self.spoil(logits) if self.forwards == 3 else logits


def one(value: float):
    def spoil(logits):
        return logits.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(1)), torch.tensor(value))

    return spoil


@pytest.mark.parametrize(
    "law", [LawSettings(), LawSettings(top_k=2), LawSettings(top_p=0.5), LawSettings(temperature=0.0)], ids=str
)
@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize(
    "spoil",
    [one(float("nan")), one(float("inf")), lambda x: x * float("nan"), lambda x: torch.full_like(x, float("-inf"))],
    ids=["one NaN", "one infinity", "all NaN", "all minus infinity"],
)
def test_unusable_logits_stop_the_decode_at_their_forward(spoil, coupling, law):
    model = Faulty(spoil)
    with pytest.raises(DecodingError, match=r"NaN or infinite logits at forward 3; .* load it as float32 or bfloat16"):
        decode(model, model.prompt(1, False), Grid(1, 6), DecodeSettings(coupling, 2, law))
    assert model.forwards == 3


def test_a_model_of_another_vocabulary_is_refused():
    model = TableModel(3, 4)
    model.float_table = model.float_table[:, :2]
    with pytest.raises(InputError, match=r"gave 2 logits for a codebook of 3 codes"):
        decode(model, model.prompt(1, False), Grid(1, 4))


def test_forbidden_codes_of_another_codebook_are_refused():
    grid = Grid(1, 4, forbidden=torch.zeros(1, 7, dtype=torch.bool), forbidden_row=torch.zeros(4, dtype=torch.long))
    model = TableModel(3, 4)
    with pytest.raises(InputError, match=r"covers 7 codes, but the model has 3"):
        decode(model, model.prompt(1, False), grid)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (DecodeSettings, "window", 2.5),
        (DecodeSettings, "window", "4"),
        (DecodeSettings, "seed", 1.0),
        (LawSettings, "top_k", 1.5),
        (LawSettings, "top_k", float("nan")),
    ],
)
def test_counts_have_to_be_whole_numbers(make, field, value):
    with pytest.raises(InputError, match=f"{field} must be .*got {value!r}"):
        make(**{field: value})
