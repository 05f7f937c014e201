"""Lossless parallel decoding for autoregressive image models: SJD, MC-SJD and a seed-exact mode.

    model = mcsjd_core.load(mcsjd_core.EMBEDDED_MODEL)
    result = mcsjd_core.sample(model, ["red apple"], mcsjd_core.DecodeSettings(coupling="maximal", window=64))
    image = mcsjd_core.pictures(model, result.tokens)

Start reading at `decode.py` (the loop) and `coupling.py` (what the methods differ in).
"""

from . import early_interrupt as early_interrupt  # first: it answers Ctrl-C while torch is imported
from .coupling import COUPLINGS
from .decode import METHODS, Decoded, DecodeSettings, DecodingError, Step, decode
from .drafts import INITIALISERS
from .errors import InputError
from .grid import Grid
from .laws import LawSettings
from .loading import EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL, detect, load, places
from .models import FAMILIES
from .sampling import encode, pictures, sample
from .video import start_codes, videos

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
    "Grid",
    "InputError",
    "LawSettings",
    "Step",
    "decode",
    "detect",
    "encode",
    "load",
    "pictures",
    "places",
    "sample",
    "start_codes",
    "videos",
]
