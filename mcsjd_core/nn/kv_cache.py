"""Preallocated keys and values, written at explicit slots per row.

Rolling back is free: a slot that was not committed is overwritten by the next forward, and no query attends past its own
slot. Rows are left-padded to one prompt length, so the code at grid index i lies in the same slot of every row, while rows
still move at their own pace.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COPIES_ROWS = ("cpu", "cuda")  # where index_copy_ is known to be there, and quicker; Apple's GPUs lack it in torch 2.7


@dataclass(frozen=True)
class Planes:
    """Positions on several axes: `table` [N, axes] of a grid's tokens, the first of which is in slot `first`.

    They count from the grid's start, so that one table serves rows of all lengths: what stands before it has negative ones,
    the same on every axis. Rotary embedding looks at differences alone.
    """

    table: Tensor
    first: int

    def of(self, slots: Tensor) -> Tensor:
        """Positions [rows, L, axes] of slots [rows, L]."""
        index = slots - self.first
        inside = self.table[index.clamp(0, len(self.table) - 1)]
        return torch.where(index[..., None] < 0, index[..., None], inside)


def write_rows(table: Tensor, index: Tensor, rows: Tensor, device_type: str) -> None:
    """Write rows [n, size] to rows `index` [n] of a table [N, size], in place."""
    if device_type in COPIES_ROWS:
        table.index_copy_(0, index, rows)
    else:
        table[index] = rows


class KVCache:
    """Keys and values [layers][rows, kv_heads, capacity, head_dim] and the number of padding slots of every row.

    `rows` may shrink while decoding (`keep_rows`): finished rows then cost nothing more. `context` holds what cross attention
    looks at, keys and values [rows, kv_heads, n, head_dim] for every layer; they stay as they are. It is empty without.
    """

    def __init__(self, layers: int, padding: Tensor, kv_heads: int, capacity: int, head_dim: int, *, dtype, device):
        shape = (len(padding), kv_heads, capacity, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.padding = padding.clone()  # [rows], slots before a row's first real token
        self.rows = len(padding)
        self.context: list[tuple[Tensor, Tensor]] = []
        self.planes: Planes | None = None

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def _tensors(self) -> list[Tensor]:
        return [*self.keys, *self.values, *(tensor for pair in self.context for tensor in pair)]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._tensors())

    def index_of(self, slots: Tensor) -> Tensor:
        """Index of slots [rows, L] of every head among a layer's vectors: [rows, L, kv_heads]; for `write`."""
        heads = self.keys[0].shape[1]
        head_of_row = torch.arange(self.rows * heads, device=slots.device).view(self.rows, 1, heads)
        return head_of_row * self.capacity + slots[..., None]

    def write(self, layer: int, index: Tensor, keys: Tensor, values: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        """Store keys and values [rows, kv_heads, L, head_dim] at the `index_of` their slots; give both up to slot `extent`."""
        index, size = index.flatten(), keys.shape[-1]
        for held, new in ((self.keys[layer], keys), (self.values[layer], values)):
            write_rows(held.view(-1, size), index, new.transpose(1, 2).reshape(-1, size), held.device.type)
        return self.keys[layer][: self.rows, :, :extent], self.values[layer][: self.rows, :, :extent]

    def copy_slots(self, to: Tensor, origin: Tensor) -> None:
        """Let slots `to` [rows, L] hold what slots `origin` [rows, L] hold."""
        to, origin = self.index_of(to).flatten(), self.index_of(origin).flatten()
        for held in (*self.keys, *self.values):
            flat = held.view(-1, held.shape[-1])
            write_rows(flat, to, flat.index_select(0, origin), flat.device.type)

    def context_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """The layer's `context` for the rows still at work."""
        if not self.context:
            return None
        keys, values = self.context[layer]
        return keys[: self.rows], values[: self.rows]

    def visible(self, slots: Tensor, extent: int) -> Tensor:
        """Mask [rows, L, extent]: which slots a query at slots [rows, L] attends to.

        A query in the padding sees itself only: an empty row of the softmax would be NaN, and NaN in a stored value spoils
        every later sum, masked or not.
        """
        key = torch.arange(extent, device=slots.device)
        real = (key >= self.padding[: self.rows, None, None]) & (key <= slots[..., None])
        return real | (key == slots[..., None])

    def positions(self, slots: Tensor) -> Tensor:
        """Position ids [rows, L] of slots [rows, L]: real tokens are counted, padding is not. With planes, [rows, L, axes]."""
        if self.planes is not None:
            return self.planes.of(slots)
        return (slots - self.padding[: self.rows, None]).clamp_min(0)

    def put_rows(self, first: int, other: KVCache) -> None:
        """Let the rows from `first` on hold what those of `other` hold, a cache of the same capacity."""
        last = first + other.rows
        for tensor, new in zip((*self._tensors(), self.padding), (*other._tensors(), other.padding), strict=True):
            tensor[first:last] = new

    def keep_rows(self, order: list[int]) -> None:
        """Keep len(order) rows, row p holding what row order[p] held; only rows that change are copied."""
        moves = [(to, origin) for to, origin in enumerate(order) if to != origin]
        if moves:
            to, origin = torch.tensor(moves, device=self.padding.device).unbind(1)
            for tensor in (*self._tensors(), self.padding):
                tensor[to] = tensor[origin]
        self.rows = len(order)
