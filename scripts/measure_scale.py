"""What prompt files cost beside drawing, and how far workers help: the figures of docs/scale.md.

    python scripts/measure_scale.py overhead        the engines against the bare loop, one worker, embedded model
    python scripts/measure_scale.py speedup         two workers of Ray against one, embedded model
    python scripts/measure_scale.py waiting --workers 1,2,4,8 --prompts 1000 --seconds 0.2
                                                    workers that wait as long as a picture takes, in place of drawing it
    python scripts/measure_scale.py communication   bytes and time of a forward's collectives, computed from published bandwidths

The first two need quiet cores; methods take turns in one process. The third measures Ray alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROMPTS = ("red apple", "rocket", "fox", "star")


def prompt_file(folder: Path, count: int) -> Path:
    file = folder / "prompts.txt"
    file.write_text("".join(f"{PROMPTS[number % len(PROMPTS)]}\n" for number in range(count)), encoding="utf-8")
    return file


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


class WaitingWorker:
    """An actor that waits where another would draw. Its records are those that the driver wants, and no more."""

    seconds = 0.0

    def __init__(self, plan, folder):
        self.seconds = plan.seconds

    def __call__(self, batch):
        import pyarrow

        rows = [json.loads(row)["number"] for row in batch["row"].to_pylist()]
        time.sleep(self.seconds * len(rows))
        return pyarrow.table({"record": [json.dumps({"row": row, "error": None}) for row in rows]})


class Waiting:
    """Stands in for a plan."""

    chunk = 1

    def __init__(self, seconds: float):
        self.seconds = seconds


def waiting(arguments: argparse.Namespace) -> None:
    """Pictures a second against the number of workers; the first and the last picture count, starting Ray does not."""
    from mcsjd_core.scale import ray_engine
    from mcsjd_core.scale.output import Output

    print(f"{arguments.prompts} prompts, {arguments.seconds} s each")
    for count in map(int, arguments.workers.split(",")):
        workers = ray_engine.Workers(count, count)
        with tempfile.TemporaryDirectory() as name, ray_engine.connected(None, workers):
            file, told = prompt_file(Path(name), arguments.prompts), []
            plan = Waiting(arguments.seconds)
            ray_engine.run(plan, file, Output(Path(name)), lambda _, told=told: told.append(time.perf_counter()),
                           workers, WaitingWorker)  # fmt: skip
        # From the first picture on: actors start one after the other, and a run of hours does not see that.
        rate = (len(told) - 1) / (told[-1] - told[0])
        print(
            f"{count:3} workers: {rate:8.2f} pictures a second, {rate * arguments.seconds / count:6.1%} of linear",
            flush=True,
        )


def runs(arguments: argparse.Namespace, kinds: dict[str, Callable]) -> dict[str, list[float]]:
    """Seconds a picture of every kind in turn, models loaded before."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(arguments.repeats):
        for name, draw in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                file = prompt_file(Path(folder), arguments.prompts)
                found[name].append(draw(file, Path(folder)) / arguments.prompts)
    return found


def drawn_by_ray(plan, count: int) -> Callable:
    """Seconds from the first record to the last, scaled to all of them: neither Ray's start nor the model's is the engine's."""
    from mcsjd_core.scale import ray_engine
    from mcsjd_core.scale.output import Output

    def draw(file: Path, folder: Path) -> float:
        told: list[float] = []
        output, workers = Output(folder / "out"), ray_engine.Workers(count, count)
        with output.taken({}):
            ray_engine.run(plan, file, output, lambda _: told.append(time.perf_counter()), workers)
        skipped = 2 * count  # every worker has begun by then
        return (told[-1] - told[skipped - 1]) / (len(told) - skipped) * len(told)

    return draw


def overhead(arguments: argparse.Namespace) -> None:
    from mcsjd_core import EMBEDDED_MODEL, pictures, sample, to_image
    from mcsjd_core.scale import ray_engine
    from mcsjd_core.scale.drawer import Drawer, chunks
    from mcsjd_core.scale.output import Output
    from mcsjd_core.scale.plan import Plan

    plan = Plan(EMBEDDED_MODEL)
    model = plan.load()

    def bare(file: Path, folder: Path) -> float:
        """No engine: the loop that anyone would write."""

        def work() -> None:
            for number, text in enumerate(file.read_text(encoding="utf-8").splitlines()):
                settings = Plan(EMBEDDED_MODEL, seed=number).settings(model.defaults)
                tokens = sample(model, [text], settings).tokens
                to_image(pictures(model, tokens)[0]).save(folder / f"{number}.png")

        return seconds_of(work)

    def plain(file: Path, folder: Path) -> float:
        output = Output(folder / "out")

        def work() -> None:
            with output.taken({}):
                drawer = Drawer(model, plan, output)
                for rows in chunks(output.waiting(file), plan.chunk):
                    drawer.draw(rows)

        return seconds_of(work)

    with ray_engine.connected(None, ray_engine.Workers(1, 1)):
        found = runs(arguments, {"bare loop": bare, "plain": plain, "ray, 1 worker": drawn_by_ray(plan, 1)})
    for name, seconds in found.items():
        ratios = [ours / loop for ours, loop in zip(seconds, found["bare loop"], strict=True)]
        print(f"{name:14} {spread(seconds)} s a picture, {spread(ratios)} of the bare loop in the same round")


def speedup(arguments: argparse.Namespace) -> None:
    from mcsjd_core import EMBEDDED_MODEL
    from mcsjd_core.scale import ray_engine
    from mcsjd_core.scale.plan import Plan

    plan = Plan(EMBEDDED_MODEL)
    with ray_engine.connected(None, ray_engine.Workers(2, 2)):
        found = runs(arguments, {"1 worker": drawn_by_ray(plan, 1), "2 workers": drawn_by_ray(plan, 2)})
    ratios = [one / two for one, two in zip(found["1 worker"], found["2 workers"], strict=True)]
    for name, seconds in found.items():
        print(f"{name:10} {spread(seconds)} s a picture")
    print(f"speed-up   {spread(ratios)}")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "speedup", "waiting", "communication"))
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--seconds", type=float, default=0.2, help="that a waiting worker takes for a picture")
    arguments = parser.parse_args()
    {"overhead": overhead, "speedup": speedup, "waiting": waiting, "communication": communication}[arguments.what](
        arguments
    )


if __name__ == "__main__":
    main()
