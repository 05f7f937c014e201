"""How unsure a model is of the tokens that it draws: what step compression has to be read together with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from ..decoding.grid import FREE, Grid
from ..decoding.loop import Decoded, DecodeSettings
from ..decoding.trace import RowTrace

REPLAY_WINDOW = 64


def picture_entropies(replay: Callable[[DecodeSettings], Decoded], settings: DecodeSettings, grid: Grid) -> list[float]:
    """For each picture by plain AR the mean entropy, in nats, of the target law over its tokens; forced ones do not count.

    `replay` decodes the pictures again, with the given settings and AR's tokens as `earlier_tokens`. The seed-exact coupling
    accepts its own tokens in whole windows, so the run that was timed carries no measuring, and this one needs few forwards.
    """
    window = min(REPLAY_WINDOW, grid.num_tokens)
    decoded = replay(replace(settings, coupling="gumbel_exact", window=window, initialiser="warm", trace_detail=True))
    free = (grid.forced() == FREE).tolist()
    return [_mean_entropy(trace, free) for trace in decoded.traces]


def _mean_entropy(trace: RowTrace, free: list[bool]) -> float:
    return fmean(
        value
        for start, count, entropies in zip(trace.starts, trace.committed, trace.details["entropy"], strict=True)
        for position, value in enumerate(entropies[:count].tolist(), start)
        if free[position]
    )
