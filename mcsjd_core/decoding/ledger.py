"""What the host knows of a run: counts, times, and which rows are still at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .trace import DETAILS, RowTrace


class Entry(NamedTuple):
    """One iteration: batch rows and their window starts, tokens committed for each, seconds since prefill; arrays [A]."""

    rows: np.ndarray
    window: int
    starts: np.ndarray
    committed: np.ndarray
    seconds: float


class Ledger:
    """`active` [A]: the batch row in each of the state's first lanes. given [B]: tokens of a row before the first that is
    drawn. done, drafted [B]: those that are final, that are drafted. forwards [B]: iterations that a row took part in.

    A runner may carry rows along that are complete; they commit nothing.
    """

    def __init__(self, given: Sequence[int], total: int):
        batch = len(given)
        self.given, self.total = np.array(given, dtype=int), total
        self.active = np.arange(batch)
        self.done, self.drafted = self.given.copy(), self.given.copy()
        self.forwards = np.zeros(batch, dtype=int)
        self._entries: list[Entry] = []
        self._details: list[Tensor] = []

    @property
    def iteration(self) -> int:
        """Iterations so far."""
        return len(self._entries)

    @property
    def is_complete(self) -> bool:
        return bool((self.done == self.total).all())

    def span(self) -> tuple[int, int]:
        """Tokens that are final in the row furthest behind, and in the one furthest ahead, of those that are not complete."""
        done = self.done[self.active]
        open_rows = done[done < self.total]
        return int(open_rows.min()), int(open_rows.max())

    def add(self, window: int, committed: np.ndarray, seconds: float, details: Tensor | None) -> None:
        """An iteration committed that many tokens [A] for the rows at work, `seconds` after prefill."""
        rows, starts = self.active, self.done[self.active]
        self._entries.append(Entry(rows, window, starts, committed, seconds))
        if details is not None:
            self._details.append(details[:, : len(rows), :window].clone())
        self.forwards[rows] += starts < self.total
        self.drafted[rows] = np.minimum(starts + window, self.total)
        self.done[rows] = starts + np.where(starts < self.total, committed, 0)

    def replace_finished(self, waiting: int) -> list[tuple[int, int]]:
        """Give the lanes of complete rows to the rows from number `waiting` on: (lane, row) of each."""
        (lanes,) = (self.done[self.active] == self.total).nonzero()
        taken = list(zip(lanes.tolist(), range(waiting, len(self.done)), strict=False))
        self.active = self.active.copy()  # the entries so far hold the old one
        for lane, row in taken:
            self.active[lane] = row
        return taken

    def drop_finished(self, rows_to_keep: Callable[[int], int]) -> np.ndarray:
        """Take complete rows off until `rows_to_keep(at work)` are left; the old lanes of those, in their new order.

        Empty if all stay where they are.
        """
        at_work = self.done[self.active] < self.total
        count = rows_to_keep(int(at_work.sum())) if at_work.any() else len(self.active)
        if count >= len(self.active):
            return np.empty(0, dtype=int)
        (lanes,), (complete,) = at_work.nonzero(), (~at_work).nonzero()
        order = fill_holes(np.sort(np.concatenate((lanes, complete[: count - len(lanes)]))))
        self.active = self.active[order]
        return order

    def traces(self) -> Traces:
        """The trace of every row; the details of windows are brought over in one go."""
        return Traces(self._entries, self._details, len(self.done), self.total)


class Traces(Sequence[RowTrace]):
    """One trace for each of `batch` rows, made when the first of them is asked for: a large batch may never ask."""

    def __init__(self, entries: list[Entry], details: list[Tensor], batch: int, total: int):
        self._entries, self._batch, self._total = entries, batch, total
        self._shapes = [detail.shape for detail in details]
        self._details = torch.cat([detail.flatten() for detail in details]).cpu() if details else None
        self._rows: list[RowTrace] | None = None

    def __len__(self) -> int:
        return self._batch

    def __getitem__(self, row):
        if self._rows is None:
            self._rows = self._made()
        return self._rows[row]

    def _made(self) -> list[RowTrace]:
        lengths = [len(entry.rows) for entry in self._entries]
        columns = (
            np.concatenate([entry.starts for entry in self._entries]),
            np.concatenate([entry.committed for entry in self._entries]),
            np.repeat([entry.seconds for entry in self._entries], lengths),
            np.repeat([entry.window for entry in self._entries], lengths),
        )
        rows = np.concatenate([entry.rows for entry in self._entries])
        (at_work,) = (columns[0] < self._total).nonzero()
        order = at_work[np.argsort(rows[at_work], kind="stable")]
        ends = np.cumsum(np.bincount(rows[at_work], minlength=self._batch)).tolist()
        starts, committed, seconds, windows = (column[order].tolist() for column in columns)
        traces = [
            RowTrace(starts[first:end], committed[first:end], seconds[first:end], windows=windows[first:end])
            for first, end in pairwise([0, *ends])
        ]
        if self._details is not None:
            self._add_details(traces, self._details)
        return traces

    def _add_details(self, traces: list[RowTrace], details: Tensor) -> None:
        parts = details.split([shape.numel() for shape in self._shapes])
        for entry, part, shape in zip(self._entries, parts, self._shapes, strict=True):
            for values, row, start in zip(part.view(shape).unbind(1), entry.rows, entry.starts, strict=True):
                # The window of a row that is ahead reaches past the end, and its positions there hold no tokens.
                inside = values[:, : max(self._total - int(start), 0)]
                for name, value in zip(DETAILS, inside, strict=True):
                    if len(value):
                        traces[row].details.setdefault(name, []).append(value)


def fill_holes(kept: np.ndarray) -> np.ndarray:
    """The ascending lanes `kept`, reordered so that only the last of them move, into the gaps before them."""
    order = np.arange(len(kept))
    stay = kept < len(kept)
    holes = np.ones(len(kept), dtype=bool)
    holes[kept[stay]] = False
    order[holes] = kept[~stay]
    return order
