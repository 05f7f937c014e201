"""What prompt files cost beside drawing, and how far workers help: the figures of docs/scale.md.

    python scripts/measure_scale.py overhead        the engines against the bare loop, one worker, embedded model
    python scripts/measure_scale.py speedup         two workers of Ray against one, embedded model
    python scripts/measure_scale.py processes       the same with two processes and no Ray: what the machine itself gives
    python scripts/measure_scale.py waiting --workers 8,64 --seconds 4 --prompts 1000
                                                    workers that wait as long as a picture takes, in place of drawing it
    python scripts/measure_scale.py communication   bytes and time of a forward's collectives, computed from published bandwidths

overhead compares shares of the same seconds, and can be believed on a machine that does something else, too; speedup and
processes need two cores of their own. waiting measures Ray alone, and what its own processes compute is little.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, pictures, sample, to_image  # noqa: E402
from mcsjd_core.reporting.intervals import FEWEST, mean_interval  # noqa: E402
from mcsjd_core.scale import ray_engine  # noqa: E402
from mcsjd_core.scale.drawer import Drawer  # noqa: E402
from mcsjd_core.scale.job import Job  # noqa: E402
from mcsjd_core.scale.output import Output  # noqa: E402
from mcsjd_core.scale.prompt_file import read_rows  # noqa: E402

THINGS, PLACES = ("a red apple", "a car", "a fox", "a tree"), ("on grass", "on sand", "in the sea")
AT_ONCE = 8  # processes that stand for waiting workers, several each where there are more
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers give way to whatever else runs


def prompt_file(folder: Path, count: int) -> Path:
    file = folder / "prompts.txt"
    texts = (f"{THINGS[n % len(THINGS)]} {PLACES[n % len(PLACES)]}\n" for n in range(count))
    file.write_text("".join(texts), encoding="utf-8")
    return file


@contextmanager
def prompts_and_output(count: int) -> Iterator[tuple[Path, Output]]:
    """A file of prompts and a folder that is taken, both of which go again."""
    with tempfile.TemporaryDirectory() as name:
        output = Output(Path(name) / "out")
        with output.taken({}):
            yield prompt_file(Path(name), count), output


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio_of(pairs: list[tuple[float, float]]) -> str:
    """Ratio of the sums of pairs, with Student's 95 % interval of the pairs' own ratios, on their logarithms; of fewer than
    FEWEST pairs the ratios themselves."""
    whole = sum(a for a, _ in pairs) / sum(b for _, b in pairs)
    ratios = [a / b for a, b in pairs]
    if len(pairs) < FEWEST:
        return f"{whole:.3f} (one by one {', '.join(f'{ratio:.3f}' for ratio in ratios)})"
    low, high = (math.exp(bound) for bound in mean_interval([math.log(ratio) for ratio in ratios])[1:])
    return f"{whole:.3f} (95 % interval {low:.3f} to {high:.3f})"


# -- one worker against the bare loop ----------------------------------------------------------------------------------


def overhead(arguments: argparse.Namespace) -> None:
    """Picture by picture in turn, so that both kinds see the same machine."""
    job = Job(EMBEDDED_MODEL)
    model = job.load()
    with prompts_and_output(arguments.prompts) as (file, output):
        drawer = Drawer(model, job, output)

        def bare(row) -> None:
            """No engine: the loop that anyone would write."""
            settings = Job(EMBEDDED_MODEL, seed=row.number - 1).settings(model.defaults)
            tokens = sample(model, [row.prompt], settings).tokens
            to_image(pictures(model, tokens)[0]).save(output.folder / f"bare {row.number}.png")

        rows = list(read_rows(file))
        bare(rows[0])  # what happens once
        pairs = []
        for row in rows:
            works = {"bare": lambda row=row: bare(row), "plain": lambda row=row: drawer.draw([row])}
            order = sorted(works, reverse=row.number % 2 == 0)
            took = {name: seconds_of(works[name]) for name in order}
            pairs.append((took["plain"], took["bare"]))
    print(f"bare loop: {statistics.median(b for _, b in pairs):.3f} s a picture")
    print(f"plain engine: {ratio_of(pairs)} of the bare loop, {len(pairs)} pictures each")
    with ray_engine.connected(None, ray_engine.Workers(1, 1)):
        pairs = dispatched(job, arguments.prompts)
    print(f"ray, 1 worker: {ratio_of(pairs)} of what the worker spends on drawing, {len(pairs)} pictures")


class TimedWorker(ray_engine.DrawingWorker):
    """Its records tell when it began with them and when it had ended, by the machine's clock."""

    def __call__(self, batch):
        import pyarrow

        began = time.monotonic()
        records = [json.loads(text) for text in super().__call__(batch)["record"].to_pylist()]
        ended = time.monotonic()
        records = [record | {"span": (began, ended)} for record in records]
        return pyarrow.table({"record": [json.dumps(record) for record in records]})


def dispatched(job: Job, count: int) -> list[tuple[float, float]]:
    """For every picture but the first, which loads the model: seconds since the end of the one before, and of drawing it."""
    told: list[dict] = []
    with prompts_and_output(count) as (file, output):
        ray_engine.run(job, file, output, told.append, worker=TimedWorker)
    spans = sorted(record["span"] for record in told)
    return [(end - last, end - began) for (_, last), (began, end) in pairwise(spans)]


# -- two workers against one -------------------------------------------------------------------------------------------


def speedup(arguments: argparse.Namespace) -> None:
    """Pictures a second between the first and the last record: neither Ray's start nor the model's is the engine's."""
    job, found = Job(EMBEDDED_MODEL), {1: [], 2: []}
    with ray_engine.connected(None, ray_engine.Workers(2, 2)):
        for _ in range(arguments.repeats):
            for count, rates in found.items():
                rates.append(rate(job, arguments.prompts, ray_engine.Workers(count, count)))
    tell(found)


