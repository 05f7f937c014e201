"""`generate`: one picture, or one video, for every prompt and seed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..decoding.loop import METHODS, Decoded, DecodeSettings, Step
from ..decoding.settings import ALL_INITIALISERS
from ..errors import InputError
from ..families.interface import Family, SamplingDefaults
from ..families.loading import draws_video
from ..families.sizes import choose_size
from ..pipeline.clip_files import VIDEO_SUFFIXES, check_writable, read_clip, write_clip
from ..pipeline.image_files import to_image
from ..pipeline.long_video import sample_long, tokens_to_draw
from ..pipeline.sampling import Drawing, pictures
from ..pipeline.video import start_codes, videos
from ..reporting.report import describe_law
from . import prompt_rows, several_gpus
from .files import TOKEN_SUFFIXES, read_codes, read_tokens, write_tokens
from .memory import check_memory
from .options import (
    add_initialiser_argument,
    add_law_arguments,
    add_model_arguments,
    law_settings,
    open_model,
    output_file,
    pick_device,
    window_width,
)
from .outputs import write_text, write_whole
from .progress import advance, token_bar


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generate",
        help="draw pictures, or continue videos",
        description="Draw a picture for every prompt, and write it as PNG; video models write MP4 or animated WebP.",
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; '' for a model that reads no text")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: .png, for videos .mp4 (needs the package av) or .webp; several become NAME-1.png, "
        "NAME-2.png ... (default: picture.png, or video.webp)",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures of each prompt (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the first picture; the next ones use S + 1, S + 2 ..."
    )
    prompt_rows.add_arguments(parser)
    several_gpus.add_argument(parser)
    _add_decoding_arguments(parser)
    add_law_arguments(parser)
    _add_start_arguments(parser)
    add_model_arguments(parser)
    group = parser.add_argument_group("what else to write")
    group.add_argument("--trace", type=Path, metavar="JSON", help="settings, and what every forward committed")
    group.add_argument(
        "--trace-detail",
        action="store_true",
        help="add acceptance, total variation, change and collision of every window position",
    )
    group.add_argument("--save-tokens", type=Path, metavar="FILE", help="tokens, as .safetensors or .json")
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decoding")
    group.add_argument(
        "--coupling",
        choices=METHODS,
        default="maximal",
        help="how drafts are renewed: independent is SJD, maximal and gumbel are MC-SJD, gumbel_exact draws the "
        "same picture as autoregressive with the same seed (default: %(default)s)",
    )
    group.add_argument(
        "--window",
        type=window_width,
        metavar="W",
        help="positions per forward; auto chooses while drawing what is fastest here; only gumbel_exact then gives the "
        "same picture for a seed every time (default: the checkpoint's own)",
    )
    group.add_argument(
        "--trajectories",
        type=int,
        default=1,
        metavar="M",
        help="chains of drafts that share every forward: fewer forwards, each of them costlier; with gumbel_exact the picture "
        "stays the same (default: %(default)s)",
    )
    add_initialiser_argument(group, list(ALL_INITIALISERS), None)


def _add_start_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("starting from something")
    group.add_argument("--continue-from", type=Path, metavar="IMAGE", help="picture whose upper rows are kept")
    group.add_argument("--keep-rows", type=int, metavar="R", help="grid rows to keep of it (default: half of them)")
    group.add_argument(
        "--start-frames",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="for video models: pictures, a folder of them, or a video; the last frames are continued",
    )
    group.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="length of the video including its start; one longer than the model's is drawn in parts, each continuing the last "
        "frames of the part before (default: the model's)",
    )
    group.add_argument(
        "--warm-tokens",
        type=Path,
        metavar="FILE",
        help="tokens of an earlier result, as --save-tokens writes them, for the warm initialiser; only with gumbel_exact",
    )


def run(arguments: argparse.Namespace) -> int | None:
    prompt_rows.check(arguments)
    several_gpus.check(arguments)
    if arguments.prompt_file is not None:
        return prompt_rows.run(arguments)
    _check(arguments)
    if arguments.tensor_parallel == 1:
        _run_one(arguments)
    else:
        with several_gpus.one_of_several(arguments) as is_first:
            _run_one(arguments, is_first, packed=False)
    return None


def _run_one(arguments: argparse.Namespace, tells: bool = True, packed: bool = True) -> None:
    """All prompts of the command in one batch; a process that `tells` nothing draws, but prints and writes nothing."""
    out = _out_file(arguments)
    model = open_model(arguments, packed)
    settings = _settings(arguments, model.defaults)
    if not model.clip.has_pixels and arguments.save_tokens is None:
        raise InputError(f"{model.clip.pixels_elsewhere} Name a file for them with --save-tokens.")
    if not model.clip.has_pixels and arguments.out is not None:
        raise InputError(f"{model.clip.pixels_elsewhere} There is no picture to write; leave out --out.")
    texts = [prompt for prompt in arguments.prompts for _ in range(arguments.batch)]
    if arguments.frames is not None and not model.clip.is_picture and arguments.frames > model.clip.frames:
        if arguments.tensor_parallel > 1:
            raise InputError(
                "A video in parts is drawn on one GPU; leave out --tensor-parallel, or ask for fewer frames."
            )
        _run_long(arguments, model, settings, texts, out)
        return
    drawing = Drawing.of(
        model,
        texts,
        settings,
        size=arguments.size,
        frames=arguments.frames,
        negatives=[arguments.negative] * len(texts),
        first_codes=_first_codes(arguments, model, tells),
        earlier_tokens=None if arguments.warm_tokens is None else read_tokens(arguments.warm_tokens),
    )
    _check_drawing(arguments, drawing, tells)
    with token_bar(len(texts) * (drawing.grid.num_tokens - drawing.given), arguments.quiet or not tells) as bar:
        decoded = drawing.run(advance(bar, drawing.given))
    if tells:
        _hand_out(arguments, model, settings, decoded, texts, out)


def _check_drawing(arguments: argparse.Namespace, drawing: Drawing, tells: bool) -> None:
    """Raise InputError if there is no room for it; a process that `tells` prints what is to know of the prompts."""
    check_memory(drawing, pick_device(arguments.device))
    if drawing.note and tells:
        print(drawing.note, file=sys.stderr)


def _hand_out(
    arguments: argparse.Namespace,
    model: Family,
    settings: DecodeSettings,
    decoded: Decoded,
    texts: list[str],
    out: Path,
) -> None:
    """Print what the run cost, and write the files that were asked for: pictures last, whose codec may yet fail."""
    files = _numbered(out, len(texts)) if model.clip.has_pixels else [arguments.save_tokens] * len(texts)
    _report(settings, decoded)
    if arguments.save_tokens:
        others = model.handed_on(decoded.tokens, arguments.size)
        write_whole(arguments.save_tokens, lambda part: write_tokens(part, decoded.tokens, others))
    if arguments.trace:
        write_text(arguments.trace, json.dumps(_trace(arguments, model, settings, texts, files, decoded)) + "\n")
    if model.clip.has_pixels:
        _write(files, model, decoded.tokens, arguments.size)


def _run_long(
    arguments: argparse.Namespace, model: Family, settings: DecodeSettings, texts: list[str], out: Path
) -> None:
    """Videos longer than the model's clip, part by part."""
    if arguments.save_tokens or arguments.trace:
        raise InputError(
            "A video in parts has no single set of tokens and no trace; leave out --save-tokens and --trace."
        )
    if settings.initialiser == "warm":
        raise InputError("A video in parts has no earlier result to start from; choose another initialiser than warm.")
    first_codes, frames = _first_codes(arguments, model), []
    total = len(texts) * tokens_to_draw(model, arguments.frames, arguments.size, first_codes)

    def begin(part: int, drawing: Drawing) -> Callable[[Step], None]:
        _check_drawing(arguments, drawing, tells=part == 0)
        return advance(bar, drawing.given)

    with token_bar(total, arguments.quiet) as bar:
        parts = sample_long(
            model,
            texts,
            settings,
            arguments.frames,
            size=arguments.size,
            negatives=[arguments.negative] * len(texts),
            first_codes=first_codes,
            on_part=begin,
        )
        for number, (new, decoded) in enumerate(parts, 1):
            frames.append(new)
            with bar.external_write_mode():
                print(f"part {number}: {new.shape[1]} new frames; ", end="")
                _report(settings, decoded)
    files = _numbered(out, len(texts))
    for file, video in zip(files, torch.cat(frames, 1), strict=True):
        write_whole(file, partial(write_clip, frames=video, frame_rate=model.clip.frame_rate))


