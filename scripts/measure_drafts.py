"""Tokens a forward of every way to draft, on the embedded image model at its own settings, with 95 % intervals.

    python scripts/measure_drafts.py [--pictures 64] [--window 64]

Picture i of every way has the same prompt and seed, so gains over `maximal` with one chain of drafts are paired. Prints a
Markdown table, row by row as it is measured. What a forward costs is clocked on one picture at a time:
seconds a forward, over those of the first row; a forward goes over M windows.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

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
    ("maximal", 1, "left"), ("maximal", 1, "left_law"), ("maximal", 1, "above_law"),
    ("maximal", 2, "random"), ("maximal", 4, "random"), ("gumbel_exact", 4, "random"), ("gumbel", 4, "random"),
    ("independent", 4, "random"),
)  # fmt: skip
BATCH, CLOCKED = 16, 2  # pictures that are drawn together; that are clocked alone


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
    total = forwards = 0.0
    for number in range(CLOCKED):
        began = time.perf_counter()
        decoded = sample(model, [PROMPTS[number]], settings(model, way, window, number))
        total += time.perf_counter() - began
        forwards += decoded.nfe
    return total / forwards


def told(values: list[float]) -> str:
    found = mean_interval(values)
    return f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model = load(a.model, packed=True)
    print("| coupling | chains | first drafts | tokens a forward | times `maximal`, one chain | cost of a forward |")
    print("| --- | --- | --- | --- | --- | --- |")
    yardstick, cost = [], 1.0
    for way in WAYS:
        found, seconds = compressions(model, way, a.window, a.pictures), seconds_a_forward(model, way, a.window)
        if not yardstick:
            yardstick, cost = found, seconds
        gains = [new / old for new, old in zip(found, yardstick, strict=True)]
        gain = "1" if found is yardstick else told(gains)
        coupling, chains, initialiser = way
        print(f"| {coupling} | {chains} | {initialiser} | {told(found)} | {gain} | {seconds / cost:.2f} |", flush=True)


if __name__ == "__main__":
    main()
