"""How many threads the command line computes with on a CPU: no more than there are idle cores.

Threads wait for one another after every operation, and torch's wait by spinning: where other programs are busy, a thread that
has to wait for its core holds up all the others. For small operations at a load of 9 on 2 cores, one thread took 9 seconds,
two had not ended after 100.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

CHOSEN_BY_THE_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
RUNNING = Path("/proc/loadavg")  # Linux's; its fourth field is running/all threads at this moment, this one among them
LOOKS, PAUSE = 5, 0.02  # the least of a few looks, seconds apart: what runs for a moment is no load


def leave_busy_cores_alone() -> None:
    """Lower torch's number of threads to the number of idle cores, one at the least; never against the user's own choice."""
    if any(os.environ.get(name) for name in CHOSEN_BY_THE_USER):
        return
    idle = (os.cpu_count() or 1) - _busy()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), idle)))


def _busy() -> int:
    """Cores that others keep busy; 0 where the system does not tell."""
    looks = []
    for _ in range(LOOKS):
        try:
            running = RUNNING.read_text(encoding="ascii").split()[3].partition("/")[0]
        except (OSError, IndexError):
            return 0
        looks.append(int(running) - 1)
        time.sleep(PAUSE)
    return max(0, min(looks))
