"""Draw README's animation: the same prompt drawn side by side by plain AR, SJD and MC-SJD, in the time that each of them took.

    python scripts/make_race.py docs/race.webp

Each method runs alone, after one run that warms it up; every iteration's tokens are kept with the clock, and the frames are
made afterwards. What is committed shows as it is, drafts are dimmed. The clock starts after the prompt's forward.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, Grid, Step, load, pictures, sample, to_image  # noqa: E402
from mcsjd_core.families.interface import Family  # noqa: E402
from mcsjd_core.pipeline.preview import drafted_rows, unfinished_pictures  # noqa: E402
from mcsjd_core.reporting.report import METHOD_LABELS  # noqa: E402

METHODS = ("autoregressive", "independent", "maximal")
FRAME_RATE, HOLD_SECONDS = 10, 2  # the last frame stays
TILE, GAP, HEAD, FOOT = 224, 16, 34, 56
INK, GREY = "#1c1c22", "#6b6b76"
QUALITY = 80


@dataclass(frozen=True)
class Moment:
    """What a run had after one iteration: seconds since its first one began, and how many forwards it took until then."""

    seconds: float
    step: Step

    @property
    def forwards(self) -> int:
        return self.step.iteration


@dataclass(frozen=True)
class Run:
    label: str
    moments: list[Moment]
    picture: Image.Image  # when it is finished

    @property
    def seconds(self) -> float:
        return self.moments[-1].seconds

    def at(self, seconds: float) -> Moment | None:
        """The last moment before `seconds`."""
        return next((moment for moment in reversed(self.moments) if moment.seconds <= seconds), None)


def timed(model: Family, prompt: str, settings: DecodeSettings) -> Run:
    sample(model, [prompt], settings)
    moments: list[Moment] = []

    def note(step: Step) -> None:
        now = time.perf_counter()
        moments.append(Moment(now, Step(step.iteration, step.tokens.clone(), list(step.done), list(step.drafted))))

    started = time.perf_counter()
    decoded = sample(model, [prompt], settings, on_step=note)
    began = started + decoded.prefill_seconds
    moments = [Moment(moment.seconds - began, moment.step) for moment in moments]
    return Run(METHOD_LABELS[settings.coupling], moments, to_image(pictures(model, decoded.tokens)[0]))


def frame_of(model: Family, grid: Grid, run: Run, seconds: float) -> Image.Image:
    """The run's picture at that time."""
    moment = run.at(seconds)
    if moment is run.moments[-1]:
        return run.picture
    if moment is None:
        return Image.new("RGB", run.picture.size, (38, 38, 38))
    rows = max(1, drafted_rows(moment.step, grid, 1))
    return to_image(unfinished_pictures(model, grid, moment.step, 1, rows)[0])


def draw_frame(model: Family, grid: Grid, prompt: str, runs: list[Run], seconds: float) -> Image.Image:
    canvas = Image.new("RGB", (len(runs) * (TILE + GAP) + GAP, HEAD + TILE + FOOT), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, 8), f'"{prompt}"', INK, ImageFont.load_default(16))
    for number, run in enumerate(runs):
        x, moment = GAP + number * (TILE + GAP), run.at(seconds)
        picture = frame_of(model, grid, run, seconds).resize((TILE, TILE), Image.Resampling.LANCZOS)
        canvas.paste(picture, (x, HEAD))
        forwards = 0 if moment is None else moment.forwards
        pen.text((x, HEAD + TILE + 6), run.label, INK, ImageFont.load_default(15), stroke_width=0.4, stroke_fill=INK)
        told = f"{forwards} forwards, {min(seconds, run.seconds):.1f} s"
        pen.text((x, HEAD + TILE + 28), told, INK if seconds >= run.seconds else GREY, ImageFont.load_default(15))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--prompt", default="a red apple on grass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model = load(a.model, packed=True)
    law, window = model.defaults.law, model.defaults.window
    settings = [DecodeSettings(method, 1 if method == METHODS[0] else window, law, seed=a.seed) for method in METHODS]
    runs = [timed(model, a.prompt, one) for one in settings]
    length = max(run.seconds for run in runs)
    times = [count / FRAME_RATE for count in range(int(length * FRAME_RATE) + 2)]
    frames = [draw_frame(model, model.grid(), a.prompt, runs, seconds) for seconds in times]
    spans = [1000 // FRAME_RATE] * (len(frames) - 1) + [1000 * HOLD_SECONDS]
    frames[0].save(a.out, save_all=True, append_images=frames[1:], duration=spans, loop=0, quality=QUALITY, method=6)
    print(f"{a.out}: {len(frames)} frames, {a.out.stat().st_size / 2**20:.2f} MiB")
    for run in runs:
        print(f"{run.label}: {run.moments[-1].forwards} forwards, {run.seconds:.2f} s")


if __name__ == "__main__":
    main()
