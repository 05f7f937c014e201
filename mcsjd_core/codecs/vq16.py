"""LlamaGen's codecs, VQ-16 and VQ-8: configurations of the VQGAN under other module names. Janus uses VQ-16."""

from __future__ import annotations

import re

from .vqgan import VQGANConfig

_COMMON = {"channels": 128, "z_channels": 256, "embed_dim": 8, "codebook_size": 16384, "normalize_codebook": True}
VQ16 = VQGANConfig(channel_multipliers=(1, 1, 2, 2, 4), attention_levels=(4,), **_COMMON)
VQ8 = VQGANConfig(channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), **_COMMON)

_LEVEL = re.compile(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(res|attn)?(.*)")
_MIDDLE = {"mid.0.": "mid.block_1.", "mid.1.": "mid.attn_1.", "mid.2.": "mid.block_2."}
_UNUSED = "quantize.codebook_used"  # a counter of the training


def vqgan_name(name: str, config: VQGANConfig) -> str | None:
    """The VQGAN's name of a tensor of these files; None for what it does not need.

    Levels are counted in the order in which they run, so the decoder's start with the deepest.
    """
    if name == _UNUSED:
        return None
    if match := _LEVEL.fullmatch(name):
        half, number, layer, rest = match.groups()
        level, group = int(number), "down"
        if half == "decoder":
            level, group = len(config.channel_multipliers) - 1 - level, "up"
        return f"{half}.{group}.{level}.{'block' if layer == 'res' else layer or ''}{rest}"
    for middle, new in _MIDDLE.items():
        name = name.replace(middle, new)
    return name
