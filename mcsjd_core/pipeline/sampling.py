"""From a prompt to tokens, and between tokens and pictures, with a loaded model: what the command line and every host call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..decoding.loop import Decoded, Step, decode
from ..decoding.settings import DecodeSettings
from ..errors import InputError
from ..families.interface import Family
from ..families.sizes import choose_size, side_lengths
from ..text.prompts import clean_prompt
from ..text.words import cut_note
from .memory import decode_bytes
from .pixels import fit
from .video import check_start, clips

LONGEST_TEXT = 6000  # characters; no model was trained on longer prompts, and each costs time in every forward


NO_GUIDANCE = "The negative prompt has no effect, since this run has no guidance (cfg 1)."


@dataclass(frozen=True)
class Drawing:
    """A run that is checked and ready: the prompt is read, nothing of the decode is allocated."""

    model: Family
    prompt: Prompt
    grid: Grid
    settings: DecodeSettings
    first_tokens: Tensor | None
    earlier_tokens: Tensor | None
    kept_tokens: Tensor | None = None
    # What a person should know of the prompts, a line each: unknown words, ends that are not read, a negative without effect.
    note: str | None = None

    @classmethod
    def of(
        cls,
        model: Family,
        texts: list[str],
        settings: DecodeSettings,
        *,
        size: str | None = None,
        frames: int | None = None,
        negatives: list[str] | None = None,
        encoded: Mapping[str, Tensor] | None = None,
        first_codes: Tensor | None = None,
        earlier_tokens: Tensor | None = None,
        kept_tokens: Tensor | None = None,
    ) -> Drawing:
        """One clip for every text; see `sample`."""
        if isinstance(texts, str) or not texts:
            raise InputError(f"Prompts must be a list with at least one text, got {texts!r}.")
        if negatives is not None and len(negatives) != len(texts):
            raise InputError(
                f"There are {len(negatives)} negative prompts for {len(texts)} prompts; give one for each."
            )
        grid, guided = model.grid(size, frames), settings.law.guided
        first = None if first_codes is None else grid.tokens(first_codes)
        check_run(model, grid, settings, first if kept_tokens is None else kept_tokens)
        texts = [read_text(text) for text in texts]
        negatives = None if negatives is None else [read_text(text) for text in negatives]
        encoded = None if encoded is None else {clean_prompt(text): states for text, states in encoded.items()}
        prompt = model.prompt(texts, negatives if guided else None, guided, size, encoded)
        note = _note_of(model, prompt, [*texts, *(negatives or ()) * guided], encoded)
        if any(negatives or ()) and not guided:
            note = "\n".join(filter(None, (note, NO_GUIDANCE)))
        return cls(model, prompt, grid, settings, first, earlier_tokens, kept_tokens, note)

    @property
    def given(self) -> int:
        """Tokens of every row that are not drawn, since they come first and are known."""
        return 0 if self.first_tokens is None else self.first_tokens.shape[1]

    @property
    def memory_bytes(self) -> int:
        """About what the decode allocates beside the weights."""
        return decode_bytes(self.model, self.prompt, self.settings, self.grid, self.given)

    def to(self, device) -> Drawing:
        """The same with its prompt on `device`."""
        return replace(self, prompt=self.prompt.to(device))

    def run(self, on_step: Callable[[Step], None] | None = None) -> Decoded:
        """Draw the tokens; `on_step` and errors as in `decode`."""
        return decode(
            self.model.token_model,
            self.prompt,
            self.grid,
            self.settings,
            first_tokens=self.first_tokens,
            earlier_tokens=self.earlier_tokens,
            kept_tokens=self.kept_tokens,
            on_step=on_step,
        )


def _note_of(model: Family, prompt: Prompt, texts: list[str], encoded: Mapping[str, Tensor] | None) -> str | None:
    """What of the texts the model does not take in. A host's own encoder has words of its own, and zeros behind a text."""
    if encoded is None:
        return None if model.words is None else model.words.note(texts)
    room = 0 if prompt.context is None else prompt.context.shape[1]
    cut = (text for text in dict.fromkeys(texts) if text in encoded and encoded[text][room:].any())
    return cut_note(cut, f"{room} tokens")


def check_run(model: Family, grid: Grid, settings: DecodeSettings, known: Tensor | None = None) -> None:
    """Raise InputError for what no prompt can mend; `known` are the tokens that are given or kept."""
    check_start(model.clip, grid, known)
    if settings.initialiser == "previous_frame" and model.clip.is_picture:
        raise InputError(
            "The initialiser previous_frame is for videos, and this model draws pictures; choose another initialiser."
        )


def read_text(text: str) -> str:
    """A prompt as models are given it; raises InputError if it is none."""
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"A prompt may have at most {LONGEST_TEXT} characters, and this one has {len(text)}; shorten it."
        )
    return clean_prompt(text)


def sample(
    model: Family,
    texts: list[str],
    settings: DecodeSettings,
    *,
    size: str | None = None,
    frames: int | None = None,
    negatives: list[str] | None = None,
    encoded: Mapping[str, Tensor] | None = None,
    first_codes: Tensor | None = None,
    earlier_tokens: Tensor | None = None,
    kept_tokens: Tensor | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decoded:
    """Draw the tokens of one clip, a picture or a video, for every text.

    `size` is one of `model.sizes`, None the first of them; `frames` how many to draw with the given ones, None as many as
    the model was made for. first_codes [1 or B, r, columns] are the upper rows of pictures to continue, or
    [1 or B, f, rows, columns] as `video.start_codes` gives them; `encoded` texts as in `Family`; the other arguments as in
    `decode`.
    """
    drawing = Drawing.of(
        model,
        texts,
        settings,
        size=size,
        frames=frames,
        negatives=negatives,
        encoded=encoded,
        first_codes=first_codes,
        earlier_tokens=earlier_tokens,
        kept_tokens=kept_tokens,
    )
    return drawing.run(on_step)


def pictures(model: Family, tokens: Tensor, size: str | None = None, batch: int = 4) -> Tensor:
    """Pictures [B, 3, H, W] float32 in 0..1 of whole token rows [B, num_tokens] that were drawn at `size`.

    `batch` of them are decoded at a time. Of videos, use `videos`.
    """
    if not model.clip.is_picture:
        raise InputError("This model draws videos; turn its tokens into frames with `videos`.")
    return torch.cat(list(clips(model, tokens, size, batch)))[:, 0]


@torch.no_grad()
def encode(model: Family, images: Tensor, size: str | None = None, batch: int = 4) -> Tensor:
    """Whole token rows [B, num_tokens] of pictures [B, C, H, W] in 0..1, which are scaled and cropped to `size`.

    The inverse of `pictures` as far as the codec goes; `batch` of them are encoded at a time.
    """
    model.clip.require_pixels()
    width, height = side_lengths(choose_size(size, model.sizes))
    device = model.codec.input_device
    codes = [model.codec.encode(fit(part, width, height).to(device)) for part in images.split(batch)]
    return model.grid(size).tokens(torch.cat(codes))
