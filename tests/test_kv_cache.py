"""The cached forward gives what the uncached one gives, whatever the padding, the pace of rows and the rejected drafts."""

from dataclasses import replace

import pytest
import torch

from mcsjd_core.nn.kv_cache import COPIES_ROWS, KVCache, write_rows
from mcsjd_core.nn.transformer import Transformer, TransformerConfig
from tiny_checkpoint import randomise

# float64: agreement is then a matter of 1e-12, and any slip of mask or position stands out.
CONFIG = TransformerConfig(
    dim=24, layers=2, heads=4, kv_heads=2, head_dim=6, ffn_dim=32, qk_norm="layer", rope_interleaved=False
)
VARIANTS = {
    "grouped": CONFIG,
    "full heads, interleaved": replace(CONFIG, kv_heads=4, qk_norm_groups=4, rope_interleaved=True),
    "one key head, no norm, norm after": replace(CONFIG, kv_heads=1, qk_norm=None, norm_after=True),
    "rms head norm": replace(CONFIG, qk_norm="rms"),
}
PROMPTS, CODES = (5, 1, 9, 3), 20  # prompt lengths of the rows; tokens after them
LONGEST = max(PROMPTS)
TOLERANCE = 1e-11


@pytest.fixture(params=VARIANTS, scope="module")
def model(request) -> Transformer:
    return randomise(Transformer(VARIANTS[request.param], dtype=torch.float64))


