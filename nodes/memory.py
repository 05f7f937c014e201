"""How much memory a run takes beside the weights. ComfyUI makes that much room before the run begins.

Bytes alive at the worst moment, counted over the tensors of real runs in float32 and bfloat16; a test compares the sums
below with what is really allocated.
"""

from __future__ import annotations

from ..mcsjd_core import DecodeSettings
from ..mcsjd_core.models.interface import Family, Prompt

LOGIT_BYTES, GUIDED_BYTES = 8, 16  # a code of the window while logits are guided: for each model row, for each picture
LAW_BYTES = 44  # a code that top-k keeps, while tokens are drawn: target and draft law, residual or noise
DETAIL_BYTES = 100  # a code of the window while details are recorded: both laws sorted in float64, and their sums
ACTIVATIONS = 20  # numbers per embedding channel: a block's residual, queries, keys, values and feed-forward layer
MASK_BYTES = 8  # a pair of query and cache slot, also as the attention kernel wants it
CODEC_ACTIVATIONS = 8  # float32 feature maps at full resolution


def decode_bytes(
    family: Family, prompt: Prompt, settings: DecodeSettings, size: str | None = None, given: int = 0
) -> int:
    """What a decode allocates: KV cache, logits or laws of the window, activations. `given` tokens are not drawn."""
    rows, slots, dim = prompt.embeddings.shape
    window, codebook_size = settings.effective_window + settings.side_slots, family.token_model.codebook_size
    capacity = slots + family.grid(size).num_tokens + window
    cache = family.token_model.cache_bytes(prompt, capacity)
    kept = min(settings.law.top_k or codebook_size, codebook_size)
    guiding = codebook_size * (rows * LOGIT_BYTES + prompt.batch * GUIDED_BYTES)
    drawing = prompt.batch * (codebook_size * LOGIT_BYTES + kept * LAW_BYTES)
    recording = prompt.batch * codebook_size * DETAIL_BYTES if settings.trace_detail else 0
    channels = dim * ACTIVATIONS * prompt.embeddings.element_size()
    activations = rows * max(slots + given, window) * (channels + capacity * MASK_BYTES)
    return cache + window * max(guiding, drawing, recording) + activations


def codec_bytes(family: Family, count: int, size: str | None = None) -> int:
    """What decoding or encoding `count` pictures at once allocates."""
    codec, grid = family.codec.config, family.grid(size)
    pixels = grid.rows * grid.columns * codec.downsampling**2
    return count * pixels * codec.channels * max(codec.channel_multipliers[:2]) * CODEC_ACTIVATIONS * 4
