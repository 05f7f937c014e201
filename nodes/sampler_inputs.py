"""The inputs of the sampler, in groups; their order is that of saved graphs."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core import INITIALISERS
from ..mcsjd_core.decoding.drafts import RECALL
from ..mcsjd_core.reporting.report import METHOD_LABELS
from .seeds import seed_input
from .types import ModelSocket, TokensSocket, size_input

METHODS = {label: name for name, label in METHOD_LABELS.items()}
# In the order of saved graphs: what came later stands last.
STARTS = [*(name for name in INITIALISERS if name != "previous_frame"), "previous_frame", RECALL]
PROMPT = "a red apple on grass"
OWN = -1  # of a setting: the model's own, as it was published


def what_to_draw() -> list:
    """What is drawn, and from which seed."""
    return [
        ModelSocket.Input("model", tooltip="The model to draw with."),
        io.String.Input(
            "prompt",
            multiline=True,
            dynamic_prompts=True,
            default=PROMPT,
            tooltip="What to draw. The embedded model knows things in places: a pumpkin on pebbles, a blue car "
            "in a city. Line breaks and repeated spaces count as one space. If this is empty, the embedded "
            "model and class-conditional models draw anything; other models get their usual request without "
            "a description, as their authors send it.",
        ),
        seed_input(
            "A different seed gives a different picture; the same seed and settings give the same "
            "one. The other pictures of a batch use seed + 1, seed + 2, ..., so with control after "
            "generate on increment, the next batch repeats all of them but one: batch_seeds changes that."
        ),
    ]


def how_to_draw() -> list:
    """How guesses are checked, and how many at once."""
    return [
        io.Combo.Input(
            "coupling",
            options=list(METHODS),
            default=METHOD_LABELS["maximal"],
            tooltip="How guessed tokens are checked. plain AR: one token per forward, the baseline. SJD (independent): "
            "guesses after a wrong one are redrawn from scratch. MC-SJD: they change as rarely as possible "
            "(maximal), or follow noise that is fixed for each position (Gumbel), which needs fewer forwards; "
            "which of the two needs fewer depends on the model. seed-exact: the very picture that plain AR draws "
            "with this seed, in fewer forwards; rounding can change it, but rarely if dtype is fp32.",
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
    ]


def law_inputs() -> list:
    """What can be drawn: guidance, temperature and truncation."""
    return [
        io.Float.Input(
            "cfg",
            default=OWN,
            min=OWN,
            max=30.0,
            step=0.1,
            round=0.01,
            tooltip="How strictly the prompt is followed (classifier-free guidance); any negative value, such as -1, is "
            "the model's own setting, which Load Model shows. Higher: closer to the prompt, less variety. 1 is off "
            "and halves the work of every forward.",
        ),
        io.Float.Input(
            "temperature",
            default=OWN,
            min=OWN,
            max=5.0,
            step=0.05,
            round=0.001,
            tooltip="Any negative value, such as -1, is the model's own setting. Lower: safer, plainer pictures, usually in "
            "fewer forwards. Higher: wilder ones. 0 always takes the most likely token, so the seed no longer matters.",
        ),
        *truncation_inputs(),
    ]


def truncation_inputs() -> list:
    """Which tokens can be drawn at all."""
    return [
        io.Int.Input(
            "top_k",
            default=OWN,
            min=OWN,
            max=2**18,
            tooltip="Only the k most likely tokens can be drawn; -1 is the model's own setting. Lower: "
            "cleaner, less varied pictures. 0 is off.",
        ),
        io.Float.Input(
            "top_p",
            default=OWN,
            min=OWN,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Only the most likely tokens that together reach this probability can be drawn; any negative "
            "value, such as -1, is the model's own setting. Lower: cleaner, less varied pictures. 1 is off.",
        ),
    ]


def batch_and_guesses() -> list:
    """How many pictures, and what their tokens' first guesses are."""
    return [
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=64,
            tooltip="Pictures drawn together, in shared forwards. More pictures take longer and need more memory.",
        ),
        io.Combo.Input(
            "initialiser",
            options=STARTS,
            default="random",
            tooltip="First guess for a token, before the model has seen it: a random one, the token to its left, the one "
            "above, the one in the same position of the frame before (previous_frame, for videos), or (warm) the "
            "one in the connected warm_tokens. recall begins with random ones and, after each forward, guesses "
            "again from what the model predicted after the same token; it can save forwards, how many depends on the "
            "model. None of this changes what can be drawn. warm works only with seed-exact.",
        ),
    ]


def given_inputs() -> list:
    """What to avoid, the size, and tokens of earlier pictures."""
    return [
        io.String.Input(
            "negative",
            optional=True,
            multiline=True,
            dynamic_prompts=True,
            default="",
            placeholder="negative prompt",
            tooltip="What to avoid: guidance leads away from it and towards the prompt. If it is empty, "
            "guidance leads away from what the model draws without a prompt. With cfg 1 it has no effect.",
        ),
        size_input(
            "Width x height in pixels, such as 768x768. If empty: the size of the connected tokens (of "
            "warm_tokens only if initialiser is warm), or else the model's own. Load Model shows the sizes that a model offers."
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
    ]


def looks_inputs() -> list:
    """What is shown and recorded; no picture depends on it."""
    return [
        io.Boolean.Input(
            "live_preview",
            optional=True,
            default=True,
            tooltip="Show the picture while it is drawn: guesses dimmed, the rest dark, and the whole picture "
            "at the end. Until then it is updated at most a few times a second, within 5 % of the run time; left out "
            "when memory is short. Speed-ups in Speed-up Stats do not count it.",
        ),
        io.Boolean.Input(
            "record_details",
            optional=True,
            default=False,
            tooltip="Record how likely every guess was to be kept, which most charts of Speed-up Stats need. It "
            "costs time and memory but changes no picture; leave it off to measure seconds.",
        ),
    ]


def min_p_input() -> io.Float.Input:
    """A truncation that came later than the others."""
    return io.Float.Input(
        "min_p",
        optional=True,
        default=OWN,
        min=OWN,
        max=1.0,
        step=0.01,
        round=0.001,
        tooltip="Tokens whose probability is below this share of the likeliest token's cannot be drawn; any negative value, "
        "such as -1, is the model's own setting. Higher: cleaner, less varied pictures. 0 is off.",
    )
