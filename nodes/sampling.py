"""Draw image tokens from a prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core import INITIALISERS, DecodeSettings, InputError, LawSettings
from ..mcsjd_core.report import METHOD_LABELS, Report
from . import runtime
from .types import CATEGORY, ImageTokens, LoadedModel, ModelSocket, StatsSocket, TokensSocket

METHODS = {label: name for name, label in METHOD_LABELS.items()}
# `warm` needs an earlier result and `previous_frame` a video; this node has neither.
STARTS = [name for name in INITIALISERS if name not in ("warm", "previous_frame")]
PROMPT = "red apple"


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MCSJD_Sampler",
            display_name="MC-SJD Sampler",
            category=CATEGORY,
            description="Draws the tokens of pictures from a prompt, several tokens per forward of the model. Every "
            "coupling draws from exactly the distribution that plain AR sampling draws from; they differ "
            "in the number of forwards.",
            inputs=[
                ModelSocket.Input("model", tooltip="The model that draws."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default=PROMPT,
                    tooltip="What to draw. The embedded model knows emoji: short names such as red apple, rocket, cat "
                    "face. Left empty, it draws anything.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Another seed gives another picture; the same seed and settings give the same one. Further "
                    "pictures of the batch use seed + 1, seed + 2, ...",
                ),
                io.Combo.Input(
                    "coupling",
                    options=list(METHODS),
                    default=METHOD_LABELS["maximal"],
                    tooltip="How guessed tokens are checked. plain AR: one token per forward, the yardstick. SJD "
                    "(independent): guesses behind a wrong one are redrawn from scratch. MC-SJD: they are "
                    "redrawn so that they change as rarely as possible, which needs fewer forwards; maximal "
                    "usually the fewest. seed-exact: the very picture that plain AR draws with this seed, in "
                    "fewer forwards.",
                ),
                io.Int.Input(
                    "window",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Tokens that one forward looks at. Larger: fewer forwards, but each costs more, and the "
                    "gain levels off. 1 is as slow as plain AR, which always uses 1.",
                ),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly the prompt is followed (classifier-free guidance). Higher: closer to the "
                    "prompt, less variety. 1 is off and halves the work of every forward.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Lower: safer, plainer pictures and fewer forwards. Higher: wilder ones. 0 always takes "
                    "the most likely token, so the seed no longer matters.",
                ),
                io.Int.Input(
                    "top_k",
                    default=100,
                    min=0,
                    max=2**17,
                    tooltip="Only the k most likely tokens can be drawn. Lower: cleaner and more alike; 0 is off.",
                ),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Only the most likely tokens that together reach this probability can be drawn. Lower: "
                    "cleaner and more alike; 1 is off.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures drawn together, in forwards that they share. More take longer and need more "
                    "memory.",
                ),
                io.Combo.Input(
                    "initialiser",
                    options=STARTS,
                    default="random",
                    tooltip="First guess for a token, before the model has seen it: a random one, the token to its "
                    "left, or the one above. It changes how many forwards are needed, never what can be drawn.",
                ),
            ],
            outputs=[
                TokensSocket.Output(display_name="tokens", tooltip="The drawn tokens, for decode."),
                StatsSocket.Output(display_name="stats", tooltip="What the run cost, for stats."),
            ],
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, prompt: str, seed: int, coupling: str, window: int, cfg: float, temperature: float,
        top_k: int, top_p: float, batch_size: int, initialiser: str,
    ) -> io.NodeOutput:  # fmt: skip
        if coupling not in METHODS:
            raise InputError(f"coupling must be one of {', '.join(METHODS)}, got {coupling!r}.")
        law = LawSettings(cfg_scale=cfg, temperature=temperature, top_k=top_k, top_p=top_p)
        settings = DecodeSettings(METHODS[coupling], window, law, initialiser, seed)
        decoded = runtime.sample(model, [prompt] * batch_size, settings)
        report = Report.of(decoded, settings, model=model.name, device=decoded.tokens.device, dtype=model.dtype)
        return io.NodeOutput(ImageTokens(decoded.tokens.cpu(), model.name, model.identity), report)
