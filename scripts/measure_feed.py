"""Pictures a second of a batch that is fed against fixed batches, on the embedded image model at its own settings.

    python scripts/measure_feed.py [--pictures 64] [--rows 8] [--window 32] [--rounds 3]

Both draw the same pictures, in turn and by turns the first; a round has seeds of its own. Prints seconds and iterations of every
round, and their ratios: fixed batches over the fed one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, decode, load  # noqa: E402
from mcsjd_core.bench.drawing import texts  # noqa: E402
from mcsjd_core.decoding.feed import decode_feed  # noqa: E402
from mcsjd_core.families.interface import Family  # noqa: E402
from mcsjd_core.reporting.intervals import mean_interval  # noqa: E402


def fed(model: Family, prompts: list[str], settings: DecodeSettings, rows: int) -> int:
    """Iterations."""
    prompt = model.prompt(prompts, None, settings.law.guided)
    return decode_feed(model.token_model, prompt, model.grid(), settings, rows).nfe


def fixed(model: Family, prompts: list[str], settings: DecodeSettings, rows: int) -> int:
    """Iterations of all batches."""
    total = 0
    for start in range(0, len(prompts), rows):
        prompt = model.prompt(prompts[start : start + rows], None, settings.law.guided)
        own = DecodeSettings(settings.coupling, settings.window, settings.law, seed=settings.seed + start)
        total += decode(model.token_model, prompt, model.grid(), own).nfe
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--coupling", default="maximal")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model, prompts = load(a.model, packed=True), texts(0, a.pictures)
    ratios: dict[str, list[float]] = {"seconds": [], "iterations": []}
    fed(model, prompts[: a.rows], DecodeSettings(a.coupling, a.window, model.defaults.law), a.rows)  # warm-up
    for turn in range(a.rounds):
        settings = DecodeSettings(a.coupling, a.window, model.defaults.law, seed=1000 * turn)
        seconds, iterations = {}, {}
        for way in (fed, fixed)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            iterations[way] = way(model, prompts, settings, a.rows)
            seconds[way] = time.perf_counter() - began
        for name, found in (("seconds", seconds), ("iterations", iterations)):
            ratios[name].append(found[fixed] / found[fed])
            print(f"round {turn}, {name}: fixed {found[fixed]:.1f}, fed {found[fed]:.1f}", flush=True)
    for name, found in ratios.items():
        interval = mean_interval(found)
        print(f"{name}, fixed / fed: {interval.mean:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}")


if __name__ == "__main__":
    main()
