"""Parallel trajectories: the tokens of plain AR whatever their number, in fewer forwards; each sees only what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import INITIALISERS, DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.iteration import Shape
from mcsjd_core.decoding.runners import Compiled, Eager
from mcsjd_core.decoding.trajectories import TrajectoryCache
from mcsjd_core.nn.kv_cache import KVCache
from tiny import prompt, run, transformer

CODES, GRID = 16, Grid(6, 6)
MODEL = transformer(CODES)
GUIDED = LawSettings(cfg_scale=2.0, top_k=8, top_p=0.95)
LAWS = {"plain": LawSettings(), "guided and truncated": GUIDED}
SEEDS = 12  # rows of one batch: row b has seed b


def picture(batch=1, grid=GRID, model=MODEL, **settings):
    if settings.get("initialiser") == "warm":
        settings.setdefault("earlier_tokens", torch.arange(grid.num_tokens)[None] % CODES)
    law = settings.get("law", LawSettings())
    return run(model, grid, batch, law.guided, **{"coupling": "gumbel_exact", **settings})


@pytest.fixture(scope="module")
def plain():
    """Tokens of plain AR for each law and grid, once."""
    known = {}

    def tokens(law: LawSettings, grid=GRID, model=MODEL) -> torch.Tensor:
        key = (law, grid.row_end, grid.num_tokens, model)
        if key not in known:
            known[key] = picture(SEEDS, grid, model, coupling="autoregressive", law=law).tokens
        return known[key]

    return tokens


def same(settings: dict, law: LawSettings, plain, grid=GRID, batch=SEEDS) -> bool:
    """Whether the tokens are plain AR's; a rounding tie of float32 forwards of different shapes is settled in float64."""
    differing = (picture(batch, grid, law=law, **settings).tokens != plain(law, grid)[:batch]).any(1)
    if not differing.any():
        return True
    wide = transformer(CODES, dtype=torch.float64)
    tokens = picture(batch, grid, wide, law=law, **settings).tokens
    return differing.sum() <= 1 and torch.equal(tokens, plain(law, grid, wide)[:batch])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("window", [1, 2, 7, 24, 64])
@pytest.mark.parametrize("trajectories", [2, 4, 8])
def test_tokens_equal_plain_ar_for_every_number_of_trajectories(trajectories, window, law, plain):
    assert same({"trajectories": trajectories, "window": window}, LAWS[law], plain)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_tokens_equal_plain_ar_for_every_initialiser_and_batch(initialiser, batch, plain):
    assert same({"trajectories": 3, "window": 12, "initialiser": initialiser}, GUIDED, plain, batch=batch)


@pytest.mark.parametrize("law", [LawSettings(), GUIDED, LawSettings(temperature=0.0)], ids=str)
def test_tokens_equal_plain_ar_on_a_grid_with_forced_rows(law, plain):
    grid = Grid(4, 5, row_end=CODES + 1, end=(CODES + 2,))
    assert same({"trajectories": 4, "window": 10}, law, plain, grid)


def test_tokens_equal_plain_ar_under_an_automatic_window(plain):
    for _ in range(2):
        assert same({"trajectories": 3, "window": "auto"}, GUIDED, plain, batch=3)


@pytest.mark.parametrize("given", [1, 17, 35])
def test_continued_pictures_keep_their_first_tokens(given, plain):
    first = plain(GUIDED)[:4, :given]
    expected = picture(4, coupling="autoregressive", law=GUIDED, first_tokens=first).tokens
    tokens = picture(4, law=GUIDED, window=9, trajectories=4, first_tokens=first).tokens
    assert torch.equal(tokens, expected) and torch.equal(tokens[:, :given], first)


def test_the_trace_adds_up_and_is_each_row_s_own():
    batch = picture(5, window=20, trajectories=4, seed=3)
    for b, trace in enumerate(batch.traces):
        assert sum(trace.committed) == GRID.num_tokens and 1 <= min(trace.committed) <= max(trace.committed) <= 20
        assert trace.committed == picture(1, window=20, trajectories=4, seed=3 + b).traces[0].committed


@pytest.mark.parametrize("initialiser", ["left", "above", "left_law", "above_law"])
@pytest.mark.parametrize("coupling", ["gumbel_exact", "maximal"])
def test_side_chains_start_from_random_codes_of_their_own(initialiser, coupling):
    """Where chains share their noise, as under `gumbel_exact`, the same first drafts would make copies of them."""
    chains, window = 3, 8
    settings = DecodeSettings(coupling, window, initialiser=initialiser, trajectories=chains)
    _, iteration, _ = loop.prepare(MODEL, prompt(MODEL, 2), GRID, settings)
    with torch.no_grad():
        for _ in range(3):
            iteration(Shape(2, window, iteration.slots))
        state = iteration.state
        positions = (state.committed[:, None] + torch.arange(window)).repeat_interleave(chains, 0)
        fresh, (drafts, _) = positions >= state.known[:, None], iteration.draft(positions)
    own = fresh & (drafts == state.guesses.gather(1, positions))
    assert (own.sum(1) == fresh.sum(1)).view(2, chains)[:, 1:].all() and fresh.any(1).all()
    assert not own[::chains].equal(fresh[::chains])


