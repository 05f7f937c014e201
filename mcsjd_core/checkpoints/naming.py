"""The name that a checkpoint was published under, as far as its path tells."""

from __future__ import annotations

from pathlib import Path

CACHE = "models--"  # the cache of huggingface_hub: models--organisation--name/snapshots/commit


def own_names(path: Path) -> str:
    """The last part of `path`, and of what it links to, lower case; of a cached repository its name.

    Folders above say nothing of a checkpoint: they are the user's.
    """
    return " ".join(dict.fromkeys(_own_name(each).lower() for each in (path.absolute(), path.resolve())))


def _own_name(path: Path) -> str:
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith(CACHE):
        return repository.rpartition("--")[2]
    return path.name
