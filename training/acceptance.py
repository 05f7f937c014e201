"""Measure whether the embedded image model shows what it is there to show: uncertainty, variety, couplings apart.

    python -m training.acceptance --model embedded/scenes --sprites build/sprites.npz --places build/places.npz

32 prompts (24 of trained pairs of thing and place, 8 of held-out ones), one picture each, at the checkpoint's own settings.
Prints a Markdown table: means over the prompts and their 95 % intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
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


def batches(prompts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(prompts), BATCH):
        yield prompts[start : start + BATCH]


def compressions(model: Family, prompts: list[str], settings: DecodeSettings) -> list[float]:
    """Tokens per forward of every prompt's picture."""
    traces = [trace for some in batches(prompts) for trace in sample(model, some, settings).traces]
    return [trace.num_tokens / trace.nfe for trace in traces]


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


def table(model: Family, prompts: list[str]) -> list[str]:
    """The lines of the report."""
    law = model.defaults.law
    base = DecodeSettings("maximal", WINDOWS[-1], law)
    first, second = drawn(model, prompts, base), drawn(model, prompts, replace(base, seed=1000))
    same = (torch.cat(first) == torch.cat(second)).float().mean(1).tolist()
    lines = [
        f"{len(prompts)} prompts, {describe_law(law)}; means and 95 % intervals over the prompts.",
        "",
        f"- entropy: {mean_and_half_width(entropies(model, prompts, first, base))} nats a token",
        f"- codes that two seeds of a prompt share: {mean_and_half_width([100 * share for share in same])} %",
        "",
        "| tokens per forward | " + " | ".join(f"W {window}" for window in WINDOWS) + " |",
        "| --- |" + " --- |" * len(WINDOWS),
    ]
    found = {
        (coupling, window): compressions(model, prompts, replace(base, coupling=coupling, window=window))
        for coupling in COUPLINGS
        for window in WINDOWS
    }
    for coupling in COUPLINGS:
        cells = [mean_and_half_width(found[coupling, window]) for window in WINDOWS]
        lines.append(f"| {coupling} | " + " | ".join(cells) + " |")
    ratios = [fmean(found["maximal", w]) / fmean(found["independent", w]) for w in WINDOWS]
    return [*lines, "| maximal / independent | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--places", type=Path, required=True)
    a = parser.parse_args()
    prompts = [*QUALITY, *unseen_pairs(Scenes.load(a.sprites, a.places))]
    print("\n".join(table(load(a.model), prompts)))