def _check(arguments: argparse.Namespace) -> None:
    """Everything that can be said before the model is loaded."""
    if arguments.batch < 1:
        raise InputError(f"--batch must be at least 1, got {arguments.batch}.")
    if arguments.start_frames is not None and arguments.continue_from is not None:
        raise InputError("Both --start-frames and --continue-from say how to begin; give one of them.")
    if arguments.keep_rows is not None and arguments.continue_from is None:
        raise InputError("--keep-rows says how much of a picture to keep; name the picture with --continue-from.")
    if arguments.warm_tokens is not None and arguments.initialiser not in (None, "warm"):
        raise InputError(
            f"--warm-tokens needs the warm initialiser, got {arguments.initialiser}; leave --initialiser out."
        )
    if arguments.warm_tokens is not None and arguments.coupling != "gumbel_exact":
        raise InputError(f"--warm-tokens works only with --coupling gumbel_exact, got {arguments.coupling}.")
    if arguments.initialiser == "warm" and arguments.warm_tokens is None:
        raise InputError("The warm initialiser needs the tokens of an earlier result; give them with --warm-tokens.")
    if arguments.trace_detail and arguments.trace is None:
        raise InputError("--trace-detail adds to the trace; name the trace's file with --trace.")
    if arguments.trace is not None:
        for option in ("save_tokens", "warm_tokens"):
            other = getattr(arguments, option)
            if other is not None and other.resolve() == arguments.trace.resolve():
                raise InputError(
                    f"--trace and --{option.replace('_', '-')} name the same file, {other}; give each one of its own."
                )
    if arguments.frames is not None and arguments.frames < 1:
        raise InputError(f"--frames must be at least 1, got {arguments.frames}.")
    _settings(arguments, SamplingDefaults())  # refuses what no checkpoint's defaults could correct
    if arguments.trace:
        output_file(arguments.trace, ".json")
    if arguments.save_tokens:
        output_file(arguments.save_tokens, *TOKEN_SUFFIXES)


