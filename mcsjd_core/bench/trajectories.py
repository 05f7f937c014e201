"""Section: step compression by the number of draft trajectories, of the default coupling and of the seed-exact one."""

from __future__ import annotations

from statistics import fmean

from ..decoding.loop import DecodeSettings
from ..reporting.tables import Table
from .drawing import checkpoint_law, draw, texts
from .plan import Bench

NAME, TITLE = "trajectories", "parallel trajectories"
COUPLINGS = ("maximal", "gumbel_exact")


def measure(bench: Bench) -> dict:
    """The same prompts for every number, one picture at a time at the checkpoint's own settings; prompt i has seed i."""
    plan, couplings = bench.plan, {}
    for coupling in COUPLINGS:
        counts = {}
        for count in plan.trajectories:
            bench.tell(f"{coupling}, {count} trajectories")
            counts[str(count)] = [_nfe(bench, number, count, coupling) for number in range(plan.trajectory_prompts)]
        couplings[coupling] = counts
    return {"window": plan.trajectory_window, "prompts": plan.trajectory_prompts, "couplings": couplings}


def _nfe(bench: Bench, number: int, count: int, coupling: str) -> dict:
    plan, law = bench.plan, checkpoint_law(bench)
    settings = DecodeSettings(coupling, plan.trajectory_window, law, seed=number, trajectories=count)
    decoded = draw(bench, texts(number, 1), settings, rows=plan.rows)
    return {"tokens": decoded.traces[0].num_tokens, "nfe": decoded.nfe}


def headline(data: dict) -> dict:
    return {
        "trajectories": {
            coupling: {count: compression(runs) for count, runs in counts.items()}
            for coupling, counts in data["couplings"].items()
        }
    }


def compression(runs: list[dict]) -> float:
    return fmean(run["tokens"] / run["nfe"] for run in runs)


def tables(data: dict) -> list[Table]:
    """Step compression and its paired gain over one trajectory."""
    counts = list(next(iter(data["couplings"].values())))
    rows = [
        [coupling, *(f"{compression(runs[count]):.2f} (x {_gain(runs, count):.2f})" for count in counts)]
        for coupling, runs in data["couplings"].items()
    ]
    tokens = next(iter(next(iter(data["couplings"].values())).values()))[0]["tokens"]
    prompts = f"{data['prompts']} prompt{'s' if data['prompts'] > 1 else ''}"
    note = (
        f"Step compression, and the mean of its gain picture by picture; W {data['window']}, {tokens} tokens, {prompts}. "
        "A forward goes over M windows."
    )
    return [Table("Parallel trajectories", ["coupling", *(f"M = {count}" for count in counts)], rows, note)]


def _gain(runs: dict[str, list[dict]], count: str) -> float:
    """Mean of NFE with one trajectory over NFE with `count`, picture by picture."""
    one = next(iter(runs.values()))
    return fmean(a["nfe"] / b["nfe"] for a, b in zip(one, runs[count], strict=True))
