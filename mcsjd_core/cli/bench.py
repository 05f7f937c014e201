"""`bench`: what this pack costs and saves on this machine, in one run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .. import bench
from ..bench.machine import sentence
from ..errors import InputError
from .options import DTYPES, add_checkpoint_arguments, open_model, output_file, pick_device
from .outputs import kept_as_json
from .progress import timed_lines

NOT_MEASURED = 1  # exit code where a section could not be measured


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory on this machine",
        description="Measure, with the embedded model: every coupling over windows, the automatic window, parallel "
        "trajectories, where an iteration's time goes, transfers and memory. With random weights in the shapes of public "
        "models: forward time against the window. With a random Janus model: plain AR against transformers, where it is "
        "installed. Methods run in alternation, so that they see the same machine; nothing else should be running.",
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="write all figures and the runs they come from")
    parser.add_argument(
        "--quick", action="store_true", help="a quick look in less than a minute: few pictures, few windows"
    )
    parser.add_argument(
        "--sections",
        type=lambda text: tuple(text.split(",")),
        metavar="NAME,NAME",
        help=f"only these of {', '.join(section.NAME for section in bench.SECTIONS)}",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_checkpoint_arguments(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 0, or NOT_MEASURED."""
    if arguments.json:
        output_file(arguments.json, ".json")
    _check_sections(arguments.sections)
    began, tell = time.perf_counter(), timed_lines(arguments.quiet)
    plan = bench.QUICK if arguments.quick else bench.FULL
    model, device = open_model(arguments), pick_device(arguments.device)
    bench.check_drawable(model)
    given = bench.Bench(model, arguments.model.name, plan, device, DTYPES[arguments.dtype], tell)
    with kept_as_json(arguments.json) as keep:
        result = bench.run(given, arguments.sections, keep)
    print("\n\n".join([sentence(result["machine"]), *(table.text() for table in bench.tables(result))]))
    print(f"\n{plan.name} bench, {time.perf_counter() - began:.0f} s")
    return NOT_MEASURED if bench.failed(result) else 0


def _check_sections(names: tuple[str, ...] | None) -> None:
    known = [section.NAME for section in bench.SECTIONS]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(f"The bench has no section {unknown[0]!r}; it has {', '.join(known)}.")
