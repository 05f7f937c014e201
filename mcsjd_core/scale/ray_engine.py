"""The engine of many processes and machines: Ray Data reads the file, actors hold the model, draw, and write.

Every row is drawn as it would be alone, so that it does not matter which worker has it, or how many there are. What a lost worker
had committed is found by the one that takes its place.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line, is_out_of_memory
from .drawer import TOO_LARGE, Drawer, chunks
from .job import Job
from .output import Output, Record
from .prompt_file import Row

BLOCKS_A_WORKER = 40  # parts that the file is cut into: at its end a worker waits for no more than one of them
OBJECT_STORE = 2**28  # bytes of a cluster that is made here: rows and records are small
LOST_WORKERS = 3  # times that a row may take its worker with it
ANSWER = 10  # seconds that a cluster may take to answer
FATAL = "fatal"  # key of a record that no row can mend
QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True)
class Workers:
    """From `least` to `most` of them, each with so many GPUs."""

    least: int = 1
    most: int = 1
    gpus: float = 0

    @classmethod
    def of_text(cls, text: str, gpus: float) -> Workers:
        """`4`, or `2-8`."""
        least, _, most = text.partition("-")
        if not least.isdecimal() or not (most or least).isdecimal() or not 1 <= int(least) <= int(most or least):
            raise InputError(f"--workers is a number such as 4, or two such as 2-8, got {text!r}.")
        return cls(int(least), int(most or least), gpus)

    def pool(self):
        """For Ray Data. Each has its next rows while it draws."""
        from ray.data import ActorPoolStrategy

        return ActorPoolStrategy(min_size=self.least, max_size=self.most, max_tasks_in_flight_per_actor=2)


def run(job: Job, prompts: Path, output: Output, on_record: Callable[[Record], None],
        workers: Workers = Workers(), worker: type | None = None) -> None:  # fmt: skip
    """As `plain.run`, on the cluster that `connected` has. `worker` is the class of the actors, made with job and output."""
    from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

    output = Output(output.folder.resolve(), output.run)  # as workers see it, which have another working folder
    rows = waiting_rows(prompts.absolute(), output, job.chunk, workers)
    if rows is None:
        return
    drawn = _drawn(rows, job, output, workers, worker or DrawingWorker)
    try:
        # Left to itself, a loop that is stopped lets the workers draw on for as long as anyone holds the exception.
        with closing(_rows(drawn)) as records:
            for row in records:
                _tell(json.loads(row["record"]), on_record)
    except (OutOfMemoryError, RayActorError, WorkerCrashedError):
        raise InputError(
            f"Some rows lost their worker {LOST_WORKERS + 1} times, most often for lack of memory: use fewer --workers or "
            "--rows, and run the same command again to resume."
        ) from None
    except RayError as error:
        # What the process that reads the file raised, which may be on a machine that does not have it.
        if not isinstance(cause := getattr(error, "cause", None), InputError | OSError):
            raise
        raise InputError(str(cause)) from None


def _rows(drawn) -> Generator[dict, None, None]:
    """Closing it closes what Ray iterates with."""
    yield from drawn.iter_rows()


def _tell(record: Record, on_record: Callable[[Record], None]) -> None:
    if sentence := record.get(FATAL):
        raise InputError(sentence)
    on_record(record)


def _drawn(rows, job: Job, output: Output, workers: Workers, worker: type):
    """The dataset of the rows' records, as JSON in the column `record`; nothing is drawn before someone reads it."""
    return rows.map_batches(
        worker,
        fn_constructor_args=(job, output),
        batch_size=job.chunk,
        batch_format="pyarrow",
        compute=workers.pool(),
        num_cpus=1,
        num_gpus=workers.gpus,
        # Ray 2.64 will know no such argument any more, and try such rows for ever.
        ray_remote_args_fn=partial(dict, max_task_retries=LOST_WORKERS),
    )


@contextmanager
def connected(address: str | None, workers: Workers) -> Iterator[None]:
    """Inside, Ray is there: the cluster at `address`, or one of this machine that ends with it. One that runs already is kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent without being asked for
    try:
        import ray
        import ray.data  # which needs pandas and pyarrow
    except ImportError:
        raise InputError(
            "The engine ray needs the package ray with its data part; install it with `pip install 'ray[data]>=2.60,<2.64'`."
        ) from None

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    began = not ray.is_initialized()
    if began:
        _connect(address, workers)
    try:
        if address is None:
            _check_gpus(ray.cluster_resources().get("GPU", 0), workers)
        yield
    finally:
        if began:
            ray.shutdown()


def _connect(address: str | None, workers: Workers) -> None:
    import ray

    if address is not None:
        _check_address(address)
    try:
        if address is None:
            with _importable_by_children():
                ray.init("local", num_cpus=workers.most, object_store_memory=OBJECT_STORE, **QUIET)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # what Ray raises where it cannot start has no class of its own
        reason = first_line(error)
        if address is None:
            raise InputError(
                f"Ray cannot be started on this machine ({reason}); leave out --engine ray to draw without it."
            ) from None
        raise InputError(
            f"Ray cannot be reached at {address} ({reason}); start it, or correct --address, or, if the cluster asks for a "
            "token, as those of recent versions do, set RAY_AUTH_MODE=token."
        ) from None


def _check_address(address: str) -> None:
    """Ray itself would try for minutes to reach what is not there. `auto` is for Ray to find."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:  # no such host, port or name
        raise InputError(f"Nothing answers at {address} ({error}); start Ray there, or correct --address.") from None


