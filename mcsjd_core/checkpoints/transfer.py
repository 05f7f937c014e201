"""How the files of a public checkpoint come onto the disk, through huggingface_hub.

Nothing is fetched but by `fetch`, which a person asks for by name after being shown size and licence. What is there already
is not fetched again, and an interrupted download resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import InputError, first_line
from ..file_lock import locked
from ..whole_files import replace_whole
from .catalogue import Source, choose_download

PARTIAL = ".part"  # suffix of a file that has not arrived whole
HASHES = ".mcsjd-hashes"  # beside the files that came: JSON, the hub's hash of each by name
# A thread that was stopped may be in the middle of a write to the very file that the next one goes on with.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Listed:
    """The needed files of a source as the hub lists them now: bytes and hashes by name, at one commit."""

    source: Source
    commit: str
    files: dict[str, int]
    hashes: dict[str, str]

    def missing(self, root: Path) -> dict[str, int]:
        """Those that are not there whole, or came when the hub had others. Nothing is known of files that came without us."""
        folder = root / self.source.folder
        came = self.hashes | _hashes_in(folder)
        return {
            name: size
            for name, size in self.files.items()
            if not _has_size(folder / name, size) or came[name] != self.hashes[name]
        }

    def partial(self, root: Path, name: str) -> Path:
        """Where a file is until it is whole; that of other content has another name, since parts of two make no whole."""
        return root / self.source.folder / f"{name}.{self.hashes[name][:8]}{PARTIAL}"

    def bytes_to_come(self, root: Path) -> int:
        """What is missing, less what came of it before a break."""
        partials = {self.partial(root, name): size for name, size in self.missing(root).items()}
        return sum(size - _usable_bytes(part, size) for part, size in partials.items())


def _usable_bytes(partial: Path, size: int) -> int:
    """What is there of a file of that size; a part that is longer belongs to something else."""
    there = partial.stat().st_size if partial.exists() else 0
    return there if there <= size else 0


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _hashes_in(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / HASHES).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or damaged: then sizes have to do
        return {}


def listing(name: str) -> list[Listed]:
    """Ask the hub what the files of a download are; raises InputError if it cannot be reached or refuses."""
    return [_ask(source, _list) for source in choose_download(name).sources]


def files_there(name: str, root: Path) -> list[dict[str, int]]:
    """Of every source of a download the files below `root`, bytes by name, those that have not come whole among them."""
    return [_files_of(source, root / source.folder) for source in choose_download(name).sources]


def _files_of(source: Source, folder: Path) -> dict[str, int]:
    wanted = (*source.patterns, *(f"{pattern}.*{PARTIAL}" for pattern in source.patterns))
    found = {}
    for file in sorted(file for pattern in wanted for file in folder.glob(pattern)):
        with suppress(OSError):  # a download that goes on may just have renamed it
            found[file.name] = file.stat().st_size
    return found


def seems_whole(name: str, root: Path) -> bool:
    """Whether every source has left files and no part of one: all that can be known without asking the hub."""
    return all(files and not any(file.endswith(PARTIAL) for file in files) for files in files_there(name, root))


def never() -> bool:
    return False


def fetch(listed: list[Listed], root: Path, bar: type | None = None, is_stopped: Callable[[], bool] = never) -> None:
    """Bring the missing files of a listing below `root`; `bar` is the tqdm class that reports to a person.

    Raises InputError if there is no room, or if a file did not come whole; InterruptedError once `is_stopped`.
    """
    with _on_disk(root):
        root.mkdir(parents=True, exist_ok=True)
        for one in listed:
            _forget_old_parts(one, root)
        needed, free = sum(one.bytes_to_come(root) for one in listed), shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{root} has {free / 1e9:.1f} GB free, the download takes {needed / 1e9:.1f} GB; make room first."
        )
    for one in listed:
        for file in one.missing(root):
            _check_stopped(is_stopped)
            _ask(one.source, lambda hub, source, one=one, file=file: _bring(one, file, root, bar, is_stopped))
        if missing := one.missing(root):
            raise InputError(
                f"{', '.join(missing)} did not come whole from {one.source.repository}; start the download again, "
                "it resumes where it stopped."
            )


def _forget_old_parts(listed: Listed, root: Path) -> None:
    """Remove what came of files that the hub has no longer: it takes room, and would count as a download that is not complete."""
    missing = {listed.partial(root, name) for name in listed.missing(root)}
    for name in listed.files:
        for part in (root / listed.source.folder).glob(f"{escape(name)}.*{PARTIAL}"):
            if part not in missing:
                with suppress(OSError):
                    part.unlink()


def _check_stopped(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise InterruptedError("stopped by the user")


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """What goes wrong inside is the fault of this machine's disk, not of the net, whose errors are OSErrors as well."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); fix that and start the download again, it resumes where "
            "it stopped."
        ) from None


