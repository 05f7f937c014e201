"""Measure whether the embedded image model shows what it is there to show: uncertainty, variety, couplings apart.

    python -m training.acceptance --model embedded/scenes --sprites build/sprites.npz --places build/places.npz

32 prompts (24 of trained pairs of thing and place, 8 of held-out ones), `--seeds` pictures each, at the checkpoint's own
settings. Prints Markdown tables: means over the prompts and their 95 % intervals (of ratios by the bootstrap over the prompts),
and what the coupling gains by how uncertain a prompt is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from mcsjd_core import COUPLINGS, EMBEDDED_MODEL, DecodeSettings, load, sample
from mcsjd_core.decoding.loop import AUTOREGRESSIVE
from mcsjd_core.families.interface import Family
from mcsjd_core.reporting.entropy import picture_entropies
from mcsjd_core.reporting.report import describe_law
from mcsjd_core.reporting.tables import mean_and_half_width

from .prompts import QUALITY, unseen_pairs
from .scenes import Scenes

WINDOWS = (16, 32, 64)
BATCH = 8  # prompts that are decoded together; a row's forwards do not depend on the others
SEED_STEP = 100  # between the seeds of a prompt; above BATCH, since row k of a batch draws with seed + k
GROUPS = 4  # of prompts, by their entropy


def batches(prompts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(prompts), BATCH):
        yield prompts[start : start + BATCH]


def compressions(model: Family, prompts: list[str], settings: DecodeSettings, seeds: int = 1) -> list[float]:
    """Tokens per forward of every prompt, mean of its pictures."""
    runs = [replace(settings, seed=settings.seed + SEED_STEP * k) for k in range(seeds)]
    traces = [[trace for some in batches(prompts) for trace in sample(model, some, run).traces] for run in runs]
    return [fmean(trace.num_tokens / trace.nfe for trace in of_prompt) for of_prompt in zip(*traces, strict=True)]


def drawn(model: Family, prompts: list[str], settings: DecodeSettings) -> list[Tensor]:
    """Tokens [b, N] by plain AR of every batch of prompts."""
    plain = replace(settings, coupling=AUTOREGRESSIVE, window=1)
    return [sample(model, some, plain).tokens for some in batches(prompts)]


def entropies(model: Family, prompts: list[str], tokens: list[Tensor], settings: DecodeSettings) -> list[float]:
    """Mean nats of the law along every prompt's AR picture."""
    return [
        entropy
        for some, rows in zip(batches(prompts), tokens, strict=True)
        for entropy in picture_entropies(
            lambda replay, some=some, rows=rows: sample(model, some, replay, earlier_tokens=rows),
            settings,
            model.grid(),
        )
    ]


def ratio_of_means(one: Sequence[float], other: Sequence[float]) -> str:
    """`1.44 (1.36 to 1.54)`: how many times the mean of `one` the mean of `other` is, prompts in the same order."""

    def ratio(ones: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
        return others.mean(axis) / ones.mean(axis)

    found = bootstrap((one, other), ratio, paired=True, method="percentile", rng=np.random.default_rng(0))
    interval = found.confidence_interval
    return f"{ratio(np.array(one), np.array(other)):.2f} ({interval.low:.2f} to {interval.high:.2f})"


def by_entropy(nats: list[float], independent: list[float], maximal: list[float]) -> list[str]:
    """Lines of a table: GROUPS of prompts from the surest to the least sure, and what the coupling gains in each."""
    lines = ["| prompts by entropy | nats a token | independent | maximal | ratio |", "| --- |" + " --- |" * 4]
    order = torch.tensor(nats).argsort()
    for number, rows in enumerate(order.tensor_split(min(GROUPS, len(nats))), 1):
        entropy, one, other = (fmean(values[row] for row in rows) for values in (nats, independent, maximal))
        lines.append(f"| group {number} | {entropy:.2f} | {one:.2f} | {other:.2f} | {other / one:.2f} |")
    return lines


def table(model: Family, prompts: list[str], seeds: int = 1) -> list[str]:
    """The lines of the report."""
    law = model.defaults.law
    base = DecodeSettings("maximal", WINDOWS[-1], law)
    first, second = drawn(model, prompts, base), drawn(model, prompts, replace(base, seed=1000))
    nats = entropies(model, prompts, first, base)
    same = (torch.cat(first) == torch.cat(second)).float().mean(1).tolist()
    lines = [
        f"{len(prompts)} prompts, pictures of each: {seeds}; {describe_law(law)}; means and 95 % intervals over the prompts.",
        "",
        f"- entropy: {mean_and_half_width(nats)} nats a token",
        f"- codes that two seeds of a prompt share: {mean_and_half_width([100 * share for share in same])} %",
        "",
        "| tokens per forward | " + " | ".join(f"W {window}" for window in WINDOWS) + " |",
        "| --- |" + " --- |" * len(WINDOWS),
    ]
    found = {
        (coupling, window): compressions(model, prompts, replace(base, coupling=coupling, window=window), seeds)
        for coupling in COUPLINGS
        for window in WINDOWS
    }
    for coupling in COUPLINGS:
        cells = [mean_and_half_width(found[coupling, window]) for window in WINDOWS]
        lines.append(f"| {coupling} | " + " | ".join(cells) + " |")
    ratios = [ratio_of_means(found["independent", w], found["maximal", w]) for w in WINDOWS]
    lines.append("| maximal / independent | " + " | ".join(ratios) + " |")
    widest = by_entropy(nats, found["independent", WINDOWS[-1]], found["maximal", WINDOWS[-1]])
    return [*lines, "", f"At W {WINDOWS[-1]}:", "", *widest]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--places", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="pictures a prompt")
    a = parser.parse_args()
    if a.seeds < 1:
        parser.error("--seeds must be 1 or more.")
    prompts = [*QUALITY, *unseen_pairs(Scenes.load(a.sprites, a.places))]
    print("\n".join(table(load(a.model), prompts, a.seeds)))
