"""A download that broke off goes on at the byte where it stopped: huggingface_hub itself against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from mcsjd_core import InputError
from mcsjd_core.checkpoints import catalogue
from mcsjd_core.checkpoints.catalogue import Download, Source
from mcsjd_core.checkpoints.transfer import Listed, fetch, listing, lock_of
from mcsjd_core.file_lock import locked

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
file_download = pytest.importorskip(
    "huggingface_hub.file_download"
)  # some versions copy constants when this is first imported

COMMIT, REPOSITORY, FILE = "c0ffee" + "0" * 34, "someone/some-model", "model.safetensors"
CONTENT = random.Random(0).randbytes(3_000_000)
ETAG = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One repository with one file. `left` bytes of it come before the line is dead; `ranges` are what was asked for."""

    left = 0
    ranges: ClassVar[list[str | None]] = []

    def do_HEAD(self):
        self._file_headers(200, len(CONTENT))

    def do_GET(self):
        if self.path.startswith("/api/"):
            file = {"rfilename": FILE, "size": len(CONTENT)}
            entry = {"type": "file", "path": FILE, "size": len(CONTENT), "oid": ETAG[:40]}
            answer = [entry] if "/tree/" in self.path else {"id": REPOSITORY, "sha": COMMIT, "siblings": [file]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        asked = self.headers.get("Range")
        Hub.ranges.append(asked)
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        self._file_headers(206 if asked else 200, len(CONTENT) - start, start if asked else None)
        sent = CONTENT[start : start + Hub.left]
        Hub.left -= len(sent)
        self.wfile.write(sent)
        self.close_connection = True

    def _file_headers(self, status: int, length: int, start: int | None = None) -> None:
        self.send_response(status)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        for name, value in (("ETag", f'"{ETAG}"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(length))):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    changed = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "DOWNLOAD_CHUNK_SIZE": 50_000,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
        if hasattr(file_download, name):
            monkeypatch.setattr(file_download, name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub's own tries
    monkeypatch.setattr(hub.HfApi, "__init__", _with_endpoint(hub.HfApi.__init__, address))
    yield address
    server.shutdown()
    server.server_close()


def _with_endpoint(init, address):
    def start(self, *arguments, **options):
        init(self, *arguments, **options | {"endpoint": address})

    return start


@pytest.fixture
def listed(address, monkeypatch) -> list[Listed]:
    source = Source(REPOSITORY, ("*.safetensors",), "some-model")
    monkeypatch.setitem(catalogue.DOWNLOADS, "some", Download((source,), "none", 0.003))
    return listing("some")


def test_a_download_that_is_stopped_ends_and_goes_on_later(listed, tmp_path):
    Hub.ranges, Hub.left = [], len(CONTENT)
    partial = listed[0].partial(tmp_path, FILE)
    with pytest.raises(InterruptedError):
        fetch(listed, tmp_path, is_stopped=lambda: partial.exists() and partial.stat().st_size > 1_000_000)
    there = partial.stat().st_size
    assert 1_000_000 < there < 1_200_000 and Hub.ranges == [None]
    Hub.left = len(CONTENT)
    fetch(listed, tmp_path)
    assert Hub.ranges == [None, f"bytes={there}-"] and (tmp_path / "some-model" / FILE).read_bytes() == CONTENT


def test_what_came_is_not_fetched_again(listed, tmp_path):
    Hub.ranges, Hub.left = [], 1_200_000
    with pytest.raises(InputError, match="it resumes where it stopped"):
        fetch(listed, tmp_path)
    assert not (tmp_path / "some-model" / FILE).exists()
    (partial,) = tmp_path.rglob("*.part")
    there = partial.stat().st_size
    assert 1_000_000 < there <= 1_200_000 and partial.read_bytes() == CONTENT[:there]
    Hub.ranges, Hub.left = [], len(CONTENT)
    fetch(listed, tmp_path)
    assert Hub.ranges == [f"bytes={there}-"] and not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "some-model" / FILE).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_its_file_is_fetched_anew(listed, tmp_path):
    Hub.ranges, Hub.left = [], len(CONTENT)
    partial = listed[0].partial(tmp_path, FILE)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"more")
    assert listed[0].bytes_to_come(tmp_path) == len(CONTENT)
    fetch(listed, tmp_path)
    assert (tmp_path / "some-model" / FILE).read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_its_name_alone(listed, tmp_path):
    Hub.ranges, Hub.left = [], 0
    partial = listed[0].partial(tmp_path, FILE)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    fetch(listed, tmp_path)
    assert not Hub.ranges and (tmp_path / "some-model" / FILE).read_bytes() == CONTENT


@pytest.mark.skipif(os.name == "nt", reason="nothing is locked there")
def test_two_processes_do_not_write_to_one_file(listed, tmp_path):
    Hub.ranges, Hub.left = [], len(CONTENT)
    with locked(lock_of(tmp_path)), pytest.raises(InputError, match=r"Another download is writing .* wait for it"):
        fetch(listed, tmp_path)  # a lock is one of the open file, not of the process
    assert not Hub.ranges
    fetch(listed, tmp_path)
    assert (tmp_path / "some-model" / FILE).read_bytes() == CONTENT
