"""The command line: `generate` draws pictures, `compare` draws them with every method, `bench` and `gpu` measure,
`download` fetches checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..decoding.loop import DecodingError
from ..early_interrupt import INTERRUPTED
from ..errors import InputError, is_out_of_memory
from . import bench, compare, download, generate, gpu
from .console import accept_every_character
from .memory import ADVICE
from .options import pick_device

COMMANDS = (
    generate,
    compare,
    bench,
    gpu,
    download,
)  # each offers add_parser(subparsers) and run(arguments) -> code or None
FAILED = 2  # exit code: bad input


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mcsjd_core",
        description="Draw pictures with autoregressive models, several tokens per forward and without changing the result's law.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 if some rows of a prompt file or sections of `bench` failed or `gpu` found
    something wrong, 2 after bad input (argparse exits by itself), 130 after Ctrl-C."""
    accept_every_character()
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (InputError, DecodingError) as error:
        return _end(FAILED, str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _end(FAILED, f"Memory ran out on {pick_device(getattr(arguments, 'device', 'cpu'))}; {ADVICE}.")
    except OSError as error:
        return _end(FAILED, f"A file cannot be read or written: {error}.")
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "Interrupted; what was not finished is not written.")


def _end(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code
