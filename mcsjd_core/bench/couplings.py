"""Section: forwards, seconds and speed-up of every coupling over windows, one picture at a time."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import fmean

from ..decoding.loop import AUTO, AUTOREGRESSIVE, DecodeSettings
from ..laws.coupling import COUPLINGS
from ..laws.law import LawSettings
from ..reporting.report import METHOD_LABELS, describe_law
from ..reporting.tables import Table, mean_and_half_width
from .drawing import checkpoint_law, draw, entropies, texts, warm_up
from .plan import Bench
from .stopwatch import spread

NAME, TITLE = "couplings", "couplings over windows"
EXACT = "gumbel_exact"
ADAPTED = ("maximal", EXACT)  # couplings that are run with the automatic window
AR = (AUTOREGRESSIVE, "1")


def methods(bench: Bench) -> list[DecodeSettings]:
    """Plain AR, every coupling at every window, and the automatic window with some."""
    law = checkpoint_law(bench)
    fixed = [DecodeSettings(coupling, window, law) for window in bench.plan.windows for coupling in COUPLINGS]
    return [DecodeSettings(AUTOREGRESSIVE, 1, law), *fixed, *(DecodeSettings(name, AUTO, law) for name in ADAPTED)]


def measure(bench: Bench) -> dict:
    """Every prompt with every method, in turn; prompt i has seed i."""
    settings, runs, nats = methods(bench), [], []
    warm_up(bench, texts(0, 1), settings)
    bench.tell(f"{len(settings)} methods")
    for number in range(bench.plan.prompts):
        prompt = texts(number, 1)
        bench.tell(f"{prompt[0]} ({number + 1} of {bench.plan.prompts})")
        first = number % len(settings)  # no method always comes first
        tokens = {}
        for method in settings[first:] + settings[:first]:
            decoded = draw(bench, prompt, replace(method, seed=number), rows=bench.plan.rows)
            runs.append(_record(method, number, decoded))
            tokens[method.coupling, method.window_name] = decoded.tokens
        for run in runs[-len(settings) :]:
            run["same_tokens_as_autoregressive"] = bool((tokens[_key(run)] == tokens[AR]).all())
        nats += entropies(bench, prompt, replace(settings[0], seed=number), tokens[AR])
    summary = [_summary(runs, (method.coupling, method.window_name)) for method in settings]
    return {
        "model": bench.model_name,
        "prompts": bench.plan.prompts,
        "tokens": runs[0]["tokens"],
        "law": asdict(settings[0].law),
        "initialiser": settings[0].initialiser,
        "entropy_nats": fmean(nats),
        "entropies_nats": nats,
        "methods": summary,
        "runs": runs,
    }


def _record(settings: DecodeSettings, number: int, decoded) -> dict:
    trace = decoded.traces[0]
    return {
        "coupling": settings.coupling,
        "window": settings.window_name,
        "prompt": number,
        "tokens": trace.num_tokens,
        "nfe": trace.nfe,
        "seconds": decoded.seconds,
    }


def _key(run: dict) -> tuple[str, str]:
    return run["coupling"], run["window"]


def _summary(runs: list[dict], key: tuple[str, str]) -> dict:
    """One method over all prompts; a speed-up is AR's seconds for the same prompt over the method's."""
    own = sorted((run for run in runs if _key(run) == key), key=lambda run: run["prompt"])
    reference = sorted((run for run in runs if _key(run) == AR), key=lambda run: run["prompt"])
    speedups = [slow["seconds"] / run["seconds"] for slow, run in zip(reference, own, strict=True)]
    return {
        "coupling": key[0],
        "window": key[1],
        "nfe": fmean(run["nfe"] for run in own),
        "step_compression": fmean(run["tokens"] / run["nfe"] for run in own),
        "step_compressions": [run["tokens"] / run["nfe"] for run in own],
        "seconds": spread([run["seconds"] for run in own]),
        "speedup": spread(speedups),
        "same_tokens_as_autoregressive": sum(run["same_tokens_as_autoregressive"] for run in own),
    }


def headline(data: dict) -> dict:
    found: dict[str, dict] = {"step_compression": {}, "speedup": {}}
    for method in data["methods"]:
        coupling, window = method["coupling"], method["window"]
        found["step_compression"].setdefault(coupling, {})[window] = method["step_compression"]
        found["speedup"].setdefault(coupling, {})[window] = method["speedup"]["median"]
    return found


def tables(data: dict) -> list[Table]:
    header = ["method", "W", "step compression", "NFE", "seconds", "speed relative to AR"]
    rows = [
        [
            METHOD_LABELS[method["coupling"]],
            method["window"],
            mean_and_half_width(method.get("step_compressions", [method["step_compression"]])),
            f"{method['nfe']:.1f}",
            _range(method["seconds"]),
            _range(method["speedup"]),
        ]
        for method in data["methods"]
    ]
    law = describe_law(LawSettings(**data["law"]))
    exact = [method for method in data["methods"] if method["coupling"] == EXACT]
    same, drawn = sum(method["same_tokens_as_autoregressive"] for method in exact), data["prompts"] * len(exact)
    note = (
        f"{data['model']}, {data['tokens']} tokens, {data['prompts']} prompts one at a time, {law}, "
        f"{data['initialiser']} first drafts. Step "
        "compression is the mean of the pictures' own ± half the width of its 95 % interval; as a mean of ratios, it is above "
        f"{data['tokens']} divided by the mean NFE. NFE is a mean, seconds and factors are medians with the quartiles over the "
        "prompts. Entropy of the target law: "
        f"{mean_and_half_width(data.get('entropies_nats', [data['entropy_nats']]))} nats per token. "
        f"Seed-exact pictures equal to AR's: {same} of {drawn}, one for each prompt and window."
    )
    return [Table("One picture at a time", header, rows, note)]


def _range(values: dict) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f} to {values['high']:.2f})"
