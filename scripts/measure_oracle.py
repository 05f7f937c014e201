"""What drafts could give at best: an oracle drafts the final tokens, on the embedded image model at its own settings.

    python scripts/measure_oracle.py [--pictures 16] [--window 64]

With seed-exact sampling the final tokens of a seed are known: plain AR draws them. Printed are the tokens per forward where the
first so many drafts after each commit are set to them, and how often a draft is its final token already, by its distance from
the last committed one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load, sample  # noqa: E402
from mcsjd_core.bench.drawing import texts  # noqa: E402
from mcsjd_core.decoding.iteration import Iteration  # noqa: E402
from mcsjd_core.families.interface import Family  # noqa: E402
from mcsjd_core.reporting.tables import mean_and_half_width  # noqa: E402
from measure_overlap import committed  # noqa: E402

EXACT = "gumbel_exact"
RIGHT = (1, 2, 4, 8, 16)  # first drafts that the oracle sets
DISTANCES = (0, 1, 2, 4, 8, 16, 32)


class Told(Iteration):
    """An iteration of one row whose first `right` drafts are the final tokens; notes which drafts were so without that."""

    def tell(self, final: Tensor, right: int, held: dict[int, list[bool]]) -> None:
        self.final, self.right, self.held = final, right, held

    def draft(self, positions):
        drafts, source = super().draft(positions)
        wanted = self.final[None].gather(1, positions.clamp_max(self.total - 1))
        for distance in DISTANCES:
            if distance < positions.shape[1] and positions[0, distance] < self.total:
                self.held.setdefault(distance, []).append(bool(drafts[0, distance] == wanted[0, distance]))
        drafts[:, : self.right] = wanted[:, : self.right]
        self.state.sequence[:1].scatter_(1, positions, drafts)
        return drafts, source


def tokens_a_forward(
    model: Family, window: int, pictures: int, right: int, first: str
) -> tuple[str, dict[int, list[bool]]]:
    """Mean and 95 % interval over pictures, and which drafts were final, by distance."""
    held: dict[int, list[bool]] = {}
    found = []
    for number, text in enumerate(texts(0, pictures)):
        settings = DecodeSettings(EXACT, window, model.defaults.law, first, seed=number)
        final = sample(model, [text], DecodeSettings("autoregressive", law=settings.law, seed=number)).tokens[0]
        counts = committed(
            model, text, settings, Told, lambda iteration, final=final: iteration.tell(final, right, held)
        )
        found.append(len(final) / len(counts))
    return mean_and_half_width(found), held


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--window", type=int, default=64)
    a = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = load(a.model, packed=True), []
    for name, right, first in [("random", 0, "random"), ("recall", 0, "recall"), *((None, n, "random") for n in RIGHT)]:
        told, held = tokens_a_forward(model, a.window, a.pictures, right, first)
        rows.append((f"first {right} right" if right else name, told, held))
    print("| drafts | tokens per forward |\n| --- | --- |")
    for name, told, _ in rows:
        print(f"| {name} | {told} |")
    print(f"\n| distance | {' | '.join(map(str, DISTANCES))} |\n|{' --- |' * (len(DISTANCES) + 1)}")
    for name, _, held in rows[:2]:
        print(f"| {name} | {' | '.join(f'{fmean(held[d]):.2f}' for d in DISTANCES)} |")


if __name__ == "__main__":
    main()
