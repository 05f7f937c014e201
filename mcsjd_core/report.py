"""What a person is told about one decode: measured figures, and apart from them what is only estimated."""

from __future__ import annotations

from dataclasses import dataclass

from .coupling import COUPLINGS
from .decode import AUTOREGRESSIVE, Decoded, DecodeSettings
from .trace import RowTrace

# Names of METHODS for people. Saved graphs contain them: add, do not change.
METHOD_LABELS = {AUTOREGRESSIVE: "plain AR"} | {name: coupling.label for name, coupling in COUPLINGS.items()}


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

    @classmethod
    def of(cls, decoded: Decoded, settings: DecodeSettings, *, model: str, device, dtype) -> Report:
        cost = (decoded.nfe, decoded.prefill_seconds, decoded.seconds)
        return cls(settings, tuple(decoded.traces), *cost, model, str(device), str(dtype).removeprefix("torch."))

    @property
    def num_tokens(self) -> int:
        """Tokens drawn, of all pictures together."""
        return sum(trace.num_tokens for trace in self.traces)

    @property
    def step_compression(self) -> float:
        """Tokens of one picture per forward, mean of the pictures."""
        return sum(trace.step_compression for trace in self.traces) / len(self.traces)

    def headline(self) -> str:
        return f"{self.step_compression:.2f} tokens per forward, {self.seconds:.2f} s"

    def text(self) -> str:
        """The whole report, a few lines in three parts: measured, estimated, settings."""
        measured = [self._picture(index, trace) for index, trace in enumerate(self.traces)]
        if len(self.traces) > 1:
            measured.append(self._batch())
        parts = {
            "Measured (NFE: forwards after prefill)": measured,
            "Estimated": [self._estimate()],
            "Settings": self._settings(),
        }
        return "\n\n".join("\n".join((f"{title}:", *lines)) for title, lines in parts.items())

    def _picture(self, index: int, trace: RowTrace) -> str:
        seed = (self.settings.seed + index) % 2**64
        seconds = self.prefill_seconds + trace.seconds[-1]
        return (
            f"picture {index + 1}, seed {seed}: {trace.num_tokens} tokens, NFE {trace.nfe}, "
            f"step compression {trace.step_compression:.2f}, {seconds:.2f} s, {trace.num_tokens / seconds:.0f} tokens/s"
        )

    def _batch(self) -> str:
        return (
            f"all {len(self.traces)} together: {self.num_tokens} tokens, {self.nfe} shared forwards, "
            f"{self.seconds:.2f} s, {self.num_tokens / self.seconds:.0f} tokens/s"
        )

    def _estimate(self) -> str:
        if self.settings.effective_window == 1:
            return "nothing: this run took one forward a token, it is what the other couplings are compared with"
        longest = max(trace.num_tokens for trace in self.traces)
        return (
            f"plain AR takes {longest} forwards, so up to {longest / self.nfe:.2f} times as long; its forwards are "
            'shorter, so the true factor is lower. To measure it, run once with the coupling "plain AR".'
        )

    def _settings(self) -> list[str]:
        settings, law = self.settings, self.settings.law
        top_k, top_p = law.top_k or "off", "off" if law.top_p == 1 else f"{law.top_p:g}"
        method = METHOD_LABELS[settings.coupling]
        return [
            f"coupling {method}, window {settings.effective_window}, first drafts {settings.initialiser}",
            f"cfg {law.cfg_scale:g}, temperature {law.temperature:g}, top_k {top_k}, top_p {top_p}",
            f"model {self.model}, {self.dtype} on {self.device}, prefill {self.prefill_seconds:.2f} s",
        ]
