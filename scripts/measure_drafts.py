"""Tokens a forward of every way to draft, on the embedded image model at its own settings, with 95 % intervals.

    python scripts/measure_drafts.py --json build/drafts.json [--pictures 64] [--window 64]

Picture i of every way has the same prompt and seed, so gains over `maximal` with one chain of random first drafts are paired.
What was measured is kept in the file, so that a run may be interrupted, and goes on; it ends with a Markdown table. What a
forward costs is processor time on one thread, in pictures of their own: seconds a forward, over those of the first row.
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
from mcsjd_core.reporting.intervals import mean_interval  # noqa: E402

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
BATCH, CLOCKED = 16, 5  # pictures that are drawn together; that are clocked alone


def settings(model: Family, way: tuple[str, int, str], window: int, seed: int) -> DecodeSettings:
    coupling, chains, initialiser = way
    return DecodeSettings(coupling, window, model.defaults.law, initialiser, seed=seed, trajectories=chains)


def compressions(model: Family, way: tuple[str, int, str], window: int, count: int) -> list[float]:
    found = []
    for start in range(0, count, BATCH):
        texts = [PROMPTS[i % len(PROMPTS)] for i in range(start, min(start + BATCH, count))]
        found += [trace.step_compression for trace in sample(model, texts, settings(model, way, window, start)).traces]
    return found


def seconds_a_forward(model: Family, way: tuple[str, int, str], window: int) -> float:
    """The median of single pictures."""
    found = []
    for number in range(CLOCKED):
        began = time.process_time()
        decoded = sample(model, [PROMPTS[number]], settings(model, way, window, number))
        found.append((time.process_time() - began) / decoded.nfe)
    return median(found)


def told(values: list[float]) -> str:
    found = mean_interval(values)
    return f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def table(found: dict[str, dict]) -> str:
    heads = (
        "coupling",
        "chains",
        "first drafts",
        "tokens a forward",
        "times the first row, mean of pairs",
        "of the means",
    )
    lines = [f"| {' | '.join(heads)} | cost of a forward |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    first = found[name_of(WAYS[0])]
    for coupling, chains, initialiser in WAYS:
        row = found.get(name_of((coupling, chains, initialiser)))
        if row is None:
            continue
        gains = [new / old for new, old in zip(row["compressions"], first["compressions"], strict=True)]
        gain = "1" if row is first else told(gains)
        ratio = fmean(row["compressions"]) / fmean(first["compressions"])
        cost = row["seconds"] / first["seconds"]
        lines += [
            f"| {coupling} | {chains} | {initialiser} | {told(row['compressions'])} | {gain} | {ratio:.2f} | {cost:.2f} |"
        ]
    return "\n".join(lines)


def name_of(way: tuple[str, int, str]) -> str:
    return " ".join(map(str, way))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--json", type=Path, required=True, help="what was measured, kept from run to run")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--window", type=int, default=64)
    a = parser.parse_args()
    torch.set_num_threads(1)
    model = load(a.model, packed=True)
    found = json.loads(a.json.read_text()) if a.json.exists() else {}
    for way in WAYS:
        if name_of(way) in found:
            continue
        values = compressions(model, way, a.window, a.pictures)
        found[name_of(way)] = {"compressions": values, "seconds": seconds_a_forward(model, way, a.window)}
        a.json.write_text(json.dumps(found))
        print(f"{name_of(way)}: {told(values)}", file=sys.stderr, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
