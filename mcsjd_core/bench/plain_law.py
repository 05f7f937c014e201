"""Section: step compression of every coupling where tokens are uncertain, at temperature 1 without guidance or truncation.

A law that is all but certain treats every coupling alike: no draft flickers. Here they part.
"""

from __future__ import annotations

from statistics import fmean

from ..decoding.loop import DecodeSettings
from ..laws.coupling import COUPLINGS
from ..laws.law import LawSettings
from ..reporting.report import METHOD_LABELS
from ..reporting.tables import Table, mean_and_error
from .drawing import draw, entropies, texts
from .plan import Bench

NAME, TITLE = "plain_law", "couplings where tokens are uncertain"
EXACT = "gumbel_exact"  # the coupling whose tokens are plain AR's


def measure(bench: Bench) -> dict:
    """All pictures of a method are one batch, the same prompts and seeds for all of them."""
    plan, law = bench.plan, LawSettings()
    prompts, compressions, tokens = texts(0, plan.plain_pictures), {}, {}
    for coupling in COUPLINGS:
        for window in plan.windows:
            bench.tell(f"{coupling}, W {window}")
            decoded = draw(bench, prompts, DecodeSettings(coupling, window, law), rows=plan.rows)
            compressions.setdefault(coupling, {})[str(window)] = [trace.step_compression for trace in decoded.traces]
            tokens[coupling] = decoded.tokens
    pictures = {"model": bench.model_name, "pictures": plan.plain_pictures, "tokens": tokens[EXACT].shape[1]}
    nats = entropies(bench, prompts, DecodeSettings(EXACT, law=law), tokens[EXACT])
    return pictures | {"entropies_nats": nats, "step_compressions": compressions}


def headline(data: dict) -> dict:
    means = {
        coupling: {window: fmean(values) for window, values in windows.items()}
        for coupling, windows in data["step_compressions"].items()
    }
    return {"plain_law_step_compression": means}


def tables(data: dict) -> list[Table]:
    found = data["step_compressions"]
    header = ["method", *(f"W {window}" for window in next(iter(found.values())))]
    rows = [[METHOD_LABELS[coupling], *map(mean_and_error, windows.values())] for coupling, windows in found.items()]
    note = (
        f"Step compression, {data['model']}, {data['pictures']} pictures of {data['tokens']} tokens at temperature 1 without "
        "guidance or truncation: mean and its standard error. Entropy of the target law "
        f"{_entropy(data)} nats per token."
    )
    return [Table("Where tokens are uncertain", header, rows, note)]


def _entropy(data: dict) -> str:
    """Mean over the pictures, with its error; records of before have that of the first picture alone."""
    if "entropies_nats" in data:
        return f"over the pictures: {mean_and_error(data['entropies_nats'])}"
    return f"in the first picture: {data['entropy_nats']:.2f}"
