"""Draw README's figure of one decoding iteration.

    python scripts/make_figure.py docs/how_it_works.svg

Letters stand for codes. What is drawn is an example, made up to show the rules; it shows no measurement.
"""

from __future__ import annotations

import argparse
from pathlib import Path

CELL, GAP, LEFT = 44, 6, 214  # pixels: a token's square, the space between two, the column of the steps' names
WIDTH, HEIGHT = 950, 596
INK, GREY = "#1c1c22", "#6b6b76"

# Look of a token: fill, border, dash, letter.
STYLES = {
    "committed": ("#475569", "#475569", "", "#ffffff"),
    "draft": ("#ffffff", "#94a3b8", "4 3", INK),
    "accepted": ("#16a34a", "#16a34a", "", "#ffffff"),
    "corrected": ("#ea580c", "#ea580c", "", "#ffffff"),
    "survivor": ("#bfdbfe", "#2563eb", "", INK),
    "redrawn": ("#ffffff", "#dc2626", "", "#dc2626"),
    "fresh": ("#ffffff", "#94a3b8", "1.5 3", GREY),
}
# Heights of the small laws' bars, in pixels; one law a window position.
LAWS = [
    (6, 26, 9, 4),
    (4, 8, 28, 5),
    (18, 7, 5, 16),
    (5, 24, 8, 6),
    (27, 6, 4, 7),
    (8, 13, 17, 6),
    (5, 7, 25, 9),
    (9, 21, 6, 10),
]


def x_of(position: int) -> int:
    return LEFT + position * (CELL + GAP)


def text(
    x: float, y: float, content: str, size: int = 14, colour: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{content}</text>"
    )


def token(position: int, y: int, letter: str, style: str) -> str:
    fill, border, dash, ink = STYLES[style]
    box = (
        f'<rect x="{x_of(position)}" y="{y}" width="{CELL}" height="{CELL}" rx="7" fill="{fill}" stroke="{border}" '
        f'stroke-width="1.8"{f" stroke-dasharray={chr(34)}{dash}{chr(34)}" if dash else ""}/>'
    )
    return box + text(x_of(position) + CELL / 2, y + CELL / 2 + 7, letter, 20, ink, "middle", 600)


def tokens(first: int, y: int, letters: str, style: str) -> list[str]:
    return [token(first + i, y, letter, style) for i, letter in enumerate(letters)]


def step(y: int, number: str, name: str, *lines: str) -> list[str]:
    """Number, name and explanation of a step, in the left column."""
    head = text(24, y, f"{number} · {name}" if number else name, 17, INK, weight=600)
    return [head, *(text(24, y + 20 + 17 * i, line, 13, GREY) for i, line in enumerate(lines))]


def brace(first: int, last: int, y: int, label: str, colour: str) -> list[str]:
    """A line under the positions first..last, with its meaning under it."""
    left, right = x_of(first), x_of(last) + CELL
    line = f'<path d="M{left} {y} v5 h{right - left} v-5" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    return [line, text((left + right) / 2, y + 21, label, 13, colour, "middle")]


def law(position: int, y: int, heights: tuple[int, ...]) -> list[str]:
    """Bars of a target law that stand on y."""
    bars = [
        f'<rect x="{x_of(position) + 4 + 9 * i}" y="{y - height}" width="7" height="{height}" rx="1" fill="#7c3aed"/>'
        for i, height in enumerate(heights)
    ]
    return [*bars, f'<path d="M{x_of(position)} {y} h{CELL}" stroke="#c4b5fd" stroke-width="1.5"/>']


def iteration() -> list[str]:
    """The four steps of an iteration of MC-SJD."""
    parts = step(56, "1", "Draft", "the last window's survivors,", "and fresh guesses")
    parts += tokens(0, 40, "ghd", "committed") + tokens(3, 40, "qkartmeb", "draft")
    parts += brace(0, 2, 90, "committed", "#475569") + brace(
        3, 10, 90, "window: drafts, each with the law it was drawn from", GREY
    )

    parts += step(158, "2", "One forward", "the target laws of all positions", "in the window at once")
    parts += [part for i, heights in enumerate(LAWS) for part in law(3 + i, 184, heights)]

    parts += step(
        238, "3", "Couple", "a new token from every law,", "equal to its draft as often", "as a coupling can make it"
    )
    parts += tokens(3, 216, "qk", "accepted") + tokens(5, 216, "z", "corrected")
    parts += tokens(6, 216, "r", "survivor") + tokens(7, 216, "t", "survivor") + tokens(8, 216, "s", "redrawn")
    parts += tokens(9, 216, "eb", "survivor")
    parts += brace(3, 4, 266, "accepted", "#16a34a") + brace(5, 5, 266, "corrected", "#ea580c")
    parts += brace(6, 10, 266, "MC-SJD: drafts survive if they can", "#2563eb")

    parts += step(346, "4", "Commit, refill", "three tokens for one forward;", "the rest are the next drafts")
    parts += tokens(0, 326, "ghdqkz", "committed") + tokens(6, 326, "rtseb", "draft") + tokens(11, 326, "fnx", "fresh")
    parts += brace(3, 5, 376, "committed now", "#475569") + brace(
        6, 10, 376, "next drafts: most did not change", "#2563eb"
    )
    parts += brace(11, 13, 376, "fresh drafts", GREY)
    return parts


def comparison() -> list[str]:
    """What SJD makes of the same window."""
    parts = step(
        466,
        "",
        "SJD, for comparison",
        "after the first mismatch",
        "every token is drawn afresh,",
        "so the drafts do not settle",
    )
    parts += tokens(3, 446, "qk", "accepted") + tokens(5, 446, "z", "corrected")
    parts += tokens(6, 446, "ucw", "redrawn") + tokens(9, 446, "e", "survivor") + tokens(10, 446, "j", "redrawn")
    parts += brace(3, 5, 496, "the same", GREY) + brace(6, 10, 496, "few drafts survive, by chance", "#dc2626")
    return parts


def figure() -> str:
    rule = f'<path d="M24 424 H{WIDTH - 24}" stroke="#e2e8f0" stroke-width="1.5"/>'
    note = text(
        24,
        566,
        "Both commit tokens that follow the model's own law exactly. The letters are an example, not a measurement.",
        13,
        GREY,
    )
    body = "\n".join([*iteration(), rule, *comparison(), note])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, sans-serif">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="FILE.svg")
    parser.parse_args().out.write_text(figure(), encoding="utf-8")
