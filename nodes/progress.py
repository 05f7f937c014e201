"""What a person sees of a run, and the way to stop it: ComfyUI's progress bar, live pictures, the Stop button."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import comfy.model_management as mm
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ..mcsjd_core import Grid, Step
from ..mcsjd_core.families.interface import Family
from ..mcsjd_core.pipeline.preview import (
    BLANK,
    Budget,
    drafted_code_frames,
    drafted_rows,
    step_of_rows,
    unfinished_frames,
    unfinished_pictures,
)

PREVIEW_SIDE = 512  # pixels; larger pictures are sent smaller
PREVIEWED = 4  # pictures of a batch that a preview shows


def check_cancelled() -> None:
    """Raise ComfyUI's interrupt if the user pressed Stop; nobody below ComfyUI may catch it."""
    mm.throw_exception_if_processing_interrupted()


class Progress:
    """ComfyUI's progress bar of the node that runs. Every update raises if the user pressed Stop."""

    def __init__(self, total: int):
        self.total, self.bar = total, comfy.utils.ProgressBar(total)

    def update(self, done: int, picture: Image.Image | None = None) -> None:
        check_cancelled()  # the bar of newer versions skips most updates, and the check in them
        if picture is None:
            self.bar.update_absolute(done, self.total)
        else:
            side = PREVIEW_SIDE if max(picture.size) > PREVIEW_SIDE else None
            # RGB as JPEG: with an alpha channel, ComfyUI's server thread would die of it.
            self.bar.update_absolute(done, self.total, ("JPEG", picture, side))


class LivePreview:
    """Pictures of a run for its node: rare enough, by their own clock, to cost little, and a complete one at the end.

    During the run one picture of the batch is updated at a time, the one that is furthest behind, so that a batch is
    seen to grow as often as a single picture.
    """

    def __init__(self, family: Family, grid: Grid, budget: Budget | None = None):
        self.family, self.grid, self.budget = family, grid, budget or Budget()
        self.enabled = family.clip.has_pixels
        self.pixels: Tensor | None = None  # [count, 3, H, W] as last shown
        self.shown: list[int] = []  # drafted tokens of each in it
        # What a preview is counted in: token rows of pictures, code frames of videos.
        self.drafted, self.draw = (
            (drafted_rows, unfinished_pictures) if grid.frames == 1 else (drafted_code_frames, unfinished_frames)
        )

    @property
    def seconds(self) -> float:
        """Spent on previews so far."""
        return self.budget.spent

    def picture(self, step: Step) -> Image.Image | None:
        """The state of the run, if it is time for a picture and memory allows one."""
        if not self.enabled:
            return None
        count = min(PREVIEWED, len(step.done))
        self.shown = self.shown or [0] * count
        if min(step.done) == self.grid.num_tokens:
            return self._show(step, list(range(count)), is_due=True)
        behind = max(range(count), key=lambda row: step.drafted[row] - self.shown[row])
        return self._show(step, [behind], is_due=False)

    def _show(self, step: Step, rows: list[int], is_due: bool) -> Image.Image | None:
        """The sheet with `rows` of the batch drawn anew, if they are due or the budget allows it."""
        counted = replace(step, drafted=[step.drafted[row] for row in rows])  # no tokens: these are on the device
        wanted = self.drafted(counted, self.grid, len(rows))
        allowed = wanted if is_due else self.budget.rows(wanted)
        if not allowed:
            return None
        try:
            with self.budget.spend(allowed * len(rows)):
                part = step_of_rows(step, rows)
                pixels = self.draw(self.family, self.grid, part, len(rows), allowed)
                if allowed < wanted:
                    pixels.flatten()[0].item()  # waits for the device, so that its time is counted
                    return None  # it was a trial
                return sheet(self._keep(pixels, rows, part))
        except getattr(mm, "OOM_EXCEPTION", torch.cuda.OutOfMemoryError):
            logging.info("MC-SJD: no memory is left for live previews; the run continues without them.")
            self.enabled = False
            return None

    def _keep(self, pixels: Tensor, rows: list[int], part: Step) -> Tensor:
        """All pictures, `rows` of them now with the given pixels."""
        if self.pixels is None:
            self.pixels = pixels.new_full((len(self.shown), *pixels.shape[1:]), BLANK)
        self.pixels[rows] = pixels
        for row, drafted in zip(rows, part.drafted, strict=True):
            self.shown[row] = drafted
        return self.pixels


def sheet(pixels: Tensor) -> Image.Image:
    """An RGB image of pictures [B, 3, H, W] in 0..1, as near to a square of them as can be."""
    count, _, height, width = pixels.shape
    columns = math.ceil(math.sqrt(count))
    cells = pixels.new_full((math.ceil(count / columns) * columns, 3, height, width), BLANK)
    cells[:count] = pixels
    rows = cells.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # R h, C w, 3
    return Image.fromarray((rows * 255).round().byte().cpu().numpy())