@contextmanager
def _importable_by_children() -> Iterator[None]:
    """Processes that are started inside import this package from where it lies, and so do theirs."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before)))
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _check_gpus(there: float, workers: Workers) -> None:
    """Ray would wait for a GPU that no one will bring; a cluster may grow, and is waited for."""
    if there < workers.gpus:
        raise InputError(
            f"A worker asks for {workers.gpus:g} GPUs, and Ray finds {there:g} on this machine; give --gpus or --device."
        )


def waiting_rows(prompts: Path, output: Output, chunk: int, workers: Workers):
    """A Ray dataset of the rows that are not done, as JSON in the column `row`; None if there are none."""
    import ray
    from ray.data.context import DataContext

    count = sum(1 for _ in output.waiting(prompts))
    if not count:
        return None
    DataContext.get_current().enable_progress_bars = False
    blocks = min(math.ceil(count / chunk), BLOCKS_A_WORKER * workers.most)
    source = _source(prompts, output, count, math.ceil(count / blocks / chunk) * chunk)
    # Workers hold all cores, and reading must not wait for one. A single reader goes on where its last block ended.
    return ray.data.read_datasource(source, override_num_blocks=blocks, num_cpus=0, concurrency=1)


def _source(prompts: Path, output: Output, count: int, size: int):
    """The file as blocks of `size` rows, each read by a task of its own."""
    import pyarrow
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def read(start: int) -> Iterator[Any]:
        rows = reading.rows(prompts, output, start, size)
        yield pyarrow.table({"row": [json.dumps(asdict(row)) for row in rows]})

    class PromptSource(Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return prompts.stat().st_size

        def get_read_tasks(self, parallelism, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
            return [
                ReadTask(lambda start=start: read(start), BlockMetadata(min(size, count - start), None, None, None))
                for start in range(0, count, size)
            ]

    return PromptSource()


class Reading:
    """Where this process is in a prompt file: blocks that follow one another are read in one go, not each from the first row."""

    def __init__(self):
        self.of: tuple[str, ...] = ()
        self.next, self.waiting = 0, iter(())

    def rows(self, prompts: Path, output: Output, start: int, size: int) -> list[Row]:
        """Those that are not done, from the one numbered `start` among them on."""
        of = (str(prompts), str(output.folder), output.run)
        if of != self.of or start < self.next:
            self.of, self.next, self.waiting = of, 0, output.waiting(prompts)
        skipped, self.next = start - self.next, start + size
        return list(islice(self.waiting, skipped, skipped + size))


reading = Reading()  # a worker of Ray is used for block after block


class DrawingWorker:
    """An actor. Its model is loaded at its first rows: what fails before, Ray would try again without end."""

    def __init__(self, job: Job, output: Output):
        self.job, self.output = job, output
        self.drawer: Drawer | None = None
        self.records: list[Record] = []

    def __call__(self, batch):
        """Rows as JSON to records as JSON, both pyarrow tables."""
        import pyarrow

        self.records = []
        try:
            self._draw([Row(**json.loads(row)) for row in batch["row"].to_pylist()])
        except InputError as error:
            self.records.append({FATAL: str(error)})
        except OSError as error:
            reason = error.strerror or error
            sentence = f"{self.output.folder} cannot be written to ({reason}); fix that and run the same command again to resume."
            self.records.append({FATAL: sentence})
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.records.append({FATAL: TOO_LARGE})
        return pyarrow.table({"record": [json.dumps(record) for record in self.records]})

    def _draw(self, rows: list[Row]) -> None:
        """A worker that was lost may have done some of them."""
        if not self.output.folder.is_dir():
            raise InputError(
                f"{self.output.folder} is not there on every machine; name a folder that all of them share."
            )
        found = {row.number: self.output.record(row.number) for row in rows}
        self.records += [record for record in found.values() if record is not None]
        waiting = [row for row in rows if found[row.number] is None]
        if not waiting:
            return
        if self.drawer is None:
            self.drawer = Drawer(self.job.load(), self.job, self.output, lambda record: self.records.append(record))
        for part in chunks(waiting, self.job.chunk):
            self.drawer.draw(part)
