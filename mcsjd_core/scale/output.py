"""The folder of a run over a prompt file: which rows are done, and nothing that is half done.

    DIR/run.json            what the run draws with; a later run has to agree
    DIR/NAME.png            a picture
    DIR/records/1-1000/7.json    what became of row 7, while the run goes on
    DIR/records.jsonl       the same in the file's order, when it has ended

A row is done when its record is in its place. The picture is complete beside its own place by then, and only has to be moved:
wherever a run is stopped, the next one can tell and go on.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..whole_files import part_of, replace_whole, sync
from .prompt_file import Row, read_rows
from .turns import NO_RUN, begun_run, leading, turn

A_FOLDER = 1000  # records
Record = dict[str, Any]


class Output:
    """Files below `folder`. Processes of `run` may commit rows; one at a time may have the folder `taken`, which begins a run."""

    def __init__(self, folder: Path, run: str = NO_RUN):
        self.folder, self.run = folder, run

    @property
    def records_file(self) -> Path:
        return self.folder / "records.jsonl"

    @property
    def _loose(self) -> Path:
        return self.folder / "records"

    # -- one row -------------------------------------------------------------------------------------------------------

    def record_file(self, number: int) -> Path:
        start = (number - 1) // A_FOLDER * A_FOLDER
        return self._loose / f"{start + 1}-{start + A_FOLDER}" / f"{number}.json"

    def record(self, number: int) -> Record | None:
        """Of a row that is done and not gathered; a picture that only has to be moved is moved. Raises InputError as `commit`."""
        with turn(self.folder, self.run):
            return self._record(number)

    def _record(self, number: int) -> Record | None:
        file = self.record_file(number)
        record = _read(file) if file.exists() else None
        return record if record is not None and self._picture_is_there(record) else None

    def why_taken(self, file: str) -> str | None:
        """Why a row that is not done cannot write such a file; None if it can."""
        if not (self.folder / file).exists():
            return None
        return f"{file} is there already, from another row or another run; give each row an id of its own."

    def commit(self, record: Record, write: Callable[[Path], object] | None) -> None:
        """A row is done: `write` fills its picture, the record's `file`; None for a row that failed.

        Raises InputError if another row has written such a file, or if the run is over.
        """
        if write is None:
            with turn(self.folder, self.run):
                self._put(record, None)
            return
        place = self.folder / record["file"]
        part = part_of(place.with_stem(f"{place.stem}.{secrets.token_hex(4)}"))  # of this process alone
        try:
            write(part)
            sync(part)
            with turn(self.folder, self.run):
                self._put(record, part)
        finally:
            part.unlink(missing_ok=True)

    def _put(self, record: Record, picture: Path | None) -> None:
        if self._record(record["row"]) is not None:  # by a worker that was taken for lost
            return
        place = self.folder / (record["file"] or "")
        if picture is not None:
            if taken := self.why_taken(record["file"]):
                raise InputError(taken)
            os.replace(picture, part_of(place))
        file = self.record_file(record["row"])
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(file, lambda beside: beside.write_text(_line(record), encoding="utf-8"))
        if picture is not None:
            os.replace(part_of(place), place)

    def _picture_is_there(self, record: Record) -> bool:
        if not record["file"]:
            return True
        place = self.folder / record["file"]
        if not place.exists() and part_of(place).exists():
            os.replace(part_of(place), place)
        if place.exists() and not place.stat().st_size:  # a machine went down before it was written
            place.unlink()
        return place.exists()

    # -- the whole run -------------------------------------------------------------------------------------------------

    @contextmanager
    def taken(self, agreed: Record, again: bool = False) -> Iterator[None]:
        """The folder is this process's until the end: made, of the same run as before, all that is half done put right.

        With `again`, rows that failed are not done. Raises InputError if another process has it, if it holds a run that does not
        agree with `agreed`, or files of others under a run's names. A run that ends before its first row is done binds no
        later one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with leading(self.folder):
            self._agree(agreed)
            try:
                with begun_run(self.folder) as self.run:
                    self._tidy(again)
                    yield
            finally:
                with suppress(OSError):  # a full disk: the next run does it
                    self._tidy()
                    if next(self.records(), None) is None:
                        (self.folder / "run.json").unlink(missing_ok=True)

    def _tidy(self, without_failed: bool = False) -> None:
        self.gather(without_failed)
        for part in self.folder.glob(".*.part.*"):  # no record tells of them
            part.unlink(missing_ok=True)

    def _agree(self, agreed: Record) -> None:
        file = self.folder / "run.json"
        if not file.exists():
            self._check_free()
            replace_whole(file, lambda part: part.write_text(json.dumps(agreed, indent=1) + "\n", encoding="utf-8"))
            return
        before = _read(file)
        if before is None:
            raise InputError(
                f"{file} is damaged, so what the folder's pictures were drawn with is not known; give another --out."
            )
        for name in sorted(before.keys() | agreed.keys()):
            if before.get(name) != agreed.get(name):
                raise InputError(
                    f"{self.folder} holds a run with another {name} ({before.get(name)!r}, now {agreed.get(name)!r}); "
                    "give the same command to go on with it, or another --out."
                )

    def _check_free(self) -> None:
        """Records without what they were drawn with are another program's, or were left of a run whose run.json is gone."""
        # A run that ended before its first row has left an empty file.
        has_records = self.records_file.exists() and self.records_file.stat().st_size
        if has_records or self._loose.exists():
            raise InputError(
                f"{self.folder} holds records, but no run.json that says what they were drawn with; give another --out."
            )

    def gather(self, without_failed: bool = False) -> None:
        """Bring all records into one file in the rows' order; without those whose picture is gone."""
        loose = (record for file in self._loose_files() if (record := _read(file)) is not None)
        kept = (record for record in _in_order(self.records(), loose) if self._keeps(record, without_failed))

        def write(part: Path) -> None:
            with part.open("w", encoding="utf-8") as lines:
                lines.writelines(map(_line, kept))

        replace_whole(self.records_file, write)
        for record in self.records():
            self.record_file(record["row"]).unlink(missing_ok=True)
        for folder in (*self._loose.glob("*-*"), self._loose):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()

    def _keeps(self, record: Record, without_failed: bool) -> bool:
        if self._picture_is_there(record) and not (without_failed and record["error"]):
            return True
        self.record_file(record["row"]).unlink(missing_ok=True)
        return False

    def _loose_files(self) -> Iterator[Path]:
        folders = sorted(self._loose.glob("*-*"), key=lambda folder: int(folder.name.partition("-")[0]))
        for folder in folders:
            for part in folder.glob(".*"):
                part.unlink()
            yield from sorted(folder.glob("*.json"), key=lambda file: int(file.stem))

    def records(self) -> Iterator[Record]:
        """Those gathered, in order."""
        if self.records_file.exists():
            with self.records_file.open(encoding="utf-8") as lines:
                yield from filter(None, map(_parsed, lines))

    def waiting(self, prompts: Path) -> Iterator[Row]:
        """Rows of the prompt file that have no gathered record."""
        numbers = (record["row"] for record in self.records())
        done = next(numbers, None)
        for row in read_rows(prompts):
            if row.number == done:
                done = next(numbers, None)
            else:
                yield row


def _read(file: Path) -> Record | None:
    """What a file holds; None if a machine went down before it was written whole, and its row is not done."""
    return _parsed(file.read_text(encoding="utf-8", errors="replace"))


def _parsed(text: str) -> Record | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _in_order(gathered: Iterator[Record], loose: Iterator[Record]) -> Iterator[Record]:
    """Both in the order of their rows; where both have a row, the loose one is newer."""
    old, new = next(gathered, None), next(loose, None)
    while old is not None and new is not None:
        if new["row"] <= old["row"]:
            if new["row"] == old["row"]:
                old = next(gathered, None)
            yield new
            new = next(loose, None)
        else:
            yield old
            old = next(gathered, None)
    yield from (record for record in chain((old, new), gathered, loose) if record is not None)
