"""What predicts the token after a refused draft, on the embedded image model at its own settings.

    python scripts/measure_overlap.py [--pictures 8] [--window 64]

Under `maximal`, at the first position of every iteration that follows a refusal, and has a row above: how far the law there
overlaps with other laws that were known before (sum of the smaller probabilities, which is how often maximal coupling would
keep a draft from them). And how many iterations commit a single token.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load  # noqa: E402
from mcsjd_core.bench.drawing import texts  # noqa: E402
from mcsjd_core.decoding.iteration import Iteration  # noqa: E402
from mcsjd_core.decoding.loop import advance, prepare  # noqa: E402
from mcsjd_core.decoding.runners import Eager  # noqa: E402
from mcsjd_core.families.interface import Family  # noqa: E402

Own = TypeVar("Own", bound=Iteration)


class Watched(Iteration):
    """An iteration of one row that notes what it might have known of its first position's law."""

    def watch(self, overlaps: dict[str, list[float]]) -> None:
        self.overlaps, self.refused = overlaps, False
        self.final: dict[int, Tensor] = {}  # the law that a position was committed from
        self.after: dict[tuple[int, ...], Tensor] = {}  # the last law after a token, and after a token below another

    def couple(self, p, drafts, source, positions):
        before = self.state.sequence[0].tolist()  # what the laws were given for
        laws, q, start, stride = p.dense()[0], self.draft_law(source, drafts), int(positions[0, 0]), self.grid.stride
        assert q is not None
        if self.refused and start >= stride:
            self.note(laws[0], q.dense()[0, 0], start, before[start - 1], before[start - stride])
        tokens = super().couple(p, drafts, source, positions)
        for law, position in zip(laws, positions[0].tolist(), strict=True):
            self.after[before[position - 1],] = law
            self.after[before[position - 1], before[position - stride]] = law
        run = int((tokens == drafts)[0, :-1].long().cumprod(0).sum())
        self.final |= dict(zip(range(start, start + run + 1), laws, strict=False))
        self.refused = run < positions.shape[1] - 1
        return tokens

    def note(self, law: Tensor, drafted_from: Tensor, position: int, left: int, above: int) -> None:
        known = {
            "the draft's own": drafted_from,
            "of the position to the left": self.final.get(position - 1),
            "of the position above": self.final.get(position - self.grid.stride),
            "last given after the same token": self.after.get((left,)),
            "last given after the same token and below the same": self.after.get((left, above)),
            "the token to the left": one_hot(torch.tensor(left), len(law)).float(),
            "the token above": one_hot(torch.tensor(above), len(law)).float(),
        }
        for name, other in known.items():
            if other is not None:
                self.overlaps.setdefault(name, []).append(float(torch.minimum(law, other).sum()))


def committed(
    model: Family, text: str, settings: DecodeSettings, kind: type[Own], begin: Callable[[Own], None]
) -> list[int]:
    """Tokens that every iteration of a picture committed, iterations being of that kind."""
    prompt = model.prompt([text], None, settings.law.guided)
    schedule, iteration, ledger = prepare(model.token_model, prompt, model.grid(), settings, kind=kind)
    assert isinstance(iteration, kind)
    begin(iteration)
    run = Eager()
    while not ledger.is_complete:
        advance(ledger, schedule, iteration, run)
    return ledger.traces()[0].committed


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--window", type=int, default=64)
    a = parser.parse_args()
    model, overlaps, counts = load(a.model), {}, []
    for number, text in enumerate(texts(0, a.pictures)):
        settings = DecodeSettings("maximal", a.window, model.defaults.law, seed=number)
        counts += committed(model, text, settings, Watched, lambda iteration: iteration.watch(overlaps))
    alone = sum(count == 1 for count in counts) / len(counts)
    print(f"{len(counts)} iterations of {a.pictures} pictures; {100 * alone:.0f} % commit a single token\n")
    print("| law | overlap with the law there | of so many |\n| --- | --- | --- |")
    for name, values in overlaps.items():
        print(f"| {name} | {fmean(values):.2f} | {len(values)} |")


if __name__ == "__main__":
    main()
