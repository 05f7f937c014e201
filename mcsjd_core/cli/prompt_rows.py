"""`generate --prompts FILE`: a picture for every row of a file, into one folder."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..scale import plain, ray_engine
from ..scale.job import Job
from ..scale.output import Output, Record
from ..scale.prompt_file import COLUMNS, digest, survey
from .options import LAW_FIELDS, pick_device
from .progress import picture_bar
from .threads import leave_busy_cores_alone

ENGINES = ("plain", "ray")
SOME_FAILED = 1  # exit code: all rows were tried, and some of them could not be drawn
ONE_RUN = {
    "prompts": "PROMPT", "trace": "--trace", "trace_detail": "--trace-detail", "save_tokens": "--save-tokens",
    "continue_from": "--continue-from", "keep_rows": "--keep-rows", "start_frames": "--start-frames", "frames": "--frames",
    "warm_tokens": "--warm-tokens",
}  # fmt: skip
OF_A_FILE = {
    "rows": 1,
    "retry": False,
    "engine": "plain",
    "address": None,
    "workers": None,
    "gpus": None,
}  # options that mean nothing without a file, and their defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many pictures", "from a file of prompts; see docs/scale.md")
    group.add_argument(
        "--prompts",
        dest="prompt_file",
        type=Path,
        metavar="FILE",
        help=f"a picture for every row of a .txt, .csv, .tsv, .jsonl or .parquet file (columns {', '.join(COLUMNS)}); --out is "
        "then a folder, and running the same command again resumes a run that was stopped",
    )
    group.add_argument(
        "--rows", type=int, default=1, metavar="N", help="pictures drawn side by side (default: %(default)s)"
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="plain",
        help="plain: this process; ray: workers of a Ray cluster, which needs the package ray (default: %(default)s)",
    )
    group.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster (default: one is made on this machine)"
    )
    group.add_argument("--workers", metavar="N", help="how many hold the model, such as 4, or 2-8 (default: 1)")
    group.add_argument("--gpus", type=float, metavar="G", help="of each worker (default: 1 with --device cuda, else 0)")
    group.add_argument("--retry", action="store_true", help="try rows again that failed before")


def given(value: object) -> bool:
    """Whether an option was given: 0 counts as a value."""
    return value is not None and value is not False and value != []


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    if arguments.prompt_file is None:
        if not arguments.prompts:
            raise InputError("Nothing to draw: give a prompt, or a file of prompts with --prompts.")
        for name, default in OF_A_FILE.items():
            if getattr(arguments, name) != default:
                raise InputError(f"--{name} goes with a file of prompts; name one with --prompts.")
        return
    for name, shown in ONE_RUN.items():
        if given(getattr(arguments, name)):
            raise InputError(f"{shown} does not work with a file of prompts; leave out one of them.")
    if arguments.initialiser == "warm":
        raise InputError("The warm initialiser starts from one earlier result; choose another for a file of prompts.")
    if arguments.batch != 1:
        raise InputError("--batch draws a prompt several times; in a file, give every picture a row and a seed.")
    if arguments.engine == "plain" and (arguments.address or arguments.workers or arguments.gpus is not None):
        raise InputError("--address, --workers and --gpus are for workers of Ray; add --engine ray.")
    if arguments.address is not None and arguments.device == "auto":
        raise InputError(
            "With --address, give --device cuda or cpu: what this machine has need not be what the cluster has."
        )
    if arguments.gpus is not None and not 0 <= arguments.gpus < math.inf:
        raise InputError(f"--gpus must be a number of at least 0, got {arguments.gpus:g}.")
    if arguments.out is None:
        raise InputError("A file of prompts needs a folder for its pictures; name one with --out.")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"{arguments.out} is a file; name a folder with --out.")


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 0, or SOME_FAILED. `check` has passed."""
    job, file, output = _job(arguments), arguments.prompt_file, Output(arguments.out)
    total, unread = survey(file)
    if unread:
        print(f"{file} has columns that are not read: {', '.join(unread)}.", file=sys.stderr)
    if job.device == "cpu":
        leave_busy_cores_alone()
    agreed = {"prompts": digest(file), **job.kept()}
    try:
        with output.taken(agreed, again=arguments.retry):
            done = sum(1 for _ in output.records())
            with picture_bar(total, done, arguments.quiet) as bar:
                _draw(arguments, job, file, output, _teller(bar))
    except OSError as error:
        raise InputError(
            f"{arguments.out} cannot be written to ({error.strerror or error}); fix that and run the same command again to "
            "resume."
        ) from None
    except KeyboardInterrupt:
        print("Run the same command again to resume.", file=sys.stderr)
        raise
    return _report(output)


def _draw(
    arguments: argparse.Namespace, job: Job, file: Path, output: Output, on_record: Callable[[Record], None]
) -> None:
    """With the engine that was asked for."""
    if arguments.engine == "plain":
        plain.run(job, file, output, on_record)
        return
    gpus = arguments.gpus
    if gpus is None:
        gpus = 0 if job.device == "cpu" else 1
    workers = ray_engine.Workers.of_text(arguments.workers or "1", gpus)
    with ray_engine.connected(arguments.address, workers):
        ray_engine.run(job, file, output, on_record, workers)


def _job(arguments: argparse.Namespace) -> Job:
    return Job(
        arguments.model,
        dtype=arguments.dtype,
        device=pick_device(arguments.device),
        weights=arguments.weights,
        coupling=arguments.coupling,
        window=arguments.window,
        initialiser=arguments.initialiser or "random",
        trajectories=arguments.trajectories,
        execution=arguments.execution,
        law={field: getattr(arguments, option) for option, field in LAW_FIELDS.items()},
        seed=arguments.seed,
        size=arguments.size,
        negative=arguments.negative,
        rows=arguments.rows,
    )


def _teller(bar) -> Callable[[Record], None]:
    failed = 0

    def tell(record: Record) -> None:
        nonlocal failed
        failed += bool(record["error"])
        bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
        bar.update()

    return tell


def _report(output: Output) -> int:
    drawn = failed = 0
    first = None
    for record in output.records():
        drawn, failed = drawn + (not record["error"]), failed + bool(record["error"])
        first = first or (record if record["error"] else None)
    print(f"{drawn} pictures in {output.folder}, {failed} rows failed; records in {output.records_file}")
    if first is None:
        return 0
    print(f"The first failed row is {first['row']}: {first['error']}", file=sys.stderr)
    return SOME_FAILED
