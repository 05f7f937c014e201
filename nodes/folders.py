"""Where checkpoints lie: the pack's model folders, and the names that the menu shows for what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import folder_paths

from .. import mcsjd_core
from ..mcsjd_core import InputError
from ..mcsjd_core.families.emu_vocabulary import VISION_TOKENS
from ..mcsjd_core.pipeline.diffusion import INDEX, is_diffusion_directory
from ..mcsjd_core.text.qwen_tokenizer import MERGES
from ..mcsjd_core.text.words import LIST as WORDS

MODEL_FOLDER = "mcsjd"
SEARCH_DEPTH = 3  # folders below a model folder: organisation/model, and one to spare
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")  # a family may keep a whole checkpoint in one such file
# What a checkpoint is read from; people and their systems leave other files beside it. Texts are read by name, since notes may
# lie there, too.
READ = (*SUFFIXES, ".bin", ".jit", ".json", ".model", ".tiktoken")
READ_TEXTS = (WORDS, MERGES, VISION_TOKENS)
EMBEDDED = f"embedded: {mcsjd_core.EMBEDDED_MODEL.name}"
EMBEDDED_VIDEO = f"embedded: {mcsjd_core.EMBEDDED_VIDEO_MODEL.name}"
# Names that saved graphs hold of embedded models, as they were called when the graphs were saved.
EARLIER = {"embedded: emoji-256": EMBEDDED, "embedded: emoji-motion": EMBEDDED_VIDEO}


def register_model_folder() -> None:
    """Make `models/mcsjd`, and register it after the folders that extra_model_paths.yaml gives for the same key: Get Model
    writes to the first of them all, and that is the user's choice."""
    folder = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    with contextlib.suppress(OSError):  # a folder that cannot be written to: downloads will say so
        os.makedirs(folder, exist_ok=True)
    folder_paths.add_model_folder_path(MODEL_FOLDER, folder)


def checkpoints() -> dict[str, Path]:
    """Path of every checkpoint, by its name in the menu. Names are looked up here, never joined to a path."""
    embedded = {EMBEDDED: mcsjd_core.EMBEDDED_MODEL, EMBEDDED_VIDEO: mcsjd_core.EMBEDDED_VIDEO_MODEL}
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)):
        for path in _checkpoints_below(root):
            # A checkpoint that lies flat in a model folder bears the folder's name; no name below it ends like that.
            found.setdefault(f"{root.name}/" if path == root else path.relative_to(root).as_posix(), path)
    return embedded | dict(sorted(found.items()))


def _checkpoints_below(root: Path) -> list[Path]:
    """Directories with a config.json, and whatever else a family recognises, files before the directory they lie in: a
    second file must not change the name of the first.

    Directories that no family supports are among them: loading one says what is wrong, a missing entry would say nothing.
    """
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        directory = Path(folder)
        depth = len(directory.relative_to(root).parts)
        loose = [directory / name for name in files if name.endswith(SUFFIXES)]
        whole = (
            "config.json" in files
        )  # then weights beside it are its parts; a model folder itself may hold others, too
        checkpoints = [file for file in loose if (depth == 0 or not whole) and mcsjd_core.detect(file) is not None]
        if depth == 0 and whole:
            checkpoints.append(directory)
        elif not checkpoints and depth > 0 and (whole or mcsjd_core.detect(directory) is not None):
            checkpoints = [directory]
        found += checkpoints
        # What lies below a checkpoint or a pipeline is part of it, such as a text encoder. And links can make circles.
        if ((checkpoints or INDEX in files) and depth > 0) or depth == SEARCH_DEPTH:
            subfolders.clear()
    return found


def find_checkpoint(name: str) -> Path:
    known = checkpoints()
    path = known.get(name) or known.get(EARLIER.get(name, name))
    if path is None:
        raise InputError(missing(name))
    return path


def diffusion_models() -> dict[str, Path]:
    """Path of every pipeline that makes pictures of tokens, by its name in the menu."""
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)):
        for depth in range(1, SEARCH_DEPTH + 1):
            for index in sorted(root.glob("/".join("*" * depth) + f"/{INDEX}")):
                if is_diffusion_directory(index.parent):
                    found.setdefault(index.parent.relative_to(root).as_posix(), index.parent)
    return found


def find_diffusion(name: str) -> Path:
    path = diffusion_models().get(name)
    if path is None:
        raise InputError(
            f"There is no diffusion model {name!r} below models/{MODEL_FOLDER}: run MC-SJD Get Model for GLM-Image-decoder with "
            "accept_licence on, then press R to refresh the menu."
        )
    return path


def is_embedded(name: str) -> bool:
    """Whether a name is, or once was, that of an embedded model."""
    return name in (EMBEDDED, EMBEDDED_VIDEO, *EARLIER)


def missing(name: str) -> str:
    """What to do where a model is not there, in a sentence."""
    return (
        f"There is no model {name!r} below models/{MODEL_FOLDER}: run MC-SJD Get Model for it with accept_licence on, or put its "
        "directory there, then press R to refresh the menu."
    )


def identity(path: Path) -> str:
    """Hash that changes when a file is replaced that the checkpoint is read from; opens no weights."""
    return identity_of(mcsjd_core.checkpoint_paths(path))


def identity_of(paths: list[Path]) -> str:
    """The same of these files and directories."""
    digest = hashlib.sha256()
    for file in sorted(file for part in paths for file in _files_below(part)):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files_below(path: Path) -> list[Path]:
    """A file itself; of a directory what may be read and is not hidden, that in its folders included: a codec, a tokenizer."""
    if path.is_file():
        return [path]
    found = (file for pattern in ("[!.]*", "[!.]*/[!.]*") for file in path.glob(pattern))
    return [file for file in found if (file.suffix in READ or file.name in READ_TEXTS) and file.is_file()]
