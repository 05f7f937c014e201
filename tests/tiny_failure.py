"""Work that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """A function that takes anything and raises `error`."""

    def work(*arguments, **named):
        raise error

    return work
