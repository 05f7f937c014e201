"""What the traces of decodes show: the quantities behind the figures of the MC-SJD paper (arXiv 2510.24211).

A draft's *age* counts the forwards that have looked at it: 0 for the one that meets it fresh, when it follows a point mass; from
age 1 on the position's draft follows the model's own law of the forward before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..decoding.grid import Grid
from ..decoding.trace import RowTrace
from ..errors import InputError

NAN = float("nan")
NO_DETAILS = "This run recorded no details; turn on record_details and draw again."


def by_age(trace: RowTrace, name: str) -> Tensor:
    """A detail of the trace as [drafts, ages] float32; NaN from the age on at which a draft was committed or given up.

    A position has one draft, and one more each time that a window which had become narrower comes back to it; its drafts are next
    to one another. Raises InputError if the trace was recorded without details.
    """
    if name not in trace.details:
        raise InputError(NO_DETAILS)
    first, total = trace.starts[0], trace.num_tokens
    draft, age = torch.full((total,), -1), torch.zeros(total, dtype=torch.long)
    positions_of, entries, known = [], [], 0
    for start, window, values in zip(trace.starts, trace.windows, trace.details[name], strict=True):
        begin = start - first
        positions = torch.arange(begin, min(begin + len(values), total))  # windows may reach past the end
        fresh = positions >= known  # what lies after the previous window has been given up
        age[positions] = torch.where(fresh, 0, age[positions] + 1)
        draft[positions[fresh]] = sum(map(len, positions_of)) + torch.arange(int(fresh.sum()))
        positions_of.append(positions[fresh])
        entries.append((draft[positions], age[positions], values[: len(positions)]))
        known = begin + window
    drafts, ages, values = (torch.cat(column) for column in zip(*entries, strict=True))
    table = torch.full((int(drafts.max()) + 1, int(ages.max()) + 1), NAN)
    table[drafts, ages] = values
    return table[torch.cat(positions_of).argsort(stable=True)]


def mean_and_variance(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [ages] over the drafts that reached an age; table as from `by_age`."""
    count = table.isfinite().sum(0).clamp_min(1)
    mean = table.nan_to_num().sum(0) / count
    return mean, (table - mean).square().nan_to_num().sum(0) / count


def of_drafted_laws(traces: tuple[RowTrace, ...], name: str) -> Tensor:
    """All values [n] of a detail from age 1 on, of every picture."""
    values = [by_age(trace, name)[:, 1:].flatten() for trace in traces]
    together = torch.cat(values)
    return together[together.isfinite()]


def mean_token_difference(trace: RowTrace) -> float:
    """Share of drafts that a forward changed, from age 1 on (the paper's figure 2); 0 if no draft grew that old."""
    changed = of_drafted_laws((trace,), "changed")
    return changed.mean().item() if len(changed) else 0.0


def committed_together(trace: RowTrace, total: int) -> Tensor:
    """For every position [total] how many tokens its forward committed; 0 for the positions that were given."""
    counts = torch.tensor(trace.committed)
    drawn = counts.repeat_interleave(counts)
    return F.pad(drawn, (trace.starts[0], total - trace.starts[0] - len(drawn)))


def drawn_by_forward(trace: RowTrace, kept: Tensor) -> Tensor:
    """How many codes each forward [NFE] drew of those that it committed; `kept` [num_tokens] marks the others."""
    counts = torch.tensor(trace.committed)
    forward = torch.arange(len(counts)).repeat_interleave(counts)
    drawn = ~kept[trace.starts[0] :][: len(forward)]
    return torch.zeros_like(counts).index_add(0, forward, drawn.long())


def drawn_together(trace: RowTrace, kept: Tensor) -> Tensor:
    """For every position [num_tokens] how many codes its forward drew; 0 for what was given or is marked in `kept`."""
    drawn = drawn_by_forward(trace, kept).repeat_interleave(torch.tensor(trace.committed))
    return F.pad(drawn, (trace.starts[0], len(kept) - trace.starts[0] - len(drawn))) * ~kept


def compression_by_frame(trace: RowTrace, grid: Grid, kept: Tensor) -> Tensor:
    """Step compression [frames] of every code frame of a video; NaN for those of which no code was drawn.

    A forward counts for a frame by the share of its tokens that lie in it, so that the frames' forwards add up to the NFE.
    `kept` [num_tokens] marks what forwards passed without drawing it.
    """
    counts, kept = (
        values[grid.start :][: grid.frames * grid.frame_tokens].view(grid.frames, -1)
        for values in (committed_together(trace, grid.num_tokens), kept)
    )
    drawn = ((counts > 0) & ~kept).sum(1)
    forwards = torch.where(counts > 0, 1 / counts.clamp_min(1), 0).sum(1)
    return torch.where(drawn > 0, drawn / forwards, torch.nan)
