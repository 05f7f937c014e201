"""Schemas of nodes as the running ComfyUI takes them: what an older version does not know is left out."""

from __future__ import annotations

from comfy_api.latest import io

# By these words people look for the nodes; newer versions search them.
ALIASES = [
    "MC-SJD",
    "SJD",
    "speculative decoding",
    "autoregressive",
    "Jacobi decoding",
    "Lumina-mGPT",
    "Janus",
    "Emu3",
    "Cosmos",
]


def schema(**keywords) -> io.Schema:
    """`io.Schema` with the pack's search words; without the keywords that this version has no field for."""
    keywords = {"search_aliases": ALIASES} | keywords
    return io.Schema(**{name: value for name, value in keywords.items() if name in io.Schema.__dataclass_fields__})


def advanced(entry):
    """The same input, folded away by versions that can; older ones know no argument for it."""
    entry.extra_dict["advanced"] = True
    return entry
