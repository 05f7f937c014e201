"""Tokens per forward of every way to draft, on the embedded image model at its own settings, with 95 % intervals.

    python scripts/measure_drafts.py --json build/drafts.json [--pictures 64] [--window 64]

Picture i of every way has the same prompt and seed, so gains over `maximal` with one chain of random first drafts are paired.
Tokens per forward are kept in the file, so that a run may be interrupted, and goes on. In the end all ways are clocked in turn,
on one thread, and the table is printed as Markdown: a forward's cost is that over the first row's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean, median

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load, sample  # noqa: E402
from mcsjd_core.families.interface import Family  # noqa: E402
from mcsjd_core.reporting.tables import mean_and_half_width  # noqa: E402

THINGS = ("a red apple", "a rocket", "a cat", "a blue car", "a sunflower", "a penguin", "a pumpkin", "a fox",
          "a hamburger", "a purple heart", "a panda", "a house", "a soccer ball", "a ladybug", "a dog", "a cactus")  # fmt: skip
PLACES = ("on grass", "in a starry sky", "on wood", "in the mountains")
PROMPTS = [f"{thing} {place}" for place in PLACES for thing in THINGS]
# (coupling, chains of drafts, first drafts); the first row is what the others are compared with.
WAYS = (
    ("maximal", 1, "random"), ("independent", 1, "random"), ("gumbel", 1, "random"), ("gumbel_exact", 1, "random"),
    ("maximal", 1, "recall"), ("independent", 1, "recall"), ("gumbel", 1, "recall"), ("gumbel_exact", 1, "recall"),
    ("maximal", 1, "left"), ("maximal", 1, "left_law"), ("maximal", 1, "above_law"),
    ("maximal", 2, "random"), ("maximal", 4, "random"), ("gumbel_exact", 4, "random"),
    ("maximal", 2, "recall"), ("gumbel_exact", 2, "recall"), ("gumbel_exact", 4, "recall"),
)  # fmt: skip
BATCH, CLOCKED = 16, 8  # pictures that are drawn together; that are clocked alone


def settings(model: Family, way: tuple[str, int, str], window: int, seed: int) -> DecodeSettings:
    coupling, chains, initialiser = way
    return DecodeSettings(coupling, window, model.defaults.law, initialiser, seed=seed, trajectories=chains)


def compressions(model: Family, way: tuple[str, int, str], window: int, count: int) -> list[float]:
    found = []
    for start in range(0, count, BATCH):
        texts = [PROMPTS[i % len(PROMPTS)] for i in range(start, min(start + BATCH, count))]
        found += [trace.step_compression for trace in sample(model, texts, settings(model, way, window, start)).traces]
    return found


def clocked(model: Family, ways: list[tuple[str, int, str]], window: int) -> list[float]:
    """Processor time of a forward and all around it, over that of the first way: medians over pictures, the ways in turn."""
    rounds = []
    for number in range(CLOCKED):
        rounds.append([0.0] * len(ways))
        for turn in range(len(ways)):
            i = (turn + number) % len(ways)  # another way is the first in every round
            began = time.process_time()
            decoded = sample(model, [PROMPTS[number]], settings(model, ways[i], window, number))
            rounds[-1][i] = (time.process_time() - began) / decoded.nfe
    return [median(row[i] / row[0] for row in rounds) for i in range(len(ways))]


def table(found: dict[str, list[float]], ways: list[tuple[str, int, str]], costs: list[float]) -> str:
    heads = (
        "coupling",
        "chains",
        "first drafts",
        "tokens per forward",
        "times the first row, mean of pairs",
        "of the means",
    )
    lines = [f"| {' | '.join(heads)} | cost of a forward |", "| --- | --- | --- | --- | --- | --- | --- |"]
    first = found[name_of(ways[0])]
    for way, cost in zip(ways, costs, strict=True):
        values = found[name_of(way)]
        gains = [new / old for new, old in zip(values, first, strict=True)]
        gain, ratio = "1" if values is first else mean_and_half_width(gains), fmean(values) / fmean(first)
        lines += [
            f"| {' | '.join(map(str, way))} | {mean_and_half_width(values)} | {gain} | {ratio:.2f} | {cost:.2f} |"
        ]
    return "\n".join(lines)


def name_of(way: tuple[str, int, str]) -> str:
    return " ".join(map(str, way))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--json", type=Path, required=True, help="what was measured, kept from run to run")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many rows of the table")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--window", type=int, default=64)
    a = parser.parse_args()
    torch.set_num_threads(1)
    model = load(a.model, packed=True)
    of = {"model": str(a.model.resolve()), "window": a.window, "pictures": a.pictures}
    kept = json.loads(a.json.read_text()) if a.json.exists() else {"of": of, "found": {}}
    if kept["of"] != of:
        sys.exit(f"{a.json} holds figures of {kept['of']}, these are of {of}; name another file.")
    found = kept["found"]
    for way in WAYS[: a.ways]:
        if name_of(way) not in found:
            found[name_of(way)] = compressions(model, way, a.window, a.pictures)
            a.json.write_text(json.dumps(kept))
            print(f"{name_of(way)}: {mean_and_half_width(found[name_of(way)])}", file=sys.stderr, flush=True)
    ways = list(WAYS[: a.ways])
    print(table(found, ways, clocked(model, ways, a.window)))


if __name__ == "__main__":
    main()
