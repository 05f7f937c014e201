"""Output on terminals and in pipes of any encoding."""

from __future__ import annotations

import codecs
import sys

PLAIN = {"±": "+-", "·": "-", "×": "x", "…": "...", "–": "-", "—": "-"}
HANDLER = "mcsjd_plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Signs that an encoding lacks: as plain ones where they have them, else as their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escaped = (PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return "".join(escaped), error.end


def accept_every_character() -> None:
    """Let stdout and stderr print any text, whatever encoding they have (Windows pipes have cp1252 or cp866)."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what stands in for a stream may lack it
        if reconfigure is not None:
            reconfigure(errors=HANDLER)
