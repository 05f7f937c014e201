"""`download`: a public checkpoint, after its size and licence were shown."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..checkpoints.catalogue import DOWNLOADS, choose_download, describe
from ..checkpoints.transfer import fetch, listing
from ..errors import InputError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "download",
        help="fetch a public checkpoint",
        description="Fetch a public checkpoint from huggingface.co. Size and licence are shown first, and nothing is downloaded "
        "before you agree. An interrupted download resumes when it is started again. Names: "
        + ", ".join(DOWNLOADS)
        + ".",
    )
    parser.add_argument("name", metavar="NAME", help="of the checkpoint")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("models/mcsjd"),
        metavar="DIR",
        help="model folder, in which the checkpoint gets a folder of its own; ComfyUI looks in its own models/mcsjd (default: "
        "%(default)s in the current folder)",
    )
    parser.add_argument("--yes", action="store_true", help="agree to size and licence without being asked")
    return parser


def run(arguments: argparse.Namespace) -> None:
    download = choose_download(arguments.name)
    print(describe(arguments.name, arguments.folder))
    if not (arguments.yes or _agreed()):
        print("Nothing was downloaded.")
        return
    fetch(listing(arguments.name), arguments.folder)
    print(f"{arguments.folder / download.folder} is ready.")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise InputError("There is no terminal to ask on; read the size and licence above, then agree with --yes.")
    try:
        return input("Download it under this licence? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False
