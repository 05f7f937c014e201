"""How much memory a run takes beside the weights, for a host that makes room before the run begins; and when there was none.

Bytes alive at the worst moment, counted over the tensors of real runs in float32 and bfloat16; a test compares the sums
below with what is really allocated.
"""

from __future__ import annotations

from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..decoding.loop import PREFILL, cache_slots
from ..decoding.recall import WINDOWS
from ..decoding.settings import DecodeSettings
from ..families.interface import Family
from ..laws.law import stored_codes

LOGIT_BYTES, GUIDED_BYTES = 8, 16  # a code of the window while logits are guided: for each model row, for each picture
LAW_BYTES = 44  # a code of the law, while tokens are drawn: target and draft law, residual or noise
SORTED_BYTES = 16  # beside that a code of a law after top-k: which it is, as whole numbers, in target and draft law
DETAIL_BYTES = 100  # a code of the window while details are recorded: both laws sorted, and their sums in whole numbers
RECALL_BYTES = 150  # a law that is kept to be recalled: what stands around it, and the search among them
PROBABILITY_BYTES = 4
STORED_BYTES = 16  # a code of such a law after top-k
ACTIVATIONS = 20  # numbers per embedding channel: a block's residual, queries, keys, values and feed-forward layer
MASK_BYTES = 8  # a pair of query and cache slot, also as the attention kernel wants it


def decode_bytes(family: Family, prompt: Prompt, settings: DecodeSettings, grid: Grid, given: int = 0) -> int:
    """What a decode allocates: KV cache, laws, logits of the window, activations. `given` tokens are not drawn."""
    rows, slots, dim = prompt.embeddings.shape
    widest = min(settings.effective_window, grid.num_tokens - given)
    side = settings.side_slots(widest)
    window, codebook_size = widest + side, family.token_model.codebook_size
    capacity = cache_slots(prompt, grid, widest) + side
    cache = family.token_model.cache_bytes(prompt, capacity)
    truncates = 0 < settings.law.top_k < codebook_size
    kept = stored_codes(codebook_size, settings.law.top_k) if truncates else codebook_size
    guiding = codebook_size * (rows * LOGIT_BYTES + prompt.batch * GUIDED_BYTES)
    drawing = prompt.batch * (codebook_size * LOGIT_BYTES + kept * (LAW_BYTES + truncates * SORTED_BYTES))
    recording = prompt.batch * codebook_size * DETAIL_BYTES if settings.trace_detail else 0
    channels = dim * ACTIVATIONS * prompt.embeddings.element_size()
    activations = rows * max(min(slots + given, PREFILL), window) * (channels + capacity * MASK_BYTES)
    recalled = 0
    if settings.recalls:
        size = kept * (STORED_BYTES if truncates else PROBABILITY_BYTES)
        recalled = WINDOWS * widest * prompt.batch * settings.trajectories * (RECALL_BYTES + size)
    return cache + window * max(guiding, drawing, recording) + activations + recalled


def codec_bytes(family: Family, count: int, grid: Grid) -> int:
    """What decoding or encoding `count` clips at once allocates."""
    frames = family.clip.pixel_frames(grid.frames)
    return family.codec.config.activation_bytes(count, frames, grid.rows, grid.columns)