@pytest.mark.parametrize("coupling", ["maximal", "gumbel", "gumbel_exact"])
def test_more_trajectories_take_fewer_forwards(coupling):
    def forwards(count: int) -> int:
        settings = {"coupling": coupling, "law": LawSettings(temperature=0.7), "window": 16, "trajectories": count}
        return sum(trace.nfe for trace in picture(60, **settings).traces)

    one, two, six = (forwards(count) for count in (1, 2, 6))
    assert six < two < one


@pytest.mark.parametrize("law", LAWS)
def test_a_compiled_iteration_is_one_graph_a_shape(law, plain, monkeypatch):
    torch._dynamo.reset()
    from torch._dynamo.testing import CompileCounterWithBackend  # seconds, and for this test alone

    expected = plain(LAWS[law])[:1]
    backend = CompileCounterWithBackend("eager")
    compiled = Compiled(backend)
    monkeypatch.setattr(loop, "runner", lambda *_: compiled)
    for _ in range(2):  # the second run compiles nothing
        tokens = picture(1, law=LAWS[law], window=9, trajectories=3, execution="compiled").tokens
        assert torch.equal(tokens, expected)
        assert backend.frame_count == 1
    torch._dynamo.reset()


def test_complete_rows_that_are_carried_along_change_nothing(plain, monkeypatch):
    plain(GUIDED)
    carrying = Eager()
    carrying.rows = lambda at_work: 1 << (at_work - 1).bit_length()
    monkeypatch.setattr(loop, "runner", lambda *_: carrying)
    assert same({"trajectories": 3, "window": 9}, GUIDED, plain, batch=7)


# -- what each trajectory sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["independent", "maximal", "gumbel"])
def test_a_row_of_a_batch_is_the_run_of_its_seed(coupling):
    settings = {"coupling": coupling, "law": GUIDED, "window": 9, "trajectories": 3, "initialiser": "above_law"}
    batch = picture(3, seed=5, **settings).tokens
    for row in range(3):
        assert torch.equal(batch[row], picture(1, seed=5 + row, **settings).tokens[0])


def test_a_side_trajectory_sees_the_prefix_and_itself():
    """Rows of the forward against rows that hold one trajectory each, in float64."""
    model = transformer(CODES, dtype=torch.float64)
    window, sides, committed = 5, 2, 4
    start = prompt(model, 1, guided=True)
    slots_of = start.embeddings.shape[1] + committed - 1
    generator = torch.Generator().manual_seed(0)
    drafts = torch.randint(CODES, (1 + sides, window), generator=generator)
    front = torch.randint(CODES, (1, committed), generator=generator).expand(2, -1)

    def prefilled(capacity: int, rows: int = 1) -> KVCache:
        given = replace(start, embeddings=start.embeddings.repeat(rows, 1, 1), padding=start.padding.repeat(rows))
        cache = model.new_cache(given, capacity)
        before = torch.cat((given.embeddings, model.embed(front[:, :-1].repeat(rows, 1), None)), 1)[:, :slots_of]
        model.hidden(before, torch.arange(slots_of).expand(len(before), -1), cache, slots_of)
        return cache

    extent = slots_of + window
    positions = torch.arange(slots_of, extent)
    cache = TrajectoryCache(prefilled(extent + sides * window), window, sides, extent)
    together = model.hidden(
        model.embed(drafts.flatten().expand(2, -1), None), positions.repeat(3).expand(2, -1), cache, extent
    )
    alone = model.hidden(
        model.embed(drafts.repeat_interleave(2, 0), None), positions.expand(6, -1), prefilled(extent, 3), extent
    )
    torch.testing.assert_close(together, torch.cat(alone.split(2), 1), rtol=0, atol=1e-11)


def test_an_adopted_trajectory_s_keys_lie_where_the_main_one_s_did():
    cache = KVCache(1, torch.zeros(2, dtype=torch.long), 2, 30, 3, dtype=torch.float64, device="cpu")
    wrapped = TrajectoryCache(cache, 3, 2, 12)
    slots = torch.tensor([[5, 6, 7], [2, 3, 4]])
    new = torch.randn(2, 2, 9, 3, dtype=torch.float64)
    wrapped.write(0, wrapped.index_of(slots.repeat(1, 3)), new, -new, 12)
    wrapped.adopt(torch.tensor([2, 0]), slots)
    assert torch.equal(cache.keys[0][0, :, 5:8], new[0, :, 6:9])
    assert torch.equal(cache.values[0][1, :, 2:5], -new[1, :, :3])


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_plain_ar_is_refused():
    with pytest.raises(InputError, match="Plain AR drafts nothing"):
        DecodeSettings("autoregressive", trajectories=2)


@pytest.mark.parametrize("trajectories", [0, -1, 1.5, "2"])
def test_counts_below_one_are_refused(trajectories):
    with pytest.raises(InputError, match="trajectories must be a whole number of at least 1"):
        DecodeSettings("gumbel_exact", trajectories=trajectories)


def test_details_are_refused():
    with pytest.raises(InputError, match="Details of a trace are of one trajectory"):
        DecodeSettings("gumbel_exact", trajectories=2, trace_detail=True)
