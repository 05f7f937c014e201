"""What the traces of decodes show: the quantities behind the figures of the MC-SJD paper (arXiv 2510.24211).

A place's *age* counts the forwards that have looked at it: 0 for the one that meets its fresh draft, which follows a point
mass; from age 1 on the draft follows the model's own law of the forward before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.trace import RowTrace
from ..errors import InputError

NAN = float("nan")


def by_age(trace: RowTrace, name: str) -> Tensor:
    """A detail of the trace as [num_tokens, ages] float32; NaN from the age on at which a place was committed.

    Raises InputError if the trace was recorded without details.
    """
    if name not in trace.details:
        raise InputError("This run recorded no details of its drafts; turn on record_details and draw again.")
    first, total = trace.starts[0], trace.num_tokens
    age = torch.zeros(total, dtype=torch.long)
    table = torch.full((total, len(trace.starts)), NAN)
    for start, values in zip(trace.starts, trace.details[name], strict=True):
        places = torch.arange(start - first, min(start - first + len(values), total))  # windows may reach past the end
        table[places, age[places]] = values[: len(places)]
        age[places] += 1
    return table[:, : int(age.max())]


def mean_and_variance(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [ages] over the places that reached an age; table as from `by_age`."""
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


def committed_together(trace: RowTrace) -> Tensor:
    """For every place [first + num_tokens] how many tokens its forward committed; 0 for the places that were given."""
    counts = torch.tensor(trace.committed)
    return torch.cat((torch.zeros(trace.starts[0], dtype=torch.long), counts.repeat_interleave(counts)))


def compression_by_frame(trace: RowTrace, grid: Grid) -> Tensor:
    """Step compression [frames] of every code frame of a video; NaN for those that were given whole.

    A forward counts for a frame by the share of its tokens that lie in it, so that the frames' forwards add up to the NFE.
    """
    counts = committed_together(trace)[grid.start :][: grid.frames * grid.frame_tokens].view(grid.frames, -1)
    drawn = counts > 0
    forwards = torch.where(drawn, 1 / counts.clamp_min(1), 0).sum(1)
    return drawn.sum(1) / forwards
