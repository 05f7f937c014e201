"""Lossless parallel decoding for autoregressive image models: SJD, MC-SJD and a seed-exact mode.

    model = mcsjd_core.load(mcsjd_core.EMBEDDED_MODEL)
    result = mcsjd_core.sample(model, ["red apple"], mcsjd_core.DecodeSettings(coupling="maximal", window=64))
    pixels = mcsjd_core.pictures(model, result.tokens)  # [1, 3, H, W] in 0..1
    mcsjd_core.to_image(pixels[0]).save("apple.png")

Start reading at `decoding/loop.py` and `laws/coupling.py` (what the methods differ in).
"""

from . import early_interrupt as early_interrupt  # first: it answers Ctrl-C while torch is imported
from .decoding.drafts import INITIALISERS
from .decoding.grid import Grid
from .decoding.loop import METHODS, Decoded, DecodeSettings, DecodingError, Step, decode
from .errors import InputError
from .families.loading import EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL, checkpoint_paths, detect, load
from .families.registry import FAMILIES
from .laws.coupling import COUPLINGS
from .laws.law import LawSettings
from .pipeline.image_files import read_frames, to_image, to_pixels
from .pipeline.sampling import Drawing, encode, pictures, sample
from .pipeline.video import start_codes, videos

__all__ = [
    "COUPLINGS",
    "EMBEDDED_MODEL",
    "EMBEDDED_VIDEO_MODEL",
    "FAMILIES",
    "INITIALISERS",
    "METHODS",
    "DecodeSettings",
    "Decoded",
    "DecodingError",
    "Drawing",
    "Grid",
    "InputError",
    "LawSettings",
    "Step",
    "checkpoint_paths",
    "decode",
    "detect",
    "encode",
    "load",
    "pictures",
    "read_frames",
    "sample",
    "start_codes",
    "to_image",
    "to_pixels",
    "videos",
]
