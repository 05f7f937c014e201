"""Ctrl-C while the command line still imports torch, which takes seconds: one sentence in place of a traceback.

`python -m mcsjd_core` imports the package before any line of its `__main__` runs, and sys.argv says "-m" until then. For
everyone else who imports the package, nothing here happens.
"""

import os
import signal
import sys

INTERRUPTED = 130  # exit code: the shell's 128 + SIGINT


def _end(*_) -> None:
    sys.stderr.write("Interrupted before anything was begun.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def leave() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, _end)
