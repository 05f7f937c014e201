"""The socket types, and the records that travel on them.

A record on MCSJD_STATS is a `mcsjd_core.reporting.report.Report`, one on MCSJD_PROMPTS a list of texts, one on MCSJD_DIFFUSION
a `LoadedDiffusion` of diffusion_models.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core.decoding.grid import Grid
from ..mcsjd_core.errors import InputError
from ..mcsjd_core.families.interface import Family

CATEGORY = "MC-SJD"

ModelSocket = io.Custom("MCSJD_MODEL")
TokensSocket = io.Custom("MCSJD_TOKENS")
StatsSocket = io.Custom("MCSJD_STATS")
PromptsSocket = io.Custom("MCSJD_PROMPTS")
DiffusionSocket = io.Custom("MCSJD_DIFFUSION")


def size_input(tooltip: str) -> io.String.Input:
    """The optional input `size`; `tooltip` says what it is left empty for."""
    return io.String.Input("size", optional=True, default="", placeholder="the model's own", tooltip=tooltip)


def in_node(text: str) -> dict:
    """What NodeOutput(ui=...) takes to show a text inside the node; `web/js/text.js` draws it."""
    return {"mcsjd_text": [text]}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint in ComfyUI's care. `identity` changes with the files it was read from, not with the dtype."""

    name: str
    identity: str
    family: Family
    dtype: str  # as people read it, of the transformer's weights
    token_patcher: ModelPatcher
    codec_patcher: ModelPatcher
    execution: str = "eager"  # of the iterations, one of the core's EXECUTIONS
    logits_change: float | None = None  # made by 8-bit weights, see the core's weight_error.py

    @property
    def patcher(self) -> ModelPatcher:
        """Tells ComfyUI's cache that a result holds a model, so that it is kept while prompts use it."""
        return self.token_patcher

    def get_models(self) -> list[ModelPatcher]:
        """The same for the newest versions: all of them."""
        return [self.token_patcher, self.codec_patcher]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """Token rows [B, n] int64 on the CPU of pictures of `size`, whole ones or the first rows of `grid`.

    The model's codebook gives them a meaning, so they say whose they are.
    """

    tokens: Tensor
    size: str
    grid: Grid
    model_name: str
    model_identity: str
    texts: tuple[str, ...] = ()  # the prompt of every row, where a sampler drew them
    given: int = 0  # frames that a video began with: they were given, not drawn
    before: ImageTokens | None = None  # the video that this one continues, where these frames are its last ones

    @classmethod
    def of(
        cls, tokens: Tensor, size: str, model: LoadedModel, frames: int | None = None, texts: Iterable[str] = ()
    ) -> ImageTokens:
        """Tokens of pictures, or of videos of `frames` frames (None: as many as the model was made for)."""
        return cls(tokens.cpu(), size, model.family.grid(size, frames), model.name, model.identity, tuple(texts))

    def _comfy_cache_tensors(self) -> list[Tensor]:
        """What ComfyUI's cache counts of this result."""
        return [self.tokens, *(() if self.before is None else self.before._comfy_cache_tensors())]

    @property
    def part(self) -> int:
        """Which part of a long video this is, counted from 0."""
        return 0 if self.before is None else self.before.part + 1

    def given_tokens(self, model: LoadedModel) -> int:
        """How many of the first tokens are of frames that are not the video's own; those that the model needs at the least."""
        clip = model.family.clip
        frames = max(self.given, min(clip.start_frames))
        return self.grid.start + clip.code_frames(frames) * self.grid.frame_tokens if frames else 0

    @property
    def rows(self) -> int:
        """Rows of the grid that are there."""
        return min(self.tokens.shape[1] // self.grid.stride, self.grid.rows * self.grid.frames)

    @property
    def is_whole(self) -> bool:
        return self.tokens.shape[1] == self.grid.num_tokens

    def codes(self) -> Tensor:
        """Codes [B, rows, columns] of the rows that are there."""
        return self.grid.upper(self.rows).codes(self.tokens[:, : self.rows * self.grid.stride])

    def crop(self, rows: int) -> ImageTokens:
        """The first `rows` rows of every picture, at least one fewer than a whole picture has."""
        self.grid.upper(1)  # raises where a part of a picture cannot be continued
        whole = self.grid.rows * self.grid.frames
        if not 1 <= rows <= min(self.rows, whole - 1):
            kept = "" if self.rows == whole else f", of which the first {self.rows} are left"
            raise InputError(
                f"A picture of {self.model_name!r} at {self.size} has {whole} rows of tokens{kept}; keep between 1 and "
                f"{min(self.rows, whole - 1)} of them, got {rows}."
            )
        return replace(self, tokens=self.tokens[:, : rows * self.grid.stride])

    def require(self, model: LoadedModel) -> ImageTokens:
        """The same, if they are `model`'s."""
        if self.model_identity != model.identity:
            raise InputError(
                f"These tokens were drawn by {self.model_name!r} and mean nothing to {model.name!r}: "
                "connect the model that drew them."
            )
        return self

    def require_whole(self, purpose: str) -> ImageTokens:
        """The same, if every picture is complete."""
        if not self.is_whole:
            raise InputError(
                f"These tokens are cropped to {self.rows} of {self.grid.rows * self.grid.frames} rows; {purpose} needs "
                "whole pictures, so connect the tokens from before the crop."
            )
        return self
