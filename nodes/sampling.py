"""Draw image tokens from a prompt."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core import Decoded, DecodeSettings, Drawing, InputError, LawSettings
from ..mcsjd_core.checkpoints.checkpoint import calling
from ..mcsjd_core.families.sizes import choose_size
from ..mcsjd_core.reporting.report import Report
from . import runtime
from .long_video import continue_video_input
from .notes import tell
from .progress import check_cancelled
from .prompts import prompts_input, texts_of
from .redraw import redraw_inputs, to_keep
from .repeat import Repeats
from .sampler_inputs import (
    METHODS,
    OWN,
    batch_and_guesses,
    given_inputs,
    how_to_draw,
    law_inputs,
    looks_inputs,
    min_p_input,
    what_to_draw,
)
from .schema import schema
from .seeds import COUNTED_LABEL, batch_seeds_input, row_seeds_of
from .speed import check_trajectories, trajectories_input
from .types import CATEGORY, ImageTokens, LoadedModel, StatsSocket, TokensSocket, in_node
from .video import Start, encoded_texts, start_of, video_inputs

DRAWN = Repeats()


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_Sampler",
            display_name="MC-SJD Sampler",
            category=CATEGORY,
            description="Draws the tokens of pictures from a prompt, several tokens per forward of the model. "
            "Every coupling draws from exactly the same distribution as plain AR sampling; they "
            "differ in the number of forwards.",
            inputs=[
                *what_to_draw(),
                *how_to_draw(),
                *law_inputs(),
                *batch_and_guesses(),
                *given_inputs(),
                *looks_inputs(),
                *video_inputs(),
                trajectories_input(),
                *redraw_inputs(),
                prompts_input(),
                batch_seeds_input(),
                min_p_input(),
                continue_video_input(),
            ],
            outputs=[
                TokensSocket.Output(display_name="tokens", tooltip="The drawn tokens, for the decode nodes."),
                StatsSocket.Output(display_name="stats", tooltip="What the run cost, for Speed-up Stats."),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, live_preview: bool = True, **inputs) -> io.NodeOutput:
        looks = {"live_preview": live_preview}
        result = DRAWN.find({"model": model, **inputs}, looks)
        if result is None:
            result = draw(model, live_preview=live_preview, **inputs)
            DRAWN.keep({"model": model, **inputs}, looks, result)
        *outputs, note = result
        return io.NodeOutput(*outputs, ui=in_node(note))


def draw(
    model: LoadedModel, prompt: str, seed: int, coupling: str, window: int, cfg: float, temperature: float, top_k: int,
    top_p: float, batch_size: int, initialiser: str, negative: str = "", size: str = "",
    first_tokens: ImageTokens | None = None, warm_tokens: ImageTokens | None = None, live_preview: bool = True,
    record_details: bool = False, start_frames: Tensor | None = None, frames: int = 0, text_encoder=None,
    trajectories: int = 1, picture_tokens: ImageTokens | None = None, redraw_mask: Tensor | None = None,
    prompts: list[str] | str | None = None, batch_seeds: str = COUNTED_LABEL, min_p: float = OWN,
    continue_video: ImageTokens | None = None,
) -> tuple[ImageTokens, Report, str]:  # fmt: skip
    """The tokens that the sampler's inputs ask for, what they cost, and what is to be said of the run, if anything."""
    asked = {"cfg_scale": cfg, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    texts = texts_of(prompt, prompts, batch_size)
    warm_tokens = warm_tokens if initialiser == "warm" else None
    if redraw_mask is not None and redraw_mask.ndim != 3:
        redraw_mask = redraw_mask.reshape(-1, *redraw_mask.shape[-2:])  # as the host's own nodes take masks
    check_counts(
        len(texts),
        warm_tokens=warm_tokens,
        first_tokens=first_tokens,
        picture_tokens=picture_tokens,
        redraw_mask=redraw_mask,
    )
    size = common_size(model, size, first_tokens, warm_tokens, picture_tokens, continue_video)
    count = common_length(model, frames, warm_tokens=warm_tokens, picture_tokens=picture_tokens)
    start = start_of(
        model, size, count, len(texts), start_frames=start_frames, first_tokens=first_tokens,
        continue_video=continue_video, picture_tokens=picture_tokens,
    )  # fmt: skip
    settings = settings_of(
        model, coupling, window, own_settings(model.family.defaults.law, **asked), initialiser=initialiser, seed=seed,
        record_details=record_details, trajectories=trajectories, batch_seeds=batch_seeds, continued=start.before,
    )  # fmt: skip
    if warm_tokens is not None:
        warm_tokens.require_whole("the warm initialiser")
    encoded = encoded_texts(text_encoder, [*texts, negative])
    runtime.follow_weights(model.token_patcher)  # the text encoder may have pushed them out
    with calling(check_cancelled):  # a model's own text encoder is read and run here
        drawing = Drawing.of(
            model.family,
            texts,
            settings,
            size=size,
            frames=count,
            negatives=[negative] * len(texts),
            encoded=encoded,
            first_codes=None if start.tokens is None else start.tokens.codes(),
            earlier_tokens=None if warm_tokens is None else warm_tokens.tokens,
            kept_tokens=to_keep(model, picture_tokens, redraw_mask),
        )
    note = drawing.note or ""
    tell(note)
    decoded, preview_seconds = runtime.sample(model, drawing, live_preview)
    tokens = replace(ImageTokens.of(decoded.tokens, size, model, count, texts), before=start.before, given=start.given)
    return tokens, cost_of(model, decoded, drawing, start, preview_seconds), note


def cost_of(model: LoadedModel, decoded: Decoded, drawing: Drawing, start: Start, preview_seconds: float) -> Report:
    """What the run cost."""
    return Report.of(
        decoded,
        drawing.settings,
        model=model.name,
        device=decoded.tokens.device,
        dtype=model.dtype,
        grid=drawing.grid,
        preview_seconds=preview_seconds,
        start_note=start.note,
        skipped_frames=start.skipped,
    )


def settings_of(
    model: LoadedModel, coupling: str, window: int, law: LawSettings, *, initialiser: str, seed: int, record_details: bool,
    trajectories: int, batch_seeds: str, continued: ImageTokens | None,
) -> DecodeSettings:  # fmt: skip
    """How to decode with the coupling of that label; a negative window is the model's own."""
    if coupling not in METHODS:
        raise InputError(f"coupling must be one of {', '.join(METHODS)}, got {coupling!r}.")
    check_trajectories(trajectories, METHODS[coupling], record_details)
    return DecodeSettings(
        METHODS[coupling],
        model.family.defaults.window if window < 0 else window,
        law,
        initialiser,
        seed,
        record_details,
        trajectories,
        model.execution,
        part=0 if continued is None else continued.part + 1,
        row_seeds=row_seeds_of(batch_seeds),
    )


def own_settings(own: LawSettings, **asked: float) -> LawSettings:
    """The law asked for; what is negative is the model's own."""
    return replace(own, **{name: value for name, value in asked.items() if value >= 0})


def check_counts(batch: int, **given: ImageTokens | Tensor | None) -> None:
    """Raise InputError unless each has one picture, or one for every picture of the run."""
    for name, value in given.items():
        if value is None:
            continue
        count = len(value.tokens if isinstance(value, ImageTokens) else value)
        if count not in (1, batch):
            raise InputError(
                f"{name} is a batch of {count}, but this run draws {batch}; connect a single one, or set batch_size so that "
                "there is one for each."
            )


def common_length(model: LoadedModel, frames: int, **given: ImageTokens | None) -> int | None:
    """Frames asked for, or those of the whole videos given; None for the model's own number, and for pictures.

    Raises InputError if the two differ.
    """
    clip = model.family.clip
    for name, tokens in given.items():
        if tokens is None or clip.is_picture:
            continue
        own = clip.pixel_frames(tokens.grid.frames)
        if frames not in (0, own):
            raise InputError(
                f"{name} hold a video of {own} frames, but this run draws {frames}; set frames to {own}, or to 0."
            )
        frames = own
    return frames or None


def common_size(model: LoadedModel, size: str, *given: ImageTokens | None) -> str:
    """The size asked for, or that of the tokens given; raises InputError if they are of another model or size."""
    tokens = [each.require(model) for each in given if each is not None]
    chosen = choose_size(size.strip() or next((each.size for each in tokens), None), model.family.sizes)
    for each in tokens:
        if each.size != chosen:
            raise InputError(
                f"The connected tokens belong to a {each.size} picture, but the picture to draw is {chosen}; leave size empty, "
                "or connect tokens of the same size."
            )
    return chosen