def sequences(rows=PROMPTS, seed: int = 0) -> list[torch.Tensor]:
    """True embeddings [prompt + CODES, dim] of every row."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(prompt + CODES, CONFIG.dim, generator=generator).double() for prompt in rows]


@torch.no_grad()
def uncached(model: Transformer, sequence: torch.Tensor) -> torch.Tensor:
    """Hidden states [S, dim] of one row alone: no padding, no cache."""
    return model(sequence[None], torch.arange(len(sequence))[None])[0]


@torch.no_grad()
def prefill(model: Transformer, rows: list[torch.Tensor], longest: int = LONGEST) -> tuple[KVCache, torch.Tensor]:
    """Cache of all but the last prompt token of every row, and the hidden states [rows, longest - 1, dim]."""
    padding = torch.tensor([longest - (len(row) - CODES) for row in rows])
    cache = model.new_cache(padding, longest + CODES + 8, torch.float64)
    length = longest - 1
    if not length:
        return cache, torch.empty(len(rows), 0, CONFIG.dim).double()
    x = torch.full((len(rows), length, CONFIG.dim), 0.7).double()  # padding is fed too; its content must not matter
    for b, row in enumerate(rows):
        real = length - int(padding[b])
        if real:
            x[b, -real:] = row[:real]
    slots = torch.arange(length).expand(len(rows), -1)
    return cache, model.forward_cached(x, slots, cache, length)


def decode_in_windows(model, rows, window: int, seed: int, spare_extent: int = 0, longest: int = LONGEST):
    """Hidden states of every true token after the prefill, as windowed decoding computes them.

    Every step feeds each row the last committed token and drafts; a random number of drafts is true, the others are
    garbage and are overwritten by the next step. Rows move at their own pace and leave the cache when they are through.
    """
    cache, prefilled = prefill(model, rows, longest)
    generator = torch.Generator().manual_seed(seed)
    result = [[*prefilled[b, cache.padding[b] :]] for b in range(len(rows))]
    padding, active, slot = cache.padding.tolist(), list(range(len(rows))), [longest - 1] * len(rows)
    end = longest + CODES
    while active:
        starts = torch.tensor([slot[b] for b in active])
        slots = starts[:, None] + torch.arange(window)
        x = torch.randn(len(active), window, CONFIG.dim, generator=generator).double() * 3
        true = torch.randint(1, window + 1, (len(active),), generator=generator).tolist()
        for a, b in enumerate(active):
            true[a] = min(true[a], end - slot[b])
            first = slot[b] - padding[b]
            x[a, : true[a]] = rows[b][first : first + true[a]]
        extent = int(slots.max()) + 1 + spare_extent
        with torch.no_grad():
            hidden = model.forward_cached(x, slots, cache, extent)
        for a, b in enumerate(active):
            result[b] += list(hidden[a, : true[a]])
            slot[b] += true[a]
        kept = [a for a, b in enumerate(active) if slot[b] < end]
        active = [active[a] for a in kept]
        if active:
            cache.keep_rows(kept)
    return [torch.stack(states) for states in result]


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_cached_equals_uncached_at_every_position(model, window):
    rows = sequences()
    for row, states in zip(rows, decode_in_windows(model, rows, window, seed=window), strict=True):
        expected = uncached(model, row)
        assert states.shape == expected.shape
        assert (states - expected).abs().max() < TOLERANCE


def test_rejected_tokens_leave_no_trace(model):
    rows = sequences()
    runs = [decode_in_windows(model, rows, 5, seed) for seed in (1, 2)]  # other garbage, other pace
    for one, other in zip(*runs, strict=True):
        assert (one - other).abs().max() < TOLERANCE


def test_padding_and_company_never_change_a_row(model):
    rows = sequences()
    together = decode_in_windows(model, rows, 4, seed=3)
    for row, states in zip(rows, together, strict=True):
        alone = decode_in_windows(model, [row], 4, seed=4, longest=len(row) - CODES)[0]
        more_padding = decode_in_windows(model, [row], 4, seed=5, longest=LONGEST + 6)[0]
        assert (states - alone).abs().max() < TOLERANCE
        assert (states - more_padding).abs().max() < TOLERANCE


def test_a_larger_extent_changes_nothing(model):
    rows = sequences()
    tight, wide = (decode_in_windows(model, rows, 4, 6, spare_extent=spare) for spare in (0, 4))
    for one, other in zip(tight, wide, strict=True):
        assert (one - other).abs().max() < TOLERANCE


def test_rows_of_padding_alone_stay_finite(model):
    """A prompt of one token is prefilled with padding alone; NaN there would reach every later sum."""
    rows = sequences((LONGEST, 1, 1))
    cache, hidden = prefill(model, rows)
    assert cache.padding.tolist() == [0, LONGEST - 1, LONGEST - 1]
    assert hidden.isfinite().all()
    assert all(t.isfinite().all() for t in (*cache.keys, *cache.values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_cache_stays_near_float32(dtype):
    exact = randomise(Transformer(CONFIG))
    half = Transformer(CONFIG, dtype=dtype)
    half.load_state_dict(exact.state_dict())
    row = sequences((7,))[0]
    cache = half.new_cache(torch.tensor([3]), 3 + len(row), dtype)
    assert cache.keys[0].dtype == dtype
    with torch.no_grad():
        slots = torch.arange(3, 3 + len(row))[None]
        hidden = half.forward_cached(row[None].to(dtype), slots, cache, 3 + len(row))[0]
        expected = uncached(exact, row.float())
    assert hidden.dtype == dtype
    assert ((hidden - expected).square().mean() / expected.square().mean()).sqrt() < 4 * torch.finfo(dtype).eps


def test_mask_by_hand():
    cache = KVCache(1, torch.tensor([2, 0]), 1, 6, 2, dtype=torch.float32, device="cpu")
    visible = cache.visible(torch.tensor([[1, 3], [0, 4]]), 5).int().tolist()
    assert visible[0] == [[0, 1, 0, 0, 0], [0, 0, 1, 1, 0]]  # slot 1 is padding: it sees itself
    assert visible[1] == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_positions_count_real_tokens():
    cache = KVCache(1, torch.tensor([2, 0]), 1, 6, 2, dtype=torch.float32, device="cpu")
    assert cache.positions(torch.tensor([[1, 2, 5], [1, 2, 5]])).tolist() == [[0, 0, 3], [1, 2, 5]]


def test_writing_touches_the_given_slots_alone():
    cache = KVCache(2, torch.tensor([0, 0]), 3, 6, 2, dtype=torch.float32, device="cpu")
    slots = torch.tensor([[1, 2], [4, 5]])
    keys, values = torch.randn(2, 2, 3, 2, 2).unbind(0)
    seen_keys, seen_values = cache.write(1, cache.index_of(slots), keys, values, 6)
    for seen, written in ((seen_keys, keys), (seen_values, values)):
        expected = torch.zeros(2, 3, 6, 2)
        expected[0, :, 1:3], expected[1, :, 4:6] = written[0], written[1]
        assert torch.equal(seen, expected)
    assert not cache.keys[0].any() and not cache.values[0].any()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 3], [3], [3, 0, 1], [2, 2, 0], [1, 0, 3, 2]])
def test_kept_rows_move_to_the_front(order):
    padding = torch.tensor([4, 3, 2, 1])
    cache = KVCache(2, padding, 1, 6, 2, dtype=torch.float32, device="cpu")
    for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
        keys += torch.arange(4)[:, None, None, None] + 10 * layer
        values -= torch.arange(4)[:, None, None, None] + 10 * layer
    cache.keep_rows(order)
    assert cache.rows == len(order)
    slots = torch.full((len(order), 1), 5)
    assert cache.positions(slots).flatten().tolist() == [5 - int(padding[row]) for row in order]
    new = torch.full((len(order), 1, 1, 2), 99.0)
    for layer in range(2):
        keys, values = cache.write(layer, cache.index_of(slots), new, -new, 6)
        assert keys[:, 0, 0, 0].tolist() == [row + 10 * layer for row in order]
        assert torch.equal(values, -keys)
        assert (keys[:, :, 5] == 99).all()
    assert padding.tolist() == [4, 3, 2, 1]  # the caller's tensor is not ours


def test_rows_can_leave_one_after_the_other():
    cache = KVCache(1, torch.tensor([4, 3, 2, 1]), 1, 6, 2, dtype=torch.float32, device="cpu")
    for kept, left in (([1, 2, 3], [3, 2, 1]), ([0, 2], [3, 1]), ([1], [1])):
        cache.keep_rows(kept)
        assert cache.positions(torch.full((len(kept), 1), 5)).flatten().tolist() == [5 - p for p in left]


def test_size_is_what_the_shapes_say():
    cache = KVCache(3, torch.tensor([0, 0]), 4, 10, 8, dtype=torch.bfloat16, device="meta")
    assert cache.capacity == 10
    assert cache.nbytes == 2 * 3 * 2 * 4 * 10 * 8 * 2


def test_rows_are_written_alike_on_every_device():
    """Apple's GPUs take the other way, which this device can do as well."""
    index, rows = torch.tensor([3, 0, 7]), torch.randn(3, 5)
    first, second = torch.zeros(9, 5), torch.zeros(9, 5)
    write_rows(first, index, rows, COPIES_ROWS[0])
    write_rows(second, index, rows, "mps")
    assert torch.equal(first, second) and torch.equal(first[index], rows) and (first != 0).any(1).sum() == 3
