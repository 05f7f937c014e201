"""Section: step compression of the seed-exact coupling by the number of draft trajectories."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean

from ..decoding.loop import DecodeSettings
from ..laws.law import LawSettings
from ..reporting.tables import Table
from .drawing import draw, texts
from .plan import Bench

NAME, TITLE = "trajectories", "parallel trajectories"
COUPLING = "gumbel_exact"
LAWS = {"plain": LawSettings(), "guidance 3, top-k 100": LawSettings(cfg_scale=3.0, top_k=100)}


def measure(bench: Bench) -> dict:
    """The same prompts for every number, one picture at a time; prompt i has seed i."""
    plan, laws = bench.plan, {}
    for label, law in LAWS.items():
        counts = {}
        for count in plan.trajectories:
            bench.tell(f"{label}, {count} trajectories")
            counts[str(count)] = [_nfe(bench, number, count, law) for number in range(plan.trajectory_prompts)]
        laws[label] = {"law": asdict(law), "runs": counts}
    return {
        "coupling": COUPLING,
        "window": plan.trajectory_window,
        "prompts": plan.trajectory_prompts,
        "laws": laws,
    }


def _nfe(bench: Bench, number: int, count: int, law: LawSettings) -> dict:
    plan = bench.plan
    settings = DecodeSettings(COUPLING, plan.trajectory_window, law, seed=number, trajectories=count)
    decoded = draw(bench, texts(number, 1), settings, rows=plan.rows)
    return {"tokens": decoded.traces[0].num_tokens, "nfe": decoded.nfe}


def headline(data: dict) -> dict:
    return {
        "trajectories": {
            label: {count: compression(runs) for count, runs in found["runs"].items()}
            for label, found in data["laws"].items()
        }
    }


def compression(runs: list[dict]) -> float:
    return fmean(run["tokens"] / run["nfe"] for run in runs)


def tables(data: dict) -> list[Table]:
    found = headline(data)["trajectories"]
    counts = list(next(iter(found.values())))
    rows = [
        [label, *(f"{values[count]:.2f} (x {values[count] / values[counts[0]]:.2f})" for count in counts)]
        for label, values in found.items()
    ]
    tokens = next(iter(next(iter(data["laws"].values()))["runs"].values()))[0]["tokens"]
    prompts = f"{data['prompts']} prompt{'s' if data['prompts'] > 1 else ''}"
    note = (
        f"Step compression and its gain, coupling {data['coupling']}, W {data['window']}, {tokens} tokens, mean of {prompts}. "
        "A forward goes over M windows."
    )
    return [Table("Parallel trajectories", ["law", *(f"M = {count}" for count in counts)], rows, note)]
