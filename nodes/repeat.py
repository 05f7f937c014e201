"""Results are cached for inputs that change no token, which ComfyUI's own cache counts as changes."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

REMEMBERED = 8  # runs; a result is tokens and counts on the CPU


class Repeats:
    """Results by the inputs they came from, and by `looks`: inputs that change what the run shows, but not its result."""

    def __init__(self):
        self._runs: deque[list] = deque(maxlen=REMEMBERED)  # inputs, the looks last asked for, result

    def find(self, inputs: dict, looks: dict) -> Any:
        """The result of the same inputs with other looks; None if there is none.

        With the same looks ComfyUI asks again only after it was told to forget, so then there is no result either.
        """
        for run in self._runs:
            known, seen, result = run
            if seen != looks and known.keys() == inputs.keys() and all(_is(known[key], inputs[key]) for key in known):
                run[1] = looks
                return result
        return None

    def keep(self, inputs: dict, looks: dict, result: Any) -> None:
        self._runs.append([{key: _held(value) for key, value in inputs.items()}, looks, result])


def _held(value: Any) -> Any:
    """A plain value itself; of anything else a reference that keeps nothing alive."""
    return value if value is None or isinstance(value, str | int | float | bool) else _reference(value)


def _reference(value: Any) -> Any:
    try:
        return weakref.ref(value)
    except TypeError:  # a list, or a number of another library
        return list(value) if isinstance(value, list) else value


def _is(held: Any, value: Any) -> bool:
    if isinstance(held, weakref.ref):
        return value is not None and held() is value  # one that is gone says None
    return type(held) is type(value) and held == value