def lock_of(root: Path) -> Path:
    """Held by whoever downloads below `root`; among the temporary files, so that nothing is left with the models."""
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"mcsjd-download-{digest[:16]}.lock"


@contextmanager
def _no_other_process(root: Path) -> Iterator[None]:
    """Inside, no other process of this machine brings files below `root`: two that append to one file spoil it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock_of(root), wait=False))
        except BlockingIOError:
            raise InputError(
                f"Another download is writing below {root}; wait for it, then start this one again."
            ) from None
        except OSError:  # a disk of the network that knows no locks
            pass
        yield


class _Target(io.BufferedWriter):
    """A file that is appended to until `is_stopped`: old versions of the hub offer nothing else by which to end a download."""

    def __init__(self, file: Path, is_stopped: Callable[[], bool]):
        with _on_disk(file):
            super().__init__(io.FileIO(file, "ab"))
        self._file, self._is_stopped = file, is_stopped

    def write(self, data) -> int:
        _check_stopped(self._is_stopped)
        with _on_disk(self._file):
            written = super().write(data)
            self.flush()  # or closing it would still write, when the next run may have gone on with the file
        return written

    def close(self) -> None:
        with _on_disk(self._file):  # what could not be written is tried once more, and fails again
            super().close()


def _bring(listed: Listed, name: str, root: Path, bar: type | None, is_stopped: Callable[[], bool]) -> None:
    """One file of a listing. The hub's own call for a file throws away what came of it before a break; this one keeps it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    file, size = root / listed.source.folder / name, listed.files[name]
    partial = listed.partial(root, name)
    with _on_disk(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    known = inspect.signature(http_get).parameters
    options: dict[str, Any] = {"tqdm_class": bar} if bar and "tqdm_class" in known else {}
    if "proxies" in known:
        # Versions before 1.0 may leave the file to hf_transfer, which cannot be stopped, and writes pieces out of order, so
        # that a broken one cannot be gone on with. Not if proxies are named; those of the environment stay in force.
        options["proxies"] = {}
    with _one_at_a_time, _no_other_process(root):
        if name not in listed.missing(root):  # another process brought it meanwhile
            return
        with _on_disk(partial):
            if partial.exists() and partial.stat().st_size > size:
                os.truncate(partial, 0)
        inside = listed.source.inside or None
        url = hf_hub_url(listed.source.repository, name, subfolder=inside, revision=listed.commit)
        with _Target(partial, is_stopped) as target:
            if (there := target.tell()) < size:
                http_get(url, target, resume_size=there, headers=build_hf_headers(), expected_size=size, **options)
        with _on_disk(file):
            partial.replace(file)
            came = json.dumps(_hashes_in(file.parent) | {name: listed.hashes[name]}, indent=1)
            replace_whole(file.with_name(HASHES), lambda part: part.write_text(came, encoding="utf-8"))


def _list(hub, source: Source) -> Listed:
    info = hub.HfApi().model_info(source.repository, files_metadata=True)
    # Names come from the net; what follows the folder that we name ourselves has to be plain, so that it leads nowhere else.
    # Windows knows all separators, and drives.
    start = f"{source.inside}/" if source.inside else ""
    names = {
        file.rfilename.removeprefix(start): file.size for file in info.siblings if file.rfilename.startswith(start)
    }
    plain = {name: size for name, size in names.items() if PureWindowsPath(name).name == name}
    files = {name: size for name, size in plain.items() if any(fnmatch(name, pattern) for pattern in source.patterns)}
    if not files:
        raise InputError(
            f"{source.repository} holds none of {', '.join(source.patterns)} any more; look for its new name."
        )
    hashes = {file.rfilename.removeprefix(start): file.blob_id or info.sha for file in info.siblings}
    return Listed(source, info.sha, files, {name: hashes[name] for name in files})


def _ask(source: Source, request):
    """What `request(hub, source)` gives; whatever goes wrong between here and the hub becomes one sentence."""
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError:
        raise InputError("Downloads need the package huggingface_hub 0.26 or later; install it.") from None
    page = f"https://huggingface.co/{source.repository}"
    try:
        return request(hub, source)
    except (InputError, InterruptedError):
        raise
    except GatedRepoError:
        raise InputError(
            f"{source.repository} asks for consent first: sign in at {page}, accept its terms, and make your access token "
            "known with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{page} does not exist or is not public; check whether it has moved.") from None
    except Exception as error:  # which errors the net gives depends on the hub's version and its HTTP client
        raise InputError(
            f"huggingface.co cannot be reached ({first_line(error)}); go online and start the download again, it resumes where "
            f"it stopped, or fetch the files of {page} with another computer."
        ) from None
