"""What the host knows of a run: counts, times, and which rows are still at work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .trace import DETAILS, RowTrace


class Ledger:
    """`active[a]` is the batch row at place a of the state; done[b] tokens of row b are final, drafted[b] are drafted.

    A runner may carry rows along that are complete; they commit nothing.
    """

    def __init__(self, batch: int, given: int, total: int):
        self.total, self.iteration = total, 0
        self.active = list(range(batch))
        self.done, self.drafted = [given] * batch, [given] * batch
        self.traces = [RowTrace() for _ in range(batch)]
        self._details: list[tuple[list[int], Tensor]] = []

    @property
    def is_complete(self) -> bool:
        return self.least_done == self.total

    @property
    def least_done(self) -> int:
        return min(self.done)

    @property
    def most_done(self) -> int:
        """Of the rows that are not complete."""
        return max(done for done in self.done if done < self.total)

    def add(self, window: int, moved: list[int], seconds: float, details: Tensor | None) -> None:
        """An iteration committed `moved[a]` tokens for the row at place a, `seconds` after prefill."""
        self.iteration += 1
        if details is not None:
            self._details.append((list(self.active), details[:, : len(moved), :window].clone()))
        for row, count in zip(self.active, moved, strict=True):
            if self.done[row] == self.total:
                continue
            trace = self.traces[row]
            trace.starts.append(self.done[row])
            trace.windows.append(window)
            trace.committed.append(count)
            trace.seconds.append(seconds)
            self.drafted[row] = min(self.done[row] + window, self.total)
            self.done[row] += count

    def drop_finished(self, carried: Callable[[int], int]) -> list[int]:
        """Take complete rows off until `carried(at work)` are left; the old places of those, in their new order.

        [] if all stay where they are.
        """
        at_work = [place for place, row in enumerate(self.active) if self.done[row] < self.total]
        count = carried(len(at_work)) if at_work else 0
        if count >= len(self.active) or not at_work:
            return []
        complete = sorted(set(range(len(self.active))) - set(at_work))
        order = fill_holes(sorted(at_work + complete[: count - len(at_work)]))
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
                if iteration >= trace.nfe:
                    continue
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
