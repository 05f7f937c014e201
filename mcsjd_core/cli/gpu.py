"""`gpu`: whether everything is right on a GPU, and how fast it is there."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .. import bench
from ..bench import gpu
from ..errors import InputError
from .options import DTYPES, add_checkpoint_arguments, open_model, output_file, pick_device
from .outputs import kept_as_json
from .progress import timed_lines

WRONG = 1  # exit code where a check found something wrong, or something failed


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "gpu",
        help="check and time everything that needs a GPU",
        description="Part right: noise, couplings, seed-exact against plain AR, eager against compiled and captured iterations, "
        "transfers, memory. Part fast: forwards against the window in the shapes of public models with random weights, the "
        "loop's overhead, plain AR against transformers. A part ends after --minutes, and names what it left out.",
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="write everything that was found")
    parser.add_argument(
        "--parts",
        type=lambda text: tuple(text.split(",")),
        default=tuple(gpu.PARTS),
        metavar="PART,PART",
        help=f"of {', '.join(gpu.PARTS)} (default: all)",
    )
    parser.add_argument("--minutes", type=float, default=8.5, metavar="M", help="for each part (default: %(default)s)")
    parser.add_argument(
        "--bandwidth", type=float, metavar="GB/S", help="the card's memory bandwidth, for the share of its limit"
    )
    parser.add_argument("--quick", action="store_true", help="few pictures and windows, two layers of every shape")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_checkpoint_arguments(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 0, or WRONG."""
    if arguments.json:
        output_file(arguments.json, ".json")
    for name in arguments.parts:
        if name not in gpu.PARTS:
            raise InputError(f"There is no part {name!r}; there are {', '.join(gpu.PARTS)}.")
    day = _day(arguments, timed_lines(arguments.quiet))
    with kept_as_json(arguments.json) as keep:
        result = gpu.run(day, arguments.parts, keep)
    print(text_of(result))
    checks = result.get("right", {}).get("checks", {})
    failed = [what for part in gpu.PARTS for what in result.get(part, {}).get("failed", ())]
    return WRONG if failed or any(found["ok"] is False for found in checks.values()) else 0


def _day(arguments: argparse.Namespace, tell) -> gpu.Day:
    model, device = open_model(arguments), pick_device(arguments.device)
    bench.check_drawable(model)
    day = gpu.Day(
        model, arguments.model.name, device, bench.QUICK if arguments.quick else bench.FULL,
        seconds=60 * arguments.minutes, peak=None if arguments.bandwidth is None else 1e9 * arguments.bandwidth, tell=tell,
    )  # fmt: skip
    if not day.on_gpu:
        tell("no CUDA device: this is a rehearsal, and its times mean nothing")
        day = replace(day, dtype=DTYPES[arguments.dtype], executions=("eager",), plan=bench.QUICK)
    return replace(day, layers=2, seeds=4, windows=(1, 16)) if arguments.quick else day


def text_of(result: dict) -> str:
    """What people read: the checks, then the times of a forward of one token and of the widest window."""
    lines = ["rehearsal on a CPU: the times mean nothing"] if result["rehearsal"] else []
    signs = {True: "right", False: "WRONG", None: "not here"}
    for name, found in result.get("right", {}).get("checks", {}).items():
        lines.append(f"{signs[found['ok']]:9} {name}")
    for name, weights in result.get("fast", {}).get("shapes", {}).items():
        for held, found in weights.items():
            lines += [f"{name}, {held}: {_times(found)}"]
    for part in gpu.PARTS:
        lines += [f"failed in {part}: {what}: {why}" for what, why in result.get(part, {}).get("failed", {}).items()]
        lines += [f"left out of {part}: {what}" for what in result.get(part, {}).get("left_out", ())]
    return "\n".join(lines)


def _times(found: dict) -> str:
    if "best" not in found:
        return found.get("why_not", "no execution ran")
    times = found["seconds"][found["best"]]
    layers, of = found["layers"]
    timed = found["best"] if layers == of else f"{found['best']}, {layers} of {of} layers"
    return timed + "".join(f", W {window} {1000 * t['median']:.2f} ms" for window, t in times.items())
