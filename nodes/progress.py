"""What a person sees of a run, and the way to stop it: ComfyUI's progress bar, live pictures, the Stop button."""

from __future__ import annotations

import logging
import math

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
    """Pictures of a run for its node: rare enough to cost little, by its own clock."""

    def __init__(self, family: Family, grid: Grid, budget: Budget | None = None):
        self.family, self.grid, self.budget = family, grid, budget or Budget()
        self.enabled = family.clip.has_pixels
        # What a preview is counted in: token rows of pictures, code frames of videos.
        self.drafted, self.draw = (
            (drafted_rows, unfinished_pictures) if grid.frames == 1 else (drafted_code_frames, unfinished_frames)
        )

    @property
    def seconds(self) -> float:
        """Spent on previews so far."""
        return self.budget.spent

    def picture(self, step: Step) -> Image.Image | None:
        """How the run stands, if it is time for a picture and memory allows one."""
        count = min(PREVIEWED, len(step.done))
        wanted = self.drafted(step, self.grid, count)
        is_last = min(step.done) == self.grid.num_tokens
        rows = self.budget.rows(wanted, is_last) if self.enabled else 0
        if not rows:
            return None
        try:
            with self.budget.spend(rows):
                pixels = self.draw(self.family, self.grid, step, count, rows)
                picture = sheet(pixels)
        except getattr(mm, "OOM_EXCEPTION", torch.cuda.OutOfMemoryError):
            logging.info("MC-SJD: no memory is left for live previews, the run goes on without them.")
            self.enabled = False
            return None
        return picture if rows == wanted else None  # else it was a trial


def sheet(pixels: Tensor) -> Image.Image:
    """An RGB image of pictures [B, 3, H, W] in 0..1, as near to a square of them as can be."""
    count, _, height, width = pixels.shape
    columns = math.ceil(math.sqrt(count))
    places = pixels.new_full((math.ceil(count / columns) * columns, 3, height, width), BLANK)
    places[:count] = pixels
    rows = places.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # R h, C w, 3
    return Image.fromarray((rows * 255).round().byte().cpu().numpy())
