"""Draw image tokens from a prompt."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core import INITIALISERS, DecodeSettings, InputError, LawSettings
from ..mcsjd_core.decoding.drafts import RECALL
from ..mcsjd_core.families.sizes import choose_size
from ..mcsjd_core.reporting.report import METHOD_LABELS, Report
from . import runtime
from .long_video import continue_video_input
from .prompts import prompts_input, texts_of
from .redraw import redraw_inputs, to_keep
from .repeat import Repeats
from .schema import schema
from .seeds import COUNTED_LABEL, batch_seeds_input, row_seeds_of
from .speed import check_trajectories, trajectories_input
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, StatsSocket, TokensSocket, size_input
from .video import encoded_texts, start_of, video_inputs

METHODS = {label: name for name, label in METHOD_LABELS.items()}
# In the order of saved graphs: what came later stands last.
STARTS = [*(name for name in INITIALISERS if name != "previous_frame"), "previous_frame", RECALL]
PROMPT = "a red apple on grass"
OWN = -1  # of a setting: the model's own, as it was published
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
                ModelSocket.Input("model", tooltip="The model to draw with."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default=PROMPT,
                    tooltip="What to draw. The embedded model knows things in places: a pumpkin on pebbles, a blue car "
                    "in a city. Line breaks and repeated spaces count as one space. If this is empty, the embedded "
                    "model and models of classes draw anything; other models get their usual request without "
                    "a description, as their authors send it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="A different seed gives a different picture; the same seed and settings give the same "
                    "one. The other pictures of a batch use seed + 1, seed + 2, ..., so with increment the "
                    "next batch repeats all but one of them: batch_seeds changes that.",
                ),
                io.Combo.Input(
                    "coupling",
                    options=list(METHODS),
                    default=METHOD_LABELS["maximal"],
                    tooltip="How guessed tokens are checked. plain AR: one token per forward, the baseline. SJD "
                    "(independent): guesses after a wrong one are redrawn from scratch. MC-SJD: they are "
                    "redrawn so that they change as rarely as possible, which needs fewer forwards; maximal "
                    "usually needs the fewest. seed-exact: the very picture that plain AR draws with this "
                    "seed, in fewer forwards; unless dtype is fp32, rounding can change it.",
                ),
                io.Int.Input(
                    "window",
                    default=OWN,
                    min=OWN,
                    max=1024,
                    tooltip="Tokens that one forward looks at; -1 is the model's own number. A larger window needs "
                    "fewer forwards, but each of them costs more, and the gain levels off. 1 is as slow as "
                    "plain AR, which always uses 1. 0 is auto: chosen while drawing, by what is fastest on "
                    "this computer; the same seed then gives the same picture only with seed-exact.",
                ),
                io.Float.Input(
                    "cfg",
                    default=OWN,
                    min=OWN,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly the prompt is followed (classifier-free guidance); -1 is the model's own "
                    "setting, which Load Model shows. Higher: closer to the prompt, less variety. 1 is off "
                    "and halves the work of every forward.",
                ),
                io.Float.Input(
                    "temperature",
                    default=OWN,
                    min=OWN,
                    max=5.0,
                    step=0.05,
                    round=0.001,
                    tooltip="-1 is the model's own setting. Lower: safer, plainer pictures and fewer forwards. Higher: wilder "
                    "ones. 0 always takes the most likely token, so the seed no longer matters.",
                ),
                io.Int.Input(
                    "top_k",
                    default=OWN,
                    min=OWN,
                    max=2**18,
                    tooltip="Only the k most likely tokens can be drawn; -1 is the model's own setting. Lower: "
                    "cleaner pictures, more alike. 0 is off.",
                ),
                io.Float.Input(
                    "top_p",
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Only the most likely tokens that together reach this probability can be drawn; -1 is the "
                    "model's own setting. Lower: cleaner pictures, more alike. 1 is off.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures drawn together, in shared forwards. More pictures take longer and need more "
                    "memory.",
                ),
                io.Combo.Input(
                    "initialiser",
                    options=STARTS,
                    default="random",
                    tooltip="First guess for a token, before the model has seen it: a random one, the token to its "
                    "left, the one above, the one in the same position of the frame before (previous_frame, "
                    "for videos), or (warm) the one in the connected warm_tokens. recall begins with random ones and, "
                    "after each forward, guesses anew by what the model said in the same surroundings; with "
                    "the embedded image model it needs fewest forwards. None of this changes what can be drawn. warm "
                    "works only with seed-exact.",
                ),
                io.String.Input(
                    "negative",
                    optional=True,
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    placeholder="negative prompt",
                    tooltip="What to avoid: guidance leads away from it and towards the prompt. If it is empty, "
                    "guidance leads away from a picture of anything. With cfg 1 it has no effect.",
                ),
                size_input(
                    "Width x height in pixels, such as 768x768. If empty: the size of the connected tokens, or else "
                    "the model's own. Load Model shows the sizes that a model offers."
                ),
                TokensSocket.Input(
                    "first_tokens",
                    optional=True,
                    tooltip="Upper part of pictures to continue, from Crop Tokens: it stays as it is, and the rest is "
                    "drawn, differently from the original even with the same seed. A single picture is used "
                    "for the whole batch.",
                ),
                TokensSocket.Input(
                    "warm_tokens",
                    optional=True,
                    tooltip="An earlier result whose tokens are the first guesses if initialiser is warm, which works "
                    "only with seed-exact. Saves most with the same seed and a slightly changed setting.",
                ),
                io.Boolean.Input(
                    "live_preview",
                    optional=True,
                    default=True,
                    tooltip="Show the picture while it is drawn: guesses dimmed, the rest dark, and the whole picture "
                    "at the end. Updated at most a few times a second, within 5 % of the run time; left out "
                    "when memory is short.",
                ),
                io.Boolean.Input(
                    "record_details",
                    optional=True,
                    default=False,
                    tooltip="Record how likely every guess was to be kept, which most charts of Stats need. It costs "
                    "time and memory but changes no picture; leave it off to measure seconds.",
                ),
                *video_inputs(),
                trajectories_input(),
                *redraw_inputs(),
                prompts_input(),
                batch_seeds_input(),
                io.Float.Input(
                    "min_p",
                    optional=True,
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Tokens whose probability is below this share of the likeliest token's cannot be drawn; -1 is the "
                    "model's own setting. Higher: cleaner pictures, more alike. 0 is off.",
                ),
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
        return io.NodeOutput(*result)


def draw(
    model: LoadedModel, prompt: str, seed: int, coupling: str, window: int, cfg: float, temperature: float, top_k: int,
    top_p: float, batch_size: int, initialiser: str, negative: str = "", size: str = "",
    first_tokens: ImageTokens | None = None, warm_tokens: ImageTokens | None = None, live_preview: bool = True,
    record_details: bool = False, start_frames: Tensor | None = None, frames: int = 0, text_encoder=None,
    trajectories: int = 1, picture_tokens: ImageTokens | None = None, redraw_mask: Tensor | None = None,
    prompts: list[str] | None = None, batch_seeds: str = COUNTED_LABEL, min_p: float = OWN,
    continue_video: ImageTokens | None = None,
) -> tuple[ImageTokens, Report]:  # fmt: skip
    """The tokens that the sampler's inputs ask for, and what they cost."""
    asked = {"cfg_scale": cfg, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings = settings_of(
        model, coupling, window, own_settings(model.family.defaults.law, **asked), initialiser=initialiser, seed=seed,
        record_details=record_details, trajectories=trajectories, batch_seeds=batch_seeds, continued=continue_video,
    )  # fmt: skip
    texts = texts_of(prompt, prompts, batch_size)
    warm_tokens = warm_tokens if initialiser == "warm" else None
    size, count = common_size(model, size, first_tokens, warm_tokens, picture_tokens, continue_video), frames or None
    starts = {"start_frames": start_frames, "first_tokens": first_tokens, "continue_video": continue_video}
    start = start_of(model, size, count, len(texts), **starts)
    if warm_tokens is not None:
        warm_tokens.require_whole("the warm initialiser")
    decoded, preview_seconds = runtime.sample(
        model,
        texts,
        settings,
        negatives=[negative] * len(texts),
        size=size,
        frames=count,
        encoded=encoded_texts(text_encoder, [*texts, negative]),
        first=start.tokens,
        warm=warm_tokens,
        kept=to_keep(model, picture_tokens, redraw_mask, start.tokens),
        live_preview=live_preview,
    )
    tokens = replace(ImageTokens.of(decoded.tokens, size, model, count, texts), before=start.before, given=start.given)
    names = {"model": model.name, "device": decoded.tokens.device, "dtype": model.dtype}
    cost = Report.of(
        decoded, settings, **names, grid=tokens.grid, preview_seconds=preview_seconds, start_note=start.note,
        skipped_frames=start.skipped,
    )  # fmt: skip
    return tokens, cost


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


def common_size(model: LoadedModel, size: str, *given: ImageTokens | None) -> str:
    """The size asked for, or that of the tokens given; raises InputError if they are of another model or size."""
    tokens = [each.require(model) for each in given if each is not None]
    chosen = choose_size(size.strip() or next((each.size for each in tokens), None), model.family.sizes)
    for each in tokens:
        if each.size != chosen:
            raise InputError(
                f"The connected tokens are of a picture of {each.size}, but the picture to draw has {chosen}; leave size empty, "
                "or connect tokens of the same size."
            )
    return chosen
