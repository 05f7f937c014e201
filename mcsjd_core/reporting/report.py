"""The report on one decode: measured figures, and separately what is only estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.loop import AUTOREGRESSIVE, Decoded, DecodeSettings
from ..decoding.trace import RowTrace
from ..laws.coupling import COUPLINGS
from ..laws.law import LawSettings
from .analysis import compression_by_frame

# Names of METHODS for people. Saved graphs contain them: add, do not change.
METHOD_LABELS = {AUTOREGRESSIVE: "plain AR"} | {name: coupling.label for name, coupling in COUPLINGS.items()}

EXACT = "gumbel_exact"
WIDEST_ON_CPU = 8  # a fixed window that costs a CPU little even with large models


KEPT = (
    "The unmasked codes were kept; forwards also ran over those between the first and the last new one. Each new code depends "
    "on the codes before it in reading order, not on those after it."
)


def law_name(law: LawSettings) -> str:
    """The settings of a law by the names of the nodes' inputs."""
    top_p = "off" if law.top_p == 1 else f"{law.top_p:g}"
    min_p = f", min_p {law.min_p:g}" if law.min_p else ""
    return f"cfg {law.cfg_scale:g}, temperature {law.temperature:g}, top_k {law.top_k or 'off'}, top_p {top_p}{min_p}"


