"""What the host knows of a run: counts, times, and which rows are still at work."""

from __future__ import annotations

import torch
from torch import Tensor

from .trace import DETAILS, RowTrace


class Ledger:
    """`active[a]` is the batch row at place a of the state; done[b] tokens of row b are final, drafted[b] are drafted."""

    def __init__(self, batch: int, given: int, total: int):
        self.total, self.iteration = total, 0
        self.active = list(range(batch))
        self.done, self.drafted = [given] * batch, [given] * batch
        self.traces = [RowTrace() for _ in range(batch)]
        self._details: list[tuple[list[int], Tensor]] = []

    @property
    def least_done(self) -> int:
        return min(self.done)

    @property
    def most_done(self) -> int:
        return max(self.done[row] for row in self.active)

    def add(self, window: int, moved: list[int], seconds: float, details: Tensor | None) -> None:
        """An iteration committed `moved[a]` tokens for the row at place a, `seconds` after prefill."""
        self.iteration += 1
        if details is not None:
            self._details.append((list(self.active), details[:, : len(moved), :window].clone()))
        for row, count in zip(self.active, moved, strict=True):
            trace = self.traces[row]
            trace.starts.append(self.done[row])
            trace.windows.append(window)
            trace.committed.append(count)
            trace.seconds.append(seconds)
            self.drafted[row] = min(self.done[row] + window, self.total)
            self.done[row] += count

    def drop_finished(self) -> list[int]:
        """Take the complete rows off; the old places of those that stay, in their new order, [] if nothing changed."""
        kept = [place for place, row in enumerate(self.active) if self.done[row] < self.total]
        if len(kept) == len(self.active):
            return []
        order = fill_holes(kept)
        self.active = [self.active[place] for place in order]
        return order

    def finish_traces(self) -> list[RowTrace]:
        """The traces, with the window details brought over in one go."""
        if not self._details:
            return self.traces
        flat = torch.cat([detail.flatten() for _, detail in self._details]).cpu()
        parts = flat.split([detail.numel() for _, detail in self._details])
        for iteration, ((active, detail), part) in enumerate(zip(self._details, parts, strict=True)):
            for values, row in zip(part.view(detail.shape).unbind(1), active, strict=True):
                trace = self.traces[row]
                # The window of a row that is ahead reaches past the end, and its places there are no tokens.
                inside = values[:, : self.total - trace.starts[iteration]]
                for name, value in zip(DETAILS, inside, strict=True):
                    trace.details.setdefault(name, []).append(value)
        return self.traces


def fill_holes(kept: list[int]) -> list[int]:
    """The ascending places `kept`, reordered so that only the last of them move, into the gaps in front of them."""
    count = len(kept)
    movers = iter([place for place in kept if place >= count])
    stay = set(kept)
    return [place if place in stay else next(movers) for place in range(count)]