def _settings(arguments: argparse.Namespace, defaults: SamplingDefaults) -> DecodeSettings:
    return DecodeSettings(
        coupling=arguments.coupling,
        window=defaults.window if arguments.window is None else arguments.window,
        law=law_settings(arguments, defaults.law),
        initialiser=arguments.initialiser or ("warm" if arguments.warm_tokens else "random"),
        seed=arguments.seed,
        trace_detail=arguments.trace_detail,
        trajectories=arguments.trajectories,
        execution=arguments.execution,
    )


def _first_codes(arguments: argparse.Namespace, model: Family, tells: bool = True) -> Tensor | None:
    """Codes of what is kept: [1, R, columns] of a picture's rows, [1, f, rows, columns] of start frames, or None."""
    if arguments.start_frames is not None:
        clip, count = read_clip(arguments.start_frames, max(1, *model.clip.start_frames))
        if (note := model.clip.start_note(count)) and tells:
            print(f"start: {note}")
        return start_codes(model, clip, arguments.size)
    if arguments.continue_from is None:
        return None
    rows = model.grid(arguments.size).rows
    keep = rows // 2 if arguments.keep_rows is None else arguments.keep_rows
    if not 1 <= keep < rows:
        raise InputError(
            f"--keep-rows must be between 1 and {rows - 1} on this model's grid of {rows} rows, got {keep}."
        )
    return read_codes(arguments.continue_from, model, arguments.size)[:, :keep]


def _out_file(arguments: argparse.Namespace) -> Path:
    """The file asked for, if what the checkpoint draws can be written to such a one; nothing is loaded to know that."""
    video = draws_video(arguments.model)
    if video and arguments.continue_from is not None:
        raise InputError("This model draws video: give it --start-frames instead of --continue-from.")
    suffixes = (".png", *VIDEO_SUFFIXES) if video is None else VIDEO_SUFFIXES if video else (".png",)
    default = Path("video.webp" if video else "picture.png")
    out = output_file(default if arguments.out is None else arguments.out, *suffixes)
    check_writable(out)
    return out


def _write(files: list[Path], model: Family, tokens: Tensor, size: str | None) -> None:
    if model.clip.is_picture:
        for file, pixels in zip(files, pictures(model, tokens, size), strict=True):
            write_whole(file, to_image(pixels).save)
        return
    for file, frames in zip(files, videos(model, tokens, size), strict=True):
        write_whole(file, partial(write_clip, frames=frames, frame_rate=model.clip.frame_rate))


def _numbered(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    digits = len(str(count))
    return [out.with_stem(f"{out.stem}-{number:0{digits}}") for number in range(1, count + 1)]


def _trace(arguments, model: Family, settings: DecodeSettings, texts, files, decoded: Decoded) -> dict:
    """The trace file's content; `pictures` holds one row trace a picture."""
    grid = model.grid(arguments.size, arguments.frames)
    return {
        "model": arguments.model.name,
        "family": model.name,
        "size": choose_size(arguments.size, model.sizes),
        "grid": {"frames": grid.frames, "rows": grid.rows, "columns": grid.columns},
        "device": str(decoded.tokens.device),
        "dtype": arguments.dtype,
        "weights": arguments.weights,
        "negative": arguments.negative * settings.law.guided,
        "settings": asdict(settings),
        "nfe": decoded.nfe,
        "prefill_seconds": decoded.prefill_seconds,
        "seconds": decoded.seconds,
        "pictures": [
            {"file": str(file), "prompt": text, "seed": settings.seed_of(row)} | trace.as_dict()
            for row, (file, text, trace) in enumerate(zip(files, texts, decoded.traces, strict=True))
        ],
    }


def _report(settings: DecodeSettings, decoded: Decoded) -> None:
    """What the run cost; in a batch, pictures share forwards, and each takes part in as many as its tokens need."""
    traces = decoded.traces
    compression = sum(trace.step_compression for trace in traces) / len(traces)
    tokens, forwards = f"{traces[0].num_tokens} tokens", f"{decoded.nfe} forwards"
    if len(traces) > 1:
        tokens, forwards = f"{len(traces)} times {tokens}", f"{decoded.nfe} shared forwards"
    mean = "mean step compression" if len(traces) > 1 else "step compression"
    print(
        f"{settings.coupling}, window {settings.window_name}, {describe_law(settings.law)}: {tokens} in {forwards} and "
        f"{decoded.seconds:.2f} s, {mean} {compression:.2f}"
    )