def describe_law(law: LawSettings) -> str:
    """`guidance 3, temperature 1, top-k 100`, for running text; what is off is left out."""
    parts = [f"guidance {law.cfg_scale:g}" if law.guided else "no guidance", f"temperature {law.temperature:g}"]
    if law.top_k:
        parts.append(f"top-k {law.top_k}")
    if law.top_p < 1:
        parts.append(f"top-p {law.top_p:g}")
    if law.min_p:
        parts.append(f"min-p {law.min_p:g}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Speedup:
    """How many times faster; `measured` against another run, or estimated against plain AR. `basis` says what from."""

    factor: float
    measured: bool
    basis: str


@dataclass(frozen=True, eq=False)
class Report:
    """The cost of one decode; it holds no tensor of the model's device. `device` and `dtype` are names."""

    settings: DecodeSettings
    traces: tuple[RowTrace, ...]
    nfe: int  # forwards of the batch, pictures in common
    prefill_seconds: float
    seconds: float  # prefill included
    model: str
    device: str
    dtype: str
    grid: Grid
    preview_seconds: float = 0.0  # part of `seconds`
    kept: Tensor | None = None  # bool [B, num_tokens]: codes that forwards went over, but did not draw
    start_note: str = ""  # which frames a video continues, where that is not plain
    skipped_frames: int = 0  # frames of a long video before the first of this run, which continues it

    @classmethod
    def of(
        cls, decoded: Decoded, settings: DecodeSettings, *, model: str, device, dtype, grid: Grid, preview_seconds=0.0,
        start_note: str = "", skipped_frames: int = 0,
    ) -> Report:  # fmt: skip
        cost = (decoded.nfe, decoded.prefill_seconds, decoded.seconds)
        names = (model, str(device), str(dtype).removeprefix("torch."))
        return cls(
            settings,
            tuple(decoded.traces),
            *cost,
            *names,
            grid,
            preview_seconds,
            decoded.kept,
            start_note,
            skipped_frames,
        )

    @property
    def drawn(self) -> list[int]:
        """Tokens drawn of each picture."""
        counts = self.kept_codes.sum(1).tolist()
        return [trace.num_tokens - count for trace, count in zip(self.traces, counts, strict=True)]

    @property
    def kept_codes(self) -> Tensor:
        """`kept`, with nothing set where nothing was kept."""
        return torch.zeros(len(self.traces), self.grid.num_tokens, dtype=torch.bool) if self.kept is None else self.kept

    @property
    def num_tokens(self) -> int:
        """Tokens drawn, of all pictures together."""
        return sum(self.drawn)

    @property
    def step_compression(self) -> float:
        """Tokens of one picture per forward, mean of the pictures of which any were drawn."""
        each = [count / trace.nfe for count, trace in zip(self.drawn, self.traces, strict=True) if count]
        return sum(each) / len(each) if each else 1.0

    @property
    def drawing_seconds(self) -> float:
        """`seconds` without those of the live previews, which a cached result shows even where they are off by now."""
        return self.seconds - self.preview_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all pictures together, prefill included, live previews not."""
        return self.num_tokens / self.drawing_seconds

    def speedup(self, baseline: Report | None = None) -> Speedup:
        """Against `baseline`, a run of plain AR, by seconds a token; without one, estimated from the forwards."""
        if baseline is not None:
            factor = self.tokens_per_second / baseline.tokens_per_second
            return Speedup(factor, True, self._comparison(baseline))
        longest = max(trace.num_tokens for trace in self.traces)  # plain AR takes a forward for what is kept as well
        factor = longest / self.nfe
        if self.settings.effective_window == 1:
            return Speedup(1.0, False, "this run took one forward a token, as plain AR does")
        return Speedup(
            factor, False,
            f"plain AR takes {longest} forwards, this run took {self.nfe}; plain AR's are cheaper, so the true factor "
            'is lower. To measure it, connect the stats of a run with the coupling "plain AR" as the baseline',
        )  # fmt: skip

    def headline(self, baseline: Report | None = None) -> str:
        """What the run cost, in one line; first how it compares with `baseline`, if that is fair."""
        cost = f"{self.step_compression:.2f} tokens per forward, {self.nfe} forwards, {self.drawing_seconds:.2f} s"
        if baseline is None or self._unlike(baseline):
            return f"{cost}."
        method = METHOD_LABELS[baseline.settings.coupling]
        return f"{self.speedup(baseline).factor:.2f} times as fast as {method} (measured): {cost}."

    def text(self, baseline: Report | None = None) -> str:
        """The whole report: the headline, then a few lines in three parts: measured, speed-up, settings."""
        measured = [self._picture(index, trace) for index, trace in enumerate(self.traces)]
        if len(self.traces) > 1:
            measured.append(self._batch())
        if self.grid.frames > 1:
            measured.append(self._frames())
        if self.kept_codes.any():
            measured.append(KEPT)
        speedup = self.speedup(baseline)
        over = METHOD_LABELS[AUTOREGRESSIVE if baseline is None else baseline.settings.coupling]
        kind = "measured" if speedup.measured else "estimated from the forwards"
        parts = {
            "Measured (NFE: forwards after prefill)": measured,
            f"Speed-up over {over}, {kind}": [f"{speedup.factor:.2f} times: {speedup.basis}."],
            "Settings": self._settings(),
        }
        if hint := self.window_hint():
            parts["Hint"] = [hint]
        sections = ("\n".join((f"{title}:", *lines)) for title, lines in parts.items())
        return "\n\n".join((self.headline(baseline), *sections))

    def window_hint(self) -> str:
        """What a CPU user should know of a fixed window, empty where there is nothing to say.

        A forward of a large model takes a CPU about as long as its window is wide, so a wide one is slower than plain AR
        although it takes fewer forwards.
        """
        window, settings = self.settings.effective_window, self.settings
        if not str(self.device).startswith("cpu") or settings.adapts or window <= WIDEST_ON_CPU:
            return ""
        return (
            f"on a CPU a window of {window} can be slower than plain AR, the more so the larger the model: set the window to 0 "
            "(auto), which finds the fastest one while drawing, plain AR's included."
        )

    def _picture(self, index: int, trace: RowTrace) -> str:
        seed = self.settings.seed_of(index)
        named = f"{self.settings.seed} of a batch" if seed is None else seed
        # Live previews are shown on the way: each picture bears its share of them.
        share = self.drawing_seconds / self.seconds
        seconds, drawn = (self.prefill_seconds + trace.seconds[-1]) * share, self.drawn[index]
        return (
            f"{self.noun} {index + 1}, seed {named}: {drawn} tokens, NFE {trace.nfe}, "
            f"step compression {drawn / trace.nfe:.2f}, {seconds:.2f} s, {drawn / seconds:.0f} tokens/s"
        )

    @property
    def noun(self) -> str:
        return "picture" if self.grid.frames == 1 else "video"

    def _batch(self) -> str:
        return (
            f"all {len(self.traces)} together: {self.num_tokens} tokens, {self.nfe} shared forwards, "
            f"{self.drawing_seconds:.2f} s, {self.tokens_per_second:.0f} tokens/s"
        )

    def compression_by_frame(self) -> list[tuple[int, float]]:
        """(code frame, counted from 1; step compression) of the frames that were drawn; mean of the videos that drew them."""
        rows = zip(self.traces, self.kept_codes, strict=True)
        means = torch.stack([compression_by_frame(trace, self.grid, kept) for trace, kept in rows]).nanmean(0).tolist()
        return [(number, mean) for number, mean in enumerate(means, 1) if not math.isnan(mean)]

    def _frames(self) -> str:
        figures = ", ".join(f"{number}: {mean:.1f}" for number, mean in self.compression_by_frame())
        return f"step compression by code frame: {figures}"

    def _comparison(self, baseline: Report) -> str:
        """What was compared."""
        method = METHOD_LABELS[baseline.settings.coupling]
        seconds = f"{baseline.drawing_seconds:.2f} s for {baseline.num_tokens} tokens by {method}, "
        seconds += f"{self.drawing_seconds:.2f} s for {self.num_tokens} here"
        seconds += ", live previews not counted" if self.preview_seconds or baseline.preview_seconds else ""
        others = self._unlike(baseline)
        return seconds + (f" (the runs differ in {', '.join(others)}: not a fair comparison)" if others else "")

    def _unlike(self, baseline: Report) -> list[str]:
        """In what two runs differ that should not, where their times are compared."""
        pairs = {
            "model": (self.model, baseline.model),
            "device": (self.device, baseline.device),
            "dtype": (self.dtype, baseline.dtype),
            "number of pictures": (len(self.traces), len(baseline.traces)),
            "guidance": (self.settings.law.guided, baseline.settings.law.guided),
            "execution": (self.settings.execution, baseline.settings.execution),
            "size": (self._extent(), baseline._extent()),
            "recorded details": (self.settings.trace_detail, baseline.settings.trace_detail),
        }
        return [name for name, (here, there) in pairs.items() if here != there]

    def _extent(self) -> tuple[int, int, int]:
        return self.grid.frames, self.grid.rows, self.grid.columns

    def _settings(self) -> list[str]:
        settings = self.settings
        method = METHOD_LABELS[settings.coupling]
        previews = f", live preview {self.preview_seconds:.2f} s" if self.preview_seconds else ""
        drafts = f"first drafts {settings.initialiser}"
        if settings.trajectories > 1:
            drafts += f", {settings.trajectories} trajectories"
        lines = [
            f"coupling {method}, window {settings.window_name}, {drafts}, {settings.execution} iterations",
            law_name(settings.law),
            f"model {self.model}, {self.dtype} on {self.device}, prefill {self.prefill_seconds:.2f} s{previews}",
        ]
        lines += [f"start: {self.start_note}"] if self.start_note else []
        return [*lines, self._exactness()] if settings.coupling == EXACT else lines

    def _exactness(self) -> str:
        """How far the promise of the seed-exact coupling goes in this run's number format."""
        if self.dtype.startswith("float32"):  # whatever the weights are held in
            return (
                "seed-exact in float32: plain AR draws this picture with this seed, except where rounding decides a near tie, "
                "which is rare"
            )
        return (
            f"seed-exact in {self.dtype}: rounding makes some pictures differ from plain AR's from some token onwards; the law "
            "is the same, and with fp32 such pictures are rare"
        )
