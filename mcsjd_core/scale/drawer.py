"""Rows of a prompt file to pictures and records, on one model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ..decoding.feed import Finished, decode_feed
from ..decoding.loop import DecodingError
from ..decoding.runners import CompilationError, runner
from ..decoding.settings import DecodeSettings
from ..errors import InputError, is_out_of_memory
from ..families.interface import Family
from ..families.sizes import choose_size
from ..pipeline.clip_files import write_clip
from ..pipeline.image_files import to_image
from ..pipeline.sampling import Drawing, check_run, pictures, read_text
from ..pipeline.video import videos
from .job import Job
from .output import Output, Record
from .prompt_file import Row

TOO_LARGE = "Memory ran out; use a smaller --window, fewer --trajectories, or --dtype bfloat16."


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


class Drawer:
    """Draws rows and commits them, each as soon as it is complete; a row that fails does not stop the others.

    Making one raises InputError for what would fail every row. Whether iterations can be compiled shows at the first row alone,
    which raises CompilationError if not.
    """

    def __init__(self, model: Family, job: Job, output: Output, on_record: Callable[[Record], None] = lambda _: None):
        self.model, self.job, self.output, self.on_record = model, job, output, on_record
        self.settings = job.settings(model.defaults)
        _check_command(model, job, self.settings)

    def read_ahead(self, rows: list[Row]) -> None:
        """Let the model read the rows' prompts together. What cannot be read shows when its row is drawn."""
        texts = []
        for row in rows:
            with suppress(InputError):
                texts += map(read_text, filter(None, (row.prompt, self._negative(row))))
        with suppress(InputError):
            self.model.read_ahead(texts)

    def draw(self, rows: list[Row]) -> None:
        """Raises OSError if the folder cannot be written to, and what is no fault of a row."""
        files, later = set(), []
        good: dict[str, list[Row]] = {}
        for row in rows:
            file = self._file_of(row)
            if file in files:
                later.append(row)  # has the place only if the row before it fails
            elif error := row.error or self.output.why_taken(file):
                self._fail(row, error)
            elif size := self._size_of(row):
                good.setdefault(size, []).append(row)
                files.add(file)
        for size, group in good.items():
            self._draw_group(group, size)
        if later:
            self.draw(later)

    def _size_of(self, row: Row) -> str | None:
        """None for a row that fails, since the model has no such size."""
        try:
            return choose_size(row.size or self.job.size, self.model.sizes)
        except InputError as error:
            self._fail(row, str(error))
            return None

    def _draw_group(self, rows: list[Row], size: str) -> None:
        """Rows of one size side by side; if that fails, one after the other, so that the one at fault is found."""
        waiting = list(rows)
        try:
            self._feed(rows, size, waiting.remove)
        except CompilationError:  # no row's fault
            raise
        except (InputError, DecodingError, RuntimeError, MemoryError) as error:
            if not isinstance(error, InputError | DecodingError) and not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                self._fail(rows[0], TOO_LARGE if is_out_of_memory(error) else str(error))
                return
        for row in waiting:
            self._draw_group([row], size)

    def _feed(self, rows: list[Row], size: str, done: Callable[[Row], None]) -> None:
        try:
            drawing = self._read(rows, size)
        except InputError:
            if len(rows) == 1:
                raise
            rows = [row for row in rows if self._is_readable(row, size, done)]  # a bad one costs the others no batch
            if not rows:
                return
            drawing = self._read(rows, size)

        def commit(finished: Finished) -> None:
            row = rows[finished.row]
            try:
                self._commit(row, size, finished)
            except InputError as error:  # its place was taken meanwhile: pictures beside it are drawn on
                self._fail(row, str(error))
            done(row)

        seeds = [self._seed(row) for row in rows]
        model = drawing.model.token_model
        decode_feed(model, drawing.prompt, drawing.grid, self.settings, self.job.rows, seeds=seeds, on_row=commit)

    def _read(self, rows: list[Row], size: str) -> Drawing:
        negatives = [self._negative(row) for row in rows]
        return Drawing.of(self.model, [row.prompt for row in rows], self.settings, size=size, negatives=negatives)

    def _is_readable(self, row: Row, size: str, done: Callable[[Row], None]) -> bool:
        """Whether the model can read the row's prompt; a row that it cannot read fails, and is done."""
        try:
            self._read([row], size)
            return True
        except InputError as error:
            self._fail(row, str(error))
            done(row)
            return False

    def _negative(self, row: Row) -> str:
        """Empty where the law has no guidance, so that the record does not tell of what had no effect."""
        if not self.settings.law.guided:
            return ""
        return self.job.negative if row.negative is None else row.negative

    def _seed(self, row: Row) -> int:
        return self.job.seed_of(row.number) if row.seed is None else row.seed

    def _commit(self, row: Row, size: str, finished: Finished) -> None:
        tokens, negative = finished.tokens[None], self._negative(row)
        drawn = {
            "negative": negative,
            "file": self._file_of(row),
            "nfe": finished.nfe,
            "tokens_a_forward": tokens.numel() / finished.nfe,
            "seconds": finished.seconds,
            "tokens_sha256": hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest(),
            "size": size,
            "note": None if self.model.words is None else self.model.words.note(map(read_text, (row.prompt, negative))),
        }
        record = self._record(row) | drawn
        self.output.commit(record, self._writer(tokens, size))
        self.on_record(record)

    def _file_of(self, row: Row) -> str:
        return row.name + (".png" if self.model.clip.is_picture else ".webp")

    def _writer(self, tokens: Tensor, size: str) -> Callable:
        if self.model.clip.is_picture:
            return to_image(pictures(self.model, tokens, size)[0]).save
        return partial(write_clip, frames=videos(self.model, tokens, size)[0], frame_rate=self.model.clip.frame_rate)

    def _fail(self, row: Row, sentence: str) -> None:
        record = self._record(row) | {"error": sentence}
        self.output.commit(record, None)
        self.on_record(record)

    def _record(self, row: Row) -> Record:
        """All columns of a record, in order; those of a picture are None until there is one."""
        given = {
            "row": row.number,
            "id": row.id,
            "prompt": row.prompt,
            "negative": self._negative(row),
            "seed": self._seed(row),
        }
        settings = {name: value for name, value in asdict(self.settings).items() if name in RECORDED} | {
            "dtype": self.job.dtype, "weights": self.job.weights,
        }  # fmt: skip
        empty = dict.fromkeys(("file", "nfe", "tokens_a_forward", "seconds", "tokens_sha256", "note", "error"))
        return given | {"size": row.size, "settings": settings} | empty


def _check_command(model: Family, job: Job, settings: DecodeSettings) -> None:
    check_run(model, model.grid(job.size), settings)
    read_text(job.negative)
    runner(job.execution, torch.device(job.device))


RECORDED = ("coupling", "window", "law", "initialiser", "trajectories")
