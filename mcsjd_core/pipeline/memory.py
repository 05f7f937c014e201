"""How much memory a run takes beside the weights, for a host that makes room before the run begins.

Bytes alive at the worst moment, counted over the tensors of real runs in float32 and bfloat16; a test compares the sums
below with what is really allocated.
"""

from __future__ import annotations

from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..decoding.loop import PREFILL
from ..decoding.settings import DecodeSettings
from ..families.interface import Family

LOGIT_BYTES, GUIDED_BYTES = 8, 16  # a code of the window while logits are guided: for each model row, for each picture
LAW_BYTES = 44  # a code that top-k keeps, while tokens are drawn: target and draft law, residual or noise
DETAIL_BYTES = 100  # a code of the window while details are recorded: both laws sorted in float64, and their sums
ACTIVATIONS = 20  # numbers per embedding channel: a block's residual, queries, keys, values and feed-forward layer
MASK_BYTES = 8  # a pair of query and cache slot, also as the attention kernel wants it
CODEC_ACTIVATIONS = 8  # float32 feature maps at full resolution
VIDEO_CODEC_ACTIVATIONS, VIDEO_FRAMES = 16, 8  # the same behind the Haar patches, and copies of a clip of pixels


def decode_bytes(family: Family, prompt: Prompt, settings: DecodeSettings, grid: Grid, given: int = 0) -> int:
    """What a decode allocates: KV cache, logits or laws of the window, activations. `given` tokens are not drawn."""
    rows, slots, dim = prompt.embeddings.shape
    window, codebook_size = settings.effective_window + settings.side_slots, family.token_model.codebook_size
    capacity = slots + grid.num_tokens + window
    cache = family.token_model.cache_bytes(prompt, capacity)
    kept = min(settings.law.top_k or codebook_size, codebook_size)
    guiding = codebook_size * (rows * LOGIT_BYTES + prompt.batch * GUIDED_BYTES)
    drawing = prompt.batch * (codebook_size * LOGIT_BYTES + kept * LAW_BYTES)
    recording = prompt.batch * codebook_size * DETAIL_BYTES if settings.trace_detail else 0
    channels = dim * ACTIVATIONS * prompt.embeddings.element_size()
    activations = rows * max(min(slots + given, PREFILL), window) * (channels + capacity * MASK_BYTES)
    return cache + window * max(guiding, drawing, recording) + activations


def codec_bytes(family: Family, count: int, grid: Grid) -> int:
    """What decoding or encoding `count` pictures at once allocates, or one of `count` videos after the other."""
    codec = family.codec.config
    if family.video is not None:
        frames = family.video.pixel_frames(grid.frames) + codec.patch_size - 1  # the first one fills a patch alone
        pixels = frames * grid.rows * grid.columns * codec.spatial_compression**2
        maps = max(codec.widths[:2]) * VIDEO_CODEC_ACTIVATIONS / codec.patch_size**3
        return int(pixels * 4 * (maps + 3 * VIDEO_FRAMES + 3 * count))
    pixels = grid.rows * grid.columns * codec.downsampling**2
    return count * pixels * codec.channels * max(codec.channel_multipliers[:2]) * CODEC_ACTIVATIONS * 4
