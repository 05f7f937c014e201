"""Whether a run fits into the memory of a machine without a GPU, and what to do if it does not."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from ..pipeline.sampling import Drawing

ADVICE = "use fewer pictures, a smaller --window, fewer --trajectories, or --dtype bfloat16"


def check_memory(drawing: Drawing, device: str) -> None:
    """Raise InputError before a run whose tensors cannot fit: the system would end it, or swap for hours."""
    free = available_bytes()
    if device == "cpu" and free is not None and drawing.memory_bytes > free:
        raise InputError(
            f"This run takes about {drawing.memory_bytes / 2**30:.0f} GiB on top of the weights, and only "
            f"{free / 2**30:.1f} GiB of memory is free; {ADVICE}."
        )


def available_bytes() -> int | None:
    """Memory that a process may still take; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
