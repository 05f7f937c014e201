"""Ctrl-C while the command line still imports torch, which takes seconds: one sentence in place of a traceback.

`python -m mcsjd_core` imports the package before any line of its `__main__` runs, and sys.argv says "-m" until then. For
everyone else who imports the package, other modules started by `-m` among them, nothing here happens.
"""

import os
import re
import signal
import sys

INTERRUPTED = 130  # exit code: the shell's 128 + SIGINT
MODULE_OPTION = re.compile(r"-[^-cmWX]*m(.*)")  # of Python, perhaps after other letters, perhaps with the module's name


def _end(*_) -> None:
    sys.stderr.write("Interrupted before anything was begun.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def leave() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    """Whether Python was started to run this package."""
    if sys.argv[:1] != ["-m"]:
        return False
    for word, following in zip(sys.orig_argv[1:], [*sys.orig_argv[2:], ""], strict=True):
        if found := MODULE_OPTION.fullmatch(word):
            return (found[1] or following) == __package__
    return False


if _is_command():
    signal.signal(signal.SIGINT, _end)
