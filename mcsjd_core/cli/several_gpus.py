"""`generate --tensor-parallel N`: one of N processes that torchrun has started draws with its slice of the model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from ..decoding.loop import AUTO
from ..errors import InputError
from ..scale import tensor_parallel
from .options import pick_device

FORMATS = ("full", "bf16")


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="split the model across N GPUs: torchrun --nproc-per-node N -m mcsjd_core generate ...; see docs/scale.md "
        "(default: %(default)s)",
    )


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for what several processes cannot do, or cannot agree on."""
    if arguments.tensor_parallel < 1:
        raise InputError(f"--tensor-parallel must be at least 1, got {arguments.tensor_parallel}.")
    if arguments.tensor_parallel == 1:
        return
    if arguments.window == AUTO:
        raise InputError(
            "--window auto follows the clock, which differs between processes; with --tensor-parallel, give --window a number."
        )
    if ":" in arguments.device:
        raise InputError(
            f"--device {arguments.device} is a single device, and each process takes one of its own; leave out its number."
        )
    if arguments.execution != "eager":
        raise InputError("A model over several GPUs cannot be compiled or captured; leave out --compile and --capture.")
    if arguments.weights not in FORMATS:
        raise InputError(
            f"--weights {arguments.weights} is for one GPU; use {' or '.join(FORMATS)} with --tensor-parallel."
        )
    if arguments.prompt_file is not None:
        raise InputError(
            "A prompt file is drawn with whole models; leave out --tensor-parallel, or give single prompts."
        )


@contextmanager
def one_of_several(arguments: argparse.Namespace) -> Iterator[bool]:
    """Inside, checkpoints are loaded by slices; gives whether this process is the one that prints and writes."""
    size, device = arguments.tensor_parallel, pick_device(arguments.device)
    with tensor_parallel.joined(size, device) as group, tensor_parallel.shared(group):
        yield group.is_first