def tell(found: dict[int, list[float]]) -> None:
    """Pictures a second of one and of two workers, round by round."""
    for count, rates in found.items():
        print(f"{count} workers: {statistics.median(rates):.3f} pictures a second")
    print(f"speed-up: {ratio_of(list(zip(found[2], found[1], strict=True)))}, {len(found[1])} rounds")


def processes(arguments: argparse.Namespace) -> None:
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(arguments.repeats):
        for count, rates in found.items():
            with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
                all_ready = multiprocessing.Manager().Barrier(count)
                rates.append(sum(pool.map(drawing_rate, [arguments.prompts] * count, [all_ready] * count)))
    tell(found)


def drawing_rate(prompts: int, all_ready) -> float:
    """Pictures a second of this process, on one thread as Ray's workers are, from when all have drawn one."""
    torch.set_num_threads(1)
    job = Job(EMBEDDED_MODEL)
    model = job.load()
    with prompts_and_output(prompts) as (file, output):
        drawer, rows = Drawer(model, job, output), list(read_rows(file))
        drawer.draw(rows[:1])
        all_ready.wait()
        return (prompts - 1) / seconds_of(lambda: [drawer.draw([row]) for row in rows[1:]])


def rate(job, prompts: int, workers: ray_engine.Workers, worker: type | None = None) -> float:
    """Pictures a second, from when every worker has had rows to the last record."""
    told: list[float] = []
    with prompts_and_output(prompts) as (file, output):
        ray_engine.run(job, file, output, lambda _: told.append(time.perf_counter()), workers, worker)
    skipped = 2 * workers.most
    if len(told) <= skipped:
        sys.exit(f"The first {skipped} pictures are not counted; give more --prompts.")
    return (len(told) - skipped) / (told[-1] - told[skipped - 1])


# -- workers that wait -------------------------------------------------------------------------------------------------


class WaitingWorker:
    """An actor that waits where another would draw. Its records are those that the driver wants, and no more."""

    def __init__(self, job, output):
        self.seconds = job.seconds

    def __call__(self, batch):
        import pyarrow

        rows = [json.loads(row)["number"] for row in batch["row"].to_pylist()]
        time.sleep(self.seconds * len(rows))
        return pyarrow.table({"record": [json.dumps({"row": row, "error": None}) for row in rows]})


@dataclass(frozen=True)
class Waiting:
    """Stands in for a job."""

    seconds: float
    chunk: int = 1


class InThreads(ray_engine.Workers):
    """`most` workers in no more than AT_ONCE processes: one that waits needs a process as little as a core."""

    def pool(self):
        from ray.data import ActorPoolStrategy

        processes = min(self.most, AT_ONCE)
        threads = self.most // processes
        return ActorPoolStrategy(
            size=processes,
            enable_true_multi_threading=True,  # else Ray lets one of the calls at a time in
            max_concurrent_calls_per_actor=threads,
            max_tasks_in_flight_per_actor=2 * threads,
        )


def waiting(arguments: argparse.Namespace) -> None:
    """Pictures a second against the number of workers."""
    counts = [int(text) for text in arguments.workers.split(",")]
    with ray_engine.connected(None, ray_engine.Workers(AT_ONCE, AT_ONCE)):
        for count in counts:
            job = Waiting(arguments.seconds)
            found = rate(job, arguments.prompts, InThreads(count, count), WaitingWorker)
            print(
                f"{count:3} workers, {arguments.seconds:g} s a picture, {arguments.prompts} prompts: "
                f"{found:7.2f} pictures a second, {found * job.seconds / count:6.1%} of linear",
                flush=True,
            )


# -- one model over several GPUs ---------------------------------------------------------------------------------------


LAYERS, DIM, CODES = 64, 5120, 131072  # Emu3.5, 34 B parameters
WEIGHT_BYTES = 68e9  # its matrices in bfloat16
# By name: bytes a second of a link one way and of a GPU's memory, seconds to start a collective, bytes of a GPU.
MACHINES = {
    "H100, NVLink 4": (450e9, 3350e9, 10e-6, 80e9),
    "RTX 4090, PCIe 4 x16": (25e9, 1008e9, 20e-6, 24e9),
}


def communication(arguments: argparse.Namespace) -> None:
    """A ring all-reduce sends 2 (n - 1) / n of its bytes over every link, an all-gather (n - 1) / n; activations in bfloat16."""
    print(
        "| machine | GPUs | window | sent by each, MB | collectives, ms | weights read, ms |\n|---|---|---|---|---|---|"
    )
    for machine, (link, memory, start, room) in MACHINES.items():
        for n in (2, 4, 8):
            if WEIGHT_BYTES / n > room:
                continue
            for window in (1, 16, 64):
                rows = 2 * window  # conditional and unconditional
                sums, gathers = 2 * LAYERS, 2
                share = 2 * rows * (n - 1) / n  # bytes a channel
                sent = share * (2 * sums * DIM + DIM + CODES)
                took = (sums + gathers) * start + sent / link
                reading = WEIGHT_BYTES / n / memory
                print(f"| {machine} | {n} | {window} | {sent / 1e6:.1f} | {took * 1e3:.1f} | {reading * 1e3:.1f} |")


MEASUREMENTS = {
    "overhead": overhead,
    "speedup": speedup,
    "processes": processes,
    "waiting": waiting,
    "communication": communication,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(MEASUREMENTS))
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=4, help="that a waiting worker takes for a picture")
    arguments = parser.parse_args()
    MEASUREMENTS[arguments.what](arguments)


if __name__ == "__main__":
    main()
