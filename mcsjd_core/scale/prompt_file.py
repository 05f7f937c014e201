"""Rows of a prompt file, read one after the other: however long the file is, one row is in memory at a time."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..text.prompts import check_characters

COLUMNS = ("prompt", "negative", "seed", "size", "id", "class")
FILE_NAME = re.compile(r"\w[\w.-]*")  # of an id
LONGEST_NAME = 200  # bytes; file systems allow 255, and endings follow
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, with any ending
READ_AT_ONCE = 256  # rows of a parquet file
LARGEST_SEED = 2**64 - 1
WHOLE = re.compile(r"(?<=\d)\.0*$")  # what follows a whole number that was written as a float


@dataclass(frozen=True)
class Row:
    """One picture to draw; `number` counts from 1. None stands for what the command says. `error`: why it cannot be read."""

    number: int
    prompt: str = ""
    negative: str | None = None
    seed: int | None = None
    size: str | None = None
    id: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Of the picture's file, without a suffix."""
        return self.id or f"{self.number:08}"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a .txt, .csv, .tsv, .jsonl or .parquet file in order.

    A text file has a prompt on every line that is not blank; the others have COLUMNS, of which `prompt` or `class` is needed.
    A row that cannot be read has its `error`. Raises InputError if the file as a whole cannot be read.
    """
    return (_row(number, fields) for number, fields in enumerate(_fields_of(path), 1))


def survey(path: Path) -> tuple[int, list[str]]:
    """How many rows there are, and what columns they have that none is asked for; raises InputError if there is no row."""
    count, unread = 0, {}
    for fields in _fields_of(path):
        count += 1
        if not isinstance(fields, str):
            unread |= dict.fromkeys(name for name in fields if name and name not in COLUMNS)
    if not count:
        raise InputError(f"{path} holds no prompts; write one on every line.")
    return count, list(unread)


def digest(path: Path) -> str:
    """Tells whether the file is still the same."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(2**20):
            found.update(part)
    return found.hexdigest()


Fields = dict[str, Any] | str  # a row's values by column, lower case; or why there are none


def _fields_of(path: Path) -> Iterator[Fields]:
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path} cannot be read: a prompt file ends in {', '.join(READERS)}.")
    try:
        yield from read(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; name the file that holds the prompts.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8; save it in that encoding.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); name a file that you may read.") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a complete table ({error}); put texts with line breaks in quotes.") from None


def _text_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from (line for line in map(str.strip, lines) if line)


def _of_text(path: Path) -> Iterator[Fields]:
    return ({"prompt": line} for line in _text_lines(path))


def _of_table(path: Path) -> Iterator[Fields]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        names = [name.strip().lower() for name in next(rows, [])]
        _check_columns(path, names)
        for values in rows:
            if len(values) > len(names):
                yield f"The row has {len(values)} values for {len(names)} columns; put texts with commas in quotes."
            elif values:  # a blank line is no row
                yield dict(zip(names, values, strict=False))


def _of_json(path: Path) -> Iterator[Fields]:
    for line in _text_lines(path):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"The line is not valid JSON ({error}); write one object on every line."
            continue
        if isinstance(fields, dict):
            yield {name.lower(): value for name, value in fields.items()}
        else:
            yield f"The line holds a {type(fields).__name__} where an object was expected."


def _of_parquet(path: Path) -> Iterator[Fields]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet  # optional, and slow to import
    except ImportError:
        raise InputError(
            "Parquet files need the package pyarrow: install it with `pip install pyarrow`, or write the prompts as .jsonl."
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = {name: name.lower() for name in file.schema_arrow.names if name.lower() in COLUMNS}
            _check_columns(path, list(names.values()))
            others = {
                name.lower(): None for name in file.schema_arrow.names if name not in names
            }  # named, and not read
            for batch in file.iter_batches(READ_AT_ONCE, columns=list(names)):
                yield from (others | {names[name]: value for name, value in row.items()} for row in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path} is not a whole parquet file ({first_line(error)}); write it again.") from None


READERS: dict[str, Callable[[Path], Iterator[Fields]]] = {
    ".txt": _of_text, ".csv": _of_table, ".tsv": _of_table, ".jsonl": _of_json, ".parquet": _of_parquet,
}  # fmt: skip


def _check_columns(path: Path, names: list[str]) -> None:
    if not {"prompt", "class"} & set(names):
        raise InputError(f"{path} has no column `prompt` or `class`; its first line has to name the columns.")


def _row(number: int, fields: Fields) -> Row:
    if isinstance(fields, str):
        return Row(number, error=fields)
    try:
        return Row(
            number, _prompt(fields), _text(fields, "negative"), _seed(fields), _text(fields, "size"), _id(fields)
        )
    except InputError as error:
        return Row(number, error=str(error))


def _prompt(fields: dict[str, Any]) -> str:
    """A class is the prompt of models that draw classes."""
    given = [text for text in (_text(fields, "prompt"), _text(fields, "class")) if text is not None]
    if len(given) != 1:
        raise InputError(f"A row needs a prompt or a class, got {'both' if given else 'neither'}.")
    return given[0]


def _text(fields: dict[str, Any], name: str) -> str | None:
    """An empty cell of a table cannot be told from none, so it is none."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(f"`{name}` has to be a text, got {value!r}.")
    # Refused here, so that the row holds nothing that its record could not be written with.
    check_characters(str(value), f"`{name}`")
    return str(value)


def _seed(fields: dict[str, Any]) -> int | None:
    value = fields.get("seed")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "":
        return None
    # Tables with gaps make floats of whole numbers, in text as well.
    digits = WHOLE.sub("", value.strip()) if isinstance(value, str) else "" if isinstance(value, bool) else str(value)
    # Of thousands of digits, int() makes an error of its own.
    if not digits.isdecimal() or len(digits) > len(str(LARGEST_SEED)) or int(digits) > LARGEST_SEED:
        raise InputError(f"`seed` has to be a whole number between 0 and 2^64 - 1, got {repr(value)[:50]}.")
    return int(digits)


def _id(fields: dict[str, Any]) -> str | None:
    text = _text(fields, "id")
    if text is not None and not (FILE_NAME.fullmatch(text) and len(text.encode()) <= LONGEST_NAME):
        raise InputError(
            f"`id` becomes a file name, and {text[:50]!r} cannot; use letters, digits, dots, hyphens and underscores, "
            f"at most {LONGEST_NAME} bytes."
        )
    if text is not None and DEVICE_NAME.fullmatch(text):
        raise InputError(f"`id` becomes a file name, and {text!r} is a device on Windows; choose another one.")
    return text
