"""What is recorded and shown in place of figures where something failed: one failure must not lose all other figures."""

from __future__ import annotations

import traceback
from pathlib import Path

from ..errors import InputError, first_line
from ..reporting.tables import Table

PACK = Path(__file__).resolve().parent.parent


def why(error: Exception) -> str:
    """One line: what was raised, where this pack was then, and what the error says; bad input speaks for itself."""
    if isinstance(error, InputError):
        return first_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PACK in Path(frame.filename).resolve().parents]
    where = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {first_line(error)}"


def not_measured(title: str, reason: str) -> Table:
    """What stands in place of the tables of the section of that title."""
    return Table(title[0].upper() + title[1:], ["not measured"], [[reason]])
