"""`compare`: the same prompts and seeds with every method, as a contact sheet, a table and records."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

from torch import Tensor

from ..bench.drawing import a_few_forwards
from ..decoding.loop import AUTO, AUTOREGRESSIVE, Decoded, DecodeSettings
from ..errors import InputError
from ..families.interface import Family, SamplingDefaults
from ..families.sizes import choose_size
from ..laws.coupling import COUPLINGS
from ..pipeline.image_files import to_image
from ..pipeline.sampling import Drawing, pictures, sample
from ..reporting.entropy import picture_entropies
from ..reporting.intervals import FEWEST, Interval, mean_interval
from ..reporting.report import METHOD_LABELS, describe_law
from ..reporting.sheet import Cell, Row, draw_sheet
from ..reporting.tables import aligned, mean_and_half_width
from .memory import check_memory
from .options import (
    COLD_INITIALISERS,
    add_initialiser_argument,
    add_law_arguments,
    add_model_arguments,
    law_settings,
    open_model,
    output_file,
    pick_device,
    window_width,
)
from .outputs import write_text, write_whole
from .progress import advance, token_bar

EXACT = "gumbel_exact"


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "compare",
        help="draw the same pictures with every method and measure",
        description="Draw every prompt with plain autoregressive sampling, SJD, MC-SJD (maximal and Gumbel coupling) and the "
        "seed-exact coupling. Writes one contact sheet and prints the means. Seconds are those of one run each in one process, "
        "including prefill but not the decoding of pictures.",
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw")
    parser.add_argument(
        "--out", type=Path, default=Path("compare.png"), metavar="PNG", help="contact sheet (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds",
        type=_whole_numbers,
        default=[0],
        metavar="S,S",
        help="draw every prompt with each of them (default: 0)",
    )
    parser.add_argument(
        "--windows",
        type=_windows,
        metavar="W,W",
        help="window sizes, auto among them (default: the checkpoint's own)",
    )
    add_initialiser_argument(parser, COLD_INITIALISERS, "random")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="JSON",
        help="write a list with one record for every run; tokens_sha256 is that of the tokens as little-endian "
        "64-bit integers",
    )
    parser.add_argument(
        "--entropy", action="store_true", help="measure the target law's mean entropy per token as well"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_law_arguments(parser)
    add_model_arguments(parser)
    return parser


def _whole_numbers(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers separated by commas are expected, got {text!r}") from None


def _windows(text: str) -> list[int | str]:
    return list(dict.fromkeys(window_width(part) for part in text.split(",")))


@dataclass(frozen=True)
class Outcome:
    """One picture by one method: its record for --json, and tokens [1, num_tokens]."""

    record: dict
    tokens: Tensor


def run(arguments: argparse.Namespace) -> None:
    output_file(arguments.out, ".png")
    if arguments.json:
        output_file(arguments.json, ".json")
    _methods(arguments, SamplingDefaults())  # refuses what no checkpoint's defaults could correct
    model = open_model(arguments)
    if not (model.clip.is_picture and model.clip.has_pixels):
        raise InputError(
            "compare shows pictures, and this model draws none; use generate with one --coupling after another."
        )
    methods = _methods(arguments, model.defaults)
    cases = list(product(arguments.prompts, arguments.seeds))
    _check(model, arguments, methods)
    _warm_up(model, arguments, methods)
    with token_bar(len(cases) * len(methods) * model.grid(arguments.size).num_tokens, arguments.quiet) as bar:
        rows = [[_draw(model, arguments, case, settings, bar) for settings in methods] for case in cases]
    for outcomes in rows:
        _mark_same(outcomes)
        if arguments.entropy:
            _measure_entropy(model, arguments, outcomes[0], methods[0])
    print(_summary(methods, rows))
    if arguments.json:
        records = [outcome.record for outcomes in rows for outcome in outcomes]
        write_text(arguments.json, json.dumps(records, indent=1) + "\n")
    write_whole(arguments.out, _sheet(model, arguments, methods, rows).save)  # last: its codec may yet fail


def _check(model: Family, arguments: argparse.Namespace, methods: list[DecodeSettings]) -> None:
    """Refuse what cannot be drawn before anything is, and tell of words that mean nothing to the model."""
    notes: dict[str, None] = {}
    for prompt, settings in product(arguments.prompts, methods):
        drawing = Drawing.of(model, [prompt], settings, size=arguments.size, negatives=[arguments.negative])
        check_memory(drawing, pick_device(arguments.device))
        if drawing.note:
            notes[drawing.note] = None
    for note in notes:
        print(note, file=sys.stderr)


def _methods(arguments: argparse.Namespace, defaults: SamplingDefaults) -> list[DecodeSettings]:
    """Plain AR, then every coupling at every window; seeds are put in later."""
    windows = arguments.windows or [defaults.window]
    law, execution = law_settings(arguments, defaults.law), arguments.execution
    base = DecodeSettings(AUTOREGRESSIVE, 1, law, arguments.initialiser, execution=execution)
    for seed in arguments.seeds:
        replace(base, seed=seed)  # refuses a bad one before the first forward
    return [base, *(replace(base, coupling=name, window=window) for window in windows for name in COUPLINGS)]


def _warm_up(model: Family, arguments: argparse.Namespace, methods: list[DecodeSettings]) -> None:
    for settings in methods:
        a_few_forwards(
            lambda stop, settings=settings: sample(
                model, arguments.prompts[:1], settings, size=arguments.size, on_step=stop
            )
        )


def _draw(
    model: Family, arguments: argparse.Namespace, case: tuple[str, int], settings: DecodeSettings, bar
) -> Outcome:
    prompt, seed = case
    settings = replace(settings, seed=seed)
    bar.set_description(settings.coupling)
    decoded = sample(
        model, [prompt], settings, size=arguments.size, negatives=[arguments.negative], on_step=advance(bar)
    )
    return Outcome(_record(model, arguments, prompt, settings, decoded), decoded.tokens)


def _record(
    model: Family, arguments: argparse.Namespace, prompt: str, settings: DecodeSettings, decoded: Decoded
) -> dict:
    trace = decoded.traces[0]
    return {
        "coupling": settings.coupling,
        "window": AUTO if settings.adapts else settings.effective_window,
        "seed": settings.seed,
        "prompt": prompt,
        "num_tokens": trace.num_tokens,
        "nfe": trace.nfe,
        "step_compression": trace.step_compression,
        "seconds": decoded.seconds,
        "tokens_sha256": hashlib.sha256(decoded.tokens[0].cpu().numpy().astype("<i8").tobytes()).hexdigest(),
        "device": str(decoded.tokens.device),
        "dtype": arguments.dtype,
        "weights": arguments.weights,
        "model": arguments.model.name,
        "negative": arguments.negative * settings.law.guided,
        "initialiser": settings.initialiser,
        "size": choose_size(arguments.size, model.sizes),
        "execution": settings.execution,
        **asdict(settings.law),
    }


def _mark_same(outcomes: list[Outcome]) -> None:
    """Note in every record whether its tokens are plain AR's, the first outcome's."""
    reference = outcomes[0].tokens
    for outcome in outcomes:
        outcome.record["same_tokens_as_autoregressive"] = bool((outcome.tokens == reference).all())


def _measure_entropy(
    model: Family, arguments: argparse.Namespace, reference: Outcome, settings: DecodeSettings
) -> None:
    """Note in the record of a plain AR run how unsure the model was of its tokens."""
    record = reference.record

    def replay(settings: DecodeSettings) -> Decoded:
        return sample(
            model,
            [record["prompt"]],
            settings,
            size=arguments.size,
            negatives=[arguments.negative],
            earlier_tokens=reference.tokens,
        )

    own = replace(settings, seed=record["seed"])
    (record["entropy_nats"],) = picture_entropies(replay, own, model.grid(arguments.size))


def _sheet(model: Family, arguments: argparse.Namespace, methods: list[DecodeSettings], rows: list[list[Outcome]]):
    """The contact sheet: a row for every prompt and seed, a column for every method."""
    record = rows[0][0].record
    several = len({settings.window for settings in methods[1:]}) > 1
    details = [arguments.model.name, describe_law(methods[0].law), f"{record['dtype']} on {record['device']}"]
    if not several:
        details.insert(1, f"window {methods[1].window}")
    return draw_sheet(
        "One model, one seed, every method",
        " · ".join(details),
        [
            Row(
                f"{outcomes[0].record['prompt']}  ·  seed {outcomes[0].record['seed']}",
                list(_cells(model, arguments.size, outcomes, several)),
            )
            for outcomes in rows
        ],
        "x = step compression, tokens per forward;  NFE = forwards after the prompt's;  s = seconds of one run",
    )


def _cells(model: Family, size: str | None, outcomes: list[Outcome], name_window: bool) -> Iterator[Cell]:
    for outcome in outcomes:
        record = outcome.record
        name = METHOD_LABELS[record["coupling"]]
        if name_window and record["coupling"] != AUTOREGRESSIVE:
            name += f", W {record['window']}"
        figures = f"{record['nfe']} NFE  ·  {record['seconds']:.2f} s"
        same = record["same_tokens_as_autoregressive"] if record["coupling"] == EXACT else None
        yield Cell(
            to_image(pictures(model, outcome.tokens, size)[0]),
            name,
            f"{record['step_compression']:.2f}x",
            figures,
            same,
        )


def _summary(methods: list[DecodeSettings], rows: list[list[Outcome]]) -> str:
    """The means over all prompts and seeds as a table, and a sentence on what they are means of."""
    header = ["method", "window", "step compression", "NFE", "seconds", "times faster", "verdict", "same tokens as AR"]
    columns = [[row[i].record for row in rows] for i in range(len(methods))]
    lines = [_summary_row(records, columns[0]) for records in columns]
    law = describe_law(methods[0].law)
    text = aligned(header, lines, left=(0, -1))
    means = f"Means of {len(rows)} pictures per method" if len(rows) > 1 else "One picture per method"
    means += (
        ", with 95 % intervals" if len(rows) >= FEWEST else f"; from {FEWEST} on (--seeds 0,1,2) with 95 % intervals"
    )
    text += (
        f"\n{means}; {law}; initialiser {methods[0].initialiser}. Pictures that differ from AR's follow the same law."
    )
    entropies = [record["entropy_nats"] for record in columns[0] if "entropy_nats" in record]
    if entropies:
        text += f"\nMean entropy of the target law: {mean_and_half_width(entropies, 3)} nats per token."
    return text


def _summary_row(records: list[dict], reference: list[dict]) -> list[str]:
    def mean(key: str) -> float:
        return fmean(record[key] for record in records)

    first = [METHOD_LABELS[records[0]["coupling"]], str(records[0]["window"])]
    costs = [_range(_interval([record["step_compression"] for record in records]))]
    costs += [f"{mean('nfe'):.1f}", f"{mean('seconds'):.2f}"]
    if records is reference:
        return [*first, *costs, "1.00", "", ""]
    # Pictures are compared one by one: an easy one is quick for both.
    pairs = zip(reference, records, strict=True)
    faster = _interval([math.log(slow["seconds"] / record["seconds"]) for slow, record in pairs])
    factor = Interval(*(math.exp(value) for value in faster))
    same = sum(record["same_tokens_as_autoregressive"] for record in records)
    return [*first, *costs, _range(factor), _verdict(factor), f"{same} of {len(records)}"]


def _interval(values: list[float]) -> Interval:
    """The mean with its interval; without bounds where so few values tell next to nothing of their spread."""
    return mean_interval(values) if len(values) >= FEWEST else Interval(fmean(values), math.nan, math.nan)


def _range(interval: Interval) -> str:
    bounds = "" if math.isnan(interval.low) else f" ({interval.low:.2f} to {interval.high:.2f})"
    return f"{interval.mean:.2f}{bounds}"


def _verdict(factor: Interval) -> str:
    """What the 95 % interval of a speed-up allows to say."""
    if math.isnan(factor.low):
        return "too few pictures"
    if factor.low > 1:
        return "faster here"
    return "AR faster here" if factor.high < 1 else "no difference shown"
