"""Arguments that the commands share, and what they are turned into."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from ..decoding.loop import AUTO
from ..decoding.settings import ALL_INITIALISERS
from ..errors import InputError
from ..families.interface import Family
from ..families.loading import EMBEDDED_MODEL, load
from ..laws.law import LawSettings
from ..nn.weights import WEIGHT_FORMATS
from .threads import leave_busy_cores_alone

LAW_FIELDS = {"cfg": "cfg_scale", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model draws, and how."""
    group = add_checkpoint_arguments(parser)
    group.add_argument("--size", metavar="WxH", help="of the picture in pixels (default: the checkpoint's own)")
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--compile",
        dest="execution",
        action="store_const",
        const="compiled",
        default="eager",
        help="run forward and coupling through torch.compile: takes minutes, which pays off for many pictures in a row",
    )
    how.add_argument(
        "--capture", dest="execution", action="store_const", const="captured",
        help="record them as CUDA graphs and replay these: needs a CUDA device",
    )  # fmt: skip


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which model is loaded, and how its weights are held; the group of these options."""
    parser.set_defaults(execution="eager")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=named_path,
        default=EMBEDDED_MODEL,
        metavar="DIR",
        help="checkpoint directory (default: the embedded picture model)",
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the transformer (default: %(default)s)")
    group.add_argument(
        "--weights",
        choices=WEIGHT_FORMATS,
        default="full",
        help="how the transformer's matrices are held: full in --dtype, bf16 in half the memory of float32, with the "
        "same results if the checkpoint was published in bf16, fp8 or int8 (needs torchao) in 8 "
        "bits, which draws from a slightly different law (default: %(default)s)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    return group


def named_path(text: str) -> Path:
    """An argument's type: absolute, for `.` has no name, and links unresolved, for files beside them and their names count."""
    return Path(text).absolute()


def add_law_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target law", "what is drawn from; defaults are the checkpoint's own")
    group.add_argument("--cfg", type=float, metavar="SCALE", help="classifier-free guidance; 1 is none")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest codes; 0 keeps all")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="keep the likeliest codes that reach probability P; 1 keeps all"
    )
    group.add_argument(
        "--min-p", type=float, metavar="P", help="keep codes at least P times as likely as the likeliest; 0 keeps all"
    )
    group.add_argument(
        "--negative", default="", metavar="TEXT", help="what guidance leads away from (default: the empty prompt)"
    )


def add_initialiser_argument(group, names: list[str], default: str | None) -> None:
    group.add_argument(
        "--initialiser",
        choices=names,
        default=default,
        help="first draft of a position that enters the window; recall also drafts anew after every commit, by laws of the "
        "same surroundings (default: random)",
    )


def window_width(text: str) -> int | str:
    """A whole number or `auto`, which 0 stands for as well, as an argument's type."""
    try:
        return AUTO if text == AUTO else int(text) or AUTO
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers or {AUTO} are expected, got {text!r}") from None


COLD_INITIALISERS = [name for name in ALL_INITIALISERS if name != "warm"]  # those that need no earlier result


def open_model(arguments: argparse.Namespace, packed: bool = True) -> Family:
    """The model that was asked for; `packed` where nothing but this process reads its matrices."""
    device = pick_device(arguments.device)
    if device == "cpu":
        leave_busy_cores_alone()
    return load(
        arguments.model,
        dtype=DTYPES[arguments.dtype],
        device=device,
        weights=arguments.weights,
        packed=packed and arguments.execution != "compiled",  # torch.compile chooses layouts of its own
    )


def pick_device(name: str) -> str:
    """The name itself, for `auto` a GPU where there is one; `load` refuses what this machine does not have."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def law_settings(arguments: argparse.Namespace, defaults: LawSettings) -> LawSettings:
    """The law asked for; what was left out comes from the checkpoint."""
    given = {field: getattr(arguments, option) for option, field in LAW_FIELDS.items()}
    return replace(defaults, **{field: value for field, value in given.items() if value is not None})


def output_file(path: Path, *suffixes: str) -> Path:
    """`path`, with its folder made. Called before any work is done, so that a wrong name costs nothing."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} cannot be written: the file name must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be created ({error.strerror}); choose another folder.") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written (permission denied); choose another folder.")
    return path
