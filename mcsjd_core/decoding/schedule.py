"""Which window the next forward looks at.

A schedule is given counts of committed tokens and measured seconds, and nothing else: in the couplings that verify by
modified rejection, a window that depended on drafts or their probabilities would bias the result.
"""

from __future__ import annotations

from typing import Protocol

from .interface import Prompt, TokenModel
from .settings import DecodeSettings
from .window_policy import AutoWindow, ForwardTimes


class Schedule(Protocol):
    """`largest` is the widest window it will ever ask for: the run's memory is laid out for it."""

    largest: int

    def next(self, rows: int) -> int:
        """Window of the next iteration of `rows` rows, 1 to `largest`; the loop narrows it to what is left to draw.

        A window narrower than the last one's survivors gives up the drafts after it, a wider one gets fresh drafts.
        """
        ...

    def observe(self, window: int, committed: list[int], seconds: float | None) -> None:
        """What an iteration did: its window, tokens committed by each row, 0 by those that are complete and carried along,
        seconds of forward, coupling and transfer, None if these are not what later ones will take."""
        ...


class FixedWindow:
    """The same window in every iteration."""

    def __init__(self, window: int):
        self.largest = window

    def next(self, rows: int) -> int:
        return self.largest

    def observe(self, window: int, committed: list[int], seconds: float | None) -> None:
        pass


def schedule_of(settings: DecodeSettings, model: TokenModel, prompt: Prompt, tokens: int) -> Schedule:
    """The schedule that the settings ask for, with `tokens` left to draw in every row."""
    largest = min(settings.effective_window, tokens)
    if not settings.adapts:
        return FixedWindow(largest)
    law, embeddings = settings.law, prompt.embeddings
    truncation = (law.temperature == 0, law.top_k, law.top_p < 1, law.min_p > 0)
    how = (settings.coupling, settings.trajectories, settings.execution, settings.trace_detail, prompt.guided)
    kind = (*how, *truncation, tokens, str(embeddings.device), embeddings.dtype)
    return AutoWindow(ForwardTimes(model, kind), largest)
