"""Section: the automatic window against fixed ones and plain AR, over batch sizes."""

from __future__ import annotations

from dataclasses import replace

from ..decoding.loop import AUTO, AUTOREGRESSIVE, DecodeSettings
from ..reporting.tables import Table
from .drawing import checkpoint_law, draw, texts, warm_up
from .plan import Bench
from .stopwatch import spread

NAME, TITLE = "automatic", "automatic window"
COUPLING = "maximal"
AR = "AR"


def measure(bench: Bench) -> dict:
    """Seconds of one batch by AR, fixed windows and the automatic one, in turn; round i has prompts of its own."""
    law, rows = checkpoint_law(bench), bench.plan.rows
    methods = {AR: DecodeSettings(AUTOREGRESSIVE, 1, law)}
    methods |= {str(window): DecodeSettings(COUPLING, window, law) for window in bench.plan.auto_windows}
    methods[AUTO] = DecodeSettings(COUPLING, AUTO, law)
    batches, tokens = {}, 0
    for batch in bench.plan.batches:
        bench.tell(f"batch of {batch}")
        warm_up(bench, texts(0, batch), [method for name, method in methods.items() if name != AUTO], rows)
        first_run = draw(bench, texts(0, batch), methods[AUTO], rows=rows)  # nothing is known of this batch size yet
        seconds = {name: [] for name in methods}
        for turn in range(bench.plan.auto_repeats):
            prompts, names = texts(turn * batch, batch), list(methods)
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                decoded = draw(bench, prompts, replace(methods[name], seed=turn), rows=rows)
                seconds[name].append(decoded.seconds)
        batches[str(batch)], tokens = _summary(seconds, first_run.seconds), first_run.tokens.shape[1]
    return {"coupling": COUPLING, "tokens": tokens, "repeats": bench.plan.auto_repeats, "batches": batches}


def _summary(seconds: dict[str, list[float]], first_run: float) -> dict:
    """Slowdowns are seconds of the automatic window over those of another method for the same prompts, medians of rounds."""
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    best = min((name for name in medians if name not in (AR, AUTO)), key=lambda name: medians[name])

    def slowdown(name: str) -> float:
        return spread([auto / other for auto, other in zip(seconds[AUTO], seconds[name], strict=True)])["median"]

    return {
        "best_fixed_window": int(best),
        "against_best_fixed": slowdown(best),
        "against_autoregressive": slowdown(AR),
        "first_run_against_best_fixed": first_run / medians[best],
        "seconds": seconds,
    }


def headline(data: dict) -> dict:
    names = ("against_best_fixed", "against_autoregressive", "first_run_against_best_fixed", "best_fixed_window")
    return {
        "auto_window_slowdown": {
            batch: {name: found[name] for name in names} for batch, found in data["batches"].items()
        }
    }


def tables(data: dict) -> list[Table]:
    names = list(next(iter(data["batches"].values()))["seconds"])
    header = ["batch", *(f"W {name}" if name.isdigit() else name for name in names)]
    header += ["auto / best fixed", "its first run", "auto / AR"]
    rows = [
        [
            batch,
            *(f"{spread(found['seconds'][name])['median']:.2f}" for name in names),
            f"{found['against_best_fixed']:.2f}",
            f"{found['first_run_against_best_fixed']:.2f}",
            f"{found['against_autoregressive']:.2f}",
        ]
        for batch, found in data["batches"].items()
    ]
    note = (
        f"Seconds a batch, coupling {data['coupling']}, {data['tokens']} tokens a picture, medians of {data['repeats']} "
        "rounds; ratios are medians of each round's, but *its first run* is a single one over the median of the best fixed "
        "window. Below 1 the automatic window is the faster one. The best fixed window is one of those above, plain AR not "
        "counted. The first run of a batch size finds out the times of the windows while it draws; later runs know them."
    )
    return [Table("Automatic window", header, rows, note)]
