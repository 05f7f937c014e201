"""Fetch a public model."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

import folder_paths
from comfy_api.latest import io
from tqdm.auto import tqdm

from ..mcsjd_core.checkpoints.catalogue import DOWNLOADS, describe
from ..mcsjd_core.checkpoints.transfer import PARTIAL, Listed, fetch, files_there, listing, seems_whole
from ..mcsjd_core.errors import InputError
from .folders import MODEL_FOLDER
from .progress import Progress
from .schema import schema
from .types import CATEGORY, in_node

LOOK_SECONDS = 0.5  # between looks at the progress and at the Stop button
DOWNLOADED = "The model is downloaded: press R, then choose it in {loader}."
NOT_COMPARED = (
    "Files of this model are there; they were not compared with the published ones. Press R, then choose it in {loader}, which "
    "says if one is missing."
)
NOTHING = "Nothing was downloaded yet. Switch accept_licence on and run again to download it."
A_PART = "Only a part of this model is there. Switch accept_licence on and run again to download the rest."
LOADER, OTHER_LOADERS = "Load Model", {"GLM-Image-decoder": "Load GLM-Image Decoder"}


class GetModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_GetModel",
            display_name="MC-SJD Get Model",
            category=CATEGORY,
            description="Downloads a public model from huggingface.co into models/mcsjd. The first run only shows "
            "its size and licence; nothing is downloaded before you accept. Press R afterwards, and "
            "the model is in the menu of Load Model.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(DOWNLOADS),
                    default=next(iter(DOWNLOADS)),
                    tooltip="Which model to download. The report shows its size and licence.",
                ),
                io.Boolean.Input(
                    "accept_licence",
                    default=False,
                    tooltip="Off: only show what the model is. On: you accept its licence, and running the node "
                    "downloads it. An interrupted download resumes; files that are already there are not "
                    "downloaded again.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Size, licence, sources, and where the files are.")
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, accept_licence: bool) -> str:
        """The report says what is there, and what was removed since the last run is fetched again."""
        try:
            return str(files_there(model, download_folder()))
        except InputError:  # of a linked name nothing is known before it runs
            return ""

    @classmethod
    def execute(cls, model: str, accept_licence: bool) -> io.NodeOutput:
        root = download_folder()
        text = f"{describe(model, root)}\n{bring(model, root) if accept_licence else state_of(model, root)}"
        return io.NodeOutput(text, ui=in_node(text))


def download_folder() -> Path:
    return Path(folder_paths.get_folder_paths(MODEL_FOLDER)[0])


def state_of(model: str, root: Path) -> str:
    """What is there of a model, without asking the net, and what to do next."""
    if seems_whole(model, root):
        return NOT_COMPARED.format(loader=loader_of(model))
    return A_PART if any(files_there(model, root)) else NOTHING


def loader_of(model: str) -> str:
    """Name of the node that loads it."""
    return OTHER_LOADERS.get(model, LOADER)


def bring(model: str, root: Path) -> str:
    """Download what is missing; says how the model came to be there. A graph that drew once draws offline, too."""
    try:
        listed = listing(model)
    except InputError as error:
        if not seems_whole(model, root):
            raise
        return f"{error}\n{NOT_COMPARED.format(loader=loader_of(model))}"
    download(listed, root)
    return DOWNLOADED.format(loader=loader_of(model))


def download(listed: list[Listed], root: Path) -> None:
    """`fetch`, with ComfyUI's progress bar in bytes on the disk, and its Stop button."""
    total = sum(size for one in listed for size in one.files.values())
    progress, stopped = Progress(total), Event()
    pool = ThreadPoolExecutor(1)
    work = pool.submit(fetch, listed, root, _QuietBar, stopped.is_set)
    try:
        while not _is_done(work):
            progress.update(min(_bytes_there(listed, root), total))
    finally:
        stopped.set()
        pool.shutdown(wait=False)  # the net may take its time to bring what ends it
    progress.update(total)


def _is_done(work: Future) -> bool:
    """Waits a moment; raises what the work raised."""
    if not wait([work], LOOK_SECONDS).done:
        return False
    work.result()
    return True


def _bytes_there(listed: list[Listed], root: Path) -> int:
    """Bytes on disk of the needed files, partly downloaded ones included."""
    total = 0
    for folder in {root / one.source.folder for one in listed}:
        names = {name for one in listed if root / one.source.folder == folder for name in one.files}
        for file in (*(folder / name for name in names), *folder.glob(f"*{PARTIAL}")):
            try:
                total += file.stat().st_size
            except OSError:  # not there yet, or just renamed
                continue
    return total


class _QuietBar(tqdm):
    """A bar that prints nothing: the node shows one of its own."""

    def __init__(self, *args, **kwargs):
        kwargs.pop("name", None)
        super().__init__(*args, **kwargs | {"disable": True})
