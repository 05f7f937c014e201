"""Tables for a terminal and for a page."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from .intervals import FEWEST, mean_interval

WIDTH = 125  # of lines of text


@dataclass(frozen=True)
class Table:
    """Cells as they are to be read; the first column is text, the others are numbers. `note` says what they are of."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        parts = [self.title, aligned(self.header, self.rows), wrapped(self.note)]
        return "\n".join(part for part in parts if part)

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        parts = [f"**{self.title}**", "\n".join(f"| {' | '.join(cells)} |" for cells in lines), wrapped(self.note)]
        return "\n\n".join(part for part in parts if part)


def wrapped(text: str) -> str:
    """Lines of WIDTH at most; those of a list begin below its first."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def aligned(header: list[str], rows: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    """Columns of equal width; those in `left` (negative ones count from the end) to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    to_left = {column % len(header) for column in left}

    def fit(cells: list[str]) -> str:
        sides = [
            cell.ljust(width) if column in to_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(sides).rstrip()

    return "\n".join([fit(header), "  ".join("-" * width for width in widths), *map(fit, rows)])


def mean_and_half_width(values: list[float], digits: int = 2) -> str:
    """`5.23 ± 0.52`: mean and half the width of its 95 % interval; of fewer than FEWEST values the mean alone."""
    mean, _, high = mean_interval(values)
    return f"{mean:.{digits}f}" + (f" ± {high - mean:.{digits}f}" if len(values) >= FEWEST else "")


def milliseconds(seconds: dict[str, float]) -> str:
    """`12.3 (11.9 to 13.0)`: median and quartiles."""
    median, low, high = (_three_digits(1000 * seconds[name]) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
