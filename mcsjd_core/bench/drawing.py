"""Pictures of the bench, whole ones or their upper rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.loop import Decoded, DecodeSettings, Step, decode
from ..errors import InputError
from ..families.interface import Family
from ..laws.law import LawSettings
from ..reporting.entropy import picture_entropies
from .plan import PROMPTS, Bench

WARM_UP_STEPS = 3  # forwards of a method before it is timed: the first ones pay for threads and memory


class _WarmedUp(Exception):
    """Ends a warm-up decode."""


def texts(first: int, count: int) -> list[str]:
    """`count` prompts from number `first` on, beginning again after the last."""
    return [PROMPTS[number % len(PROMPTS)] for number in range(first, first + count)]


def check_drawable(model: Family) -> None:
    """Raise InputError if the bench's prompts are nothing that the model draws pictures of."""
    if not model.clip.is_picture:
        raise InputError("This command measures pictures, and the model draws videos; give another --model.")
    try:
        model.prompt(texts(0, 1), None, model.defaults.law.guided)
    except InputError as error:
        raise InputError(
            f"This command measures pictures of English sentences, which the model does not take ({error}); give another --model."
        ) from None


def upper(grid: Grid, rows: int | None) -> Grid:
    """The upper `rows` of a grid without forced or forbidden positions, None for the whole of any grid."""
    if rows is None or rows >= grid.rows or grid.has_forced or grid.forbidden is not None:
        return grid
    return replace(grid, rows=rows)


def draw(
    bench: Bench,
    prompts: list[str],
    settings: DecodeSettings,
    *,
    rows: int | None = None,
    earlier_tokens: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decoded:
    """One picture's tokens for every prompt, or those of its upper `rows`."""
    prompt = bench.model.prompt(prompts, None, settings.law.guided)
    grid = upper(bench.model.grid(), rows)
    return decode(bench.model.token_model, prompt, grid, settings, earlier_tokens=earlier_tokens, on_step=on_step)


def entropies(bench: Bench, prompts: list[str], settings: DecodeSettings, tokens: Tensor) -> list[float]:
    """Mean entropy of the law, in nats per token, over each prompt's picture; `tokens` [B, N] are plain AR's."""
    rows = bench.plan.rows
    return picture_entropies(
        lambda replay: draw(bench, prompts, replay, rows=rows, earlier_tokens=tokens),
        settings,
        upper(bench.model.grid(), rows),
    )


def a_few_forwards(start: Callable[[Callable[[Step], None]], object]) -> None:
    """Run `start(on_step)`, which decodes something, and end it after WARM_UP_STEPS forwards."""

    def stop(step: Step) -> None:
        if step.iteration >= WARM_UP_STEPS:
            raise _WarmedUp

    with suppress(_WarmedUp):
        start(stop)


def warm_up(bench: Bench, prompts: list[str], methods: list[DecodeSettings], rows: int | None = None) -> None:
    """A few forwards of every method."""
    for settings in methods:
        a_few_forwards(lambda stop, settings=settings: draw(bench, prompts, settings, rows=rows, on_step=stop))


def checkpoint_law(bench: Bench) -> LawSettings:
    """The law of the checkpoint's own settings."""
    return bench.model.defaults.law
