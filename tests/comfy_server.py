"""A real ComfyUI for the tests, over HTTP and WebSocket, where COMFYUI_PATH names a checkout."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from comfy_host import MODEL_KEY, ROOT

# What tests provoke: faults, and prompts whose words the small models have never seen.
ON_PURPOSE = ("invalid prompt", "This model does not know")


class Server:
    """A ComfyUI on a loopback port with a base directory of its own, in which the pack is the only custom node."""

    START_SECONDS = 180

    def __init__(self, comfyui: Path, base: Path):
        self.port, self.log_file = free_port(), base / "server.log"
        (base / "custom_nodes").mkdir(parents=True)
        (base / "custom_nodes" / "mc-sjd").symlink_to(ROOT)
        command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until_up()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self.START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-4000:]}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        """Status and answer; an empty answer is {}."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text else {}


PREVIEW_WITH_METADATA = struct.pack(">I", 4)  # first bytes of a binary message with a picture


class Events:
    """The messages of a ComfyUI to one client: a WebSocket that only reads (RFC 6455)."""

    def __init__(self, server: Server, client_id: str, timeout: float = 180):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET /ws?clientId={client_id} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline()
        if b" 101 " not in status:
            raise RuntimeError(f"ComfyUI refused the WebSocket: {status!r}")
        while self.stream.readline().strip():
            pass

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, message: dict) -> None:
        """One text message of less than 126 bytes; a client's messages are masked, here with zeros."""
        payload = json.dumps(message).encode()
        self.socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def __iter__(self) -> Iterator[dict]:
        """Every text message as an object; a picture is one of type `preview` with its metadata and bytes."""
        while True:
            first, length = self.stream.read(2)
            if length & 127 == 126:
                (length,) = struct.unpack(">H", self.stream.read(2))
            elif length & 127 == 127:
                (length,) = struct.unpack(">Q", self.stream.read(8))
            payload = self.stream.read(length)
            if first & 15 == 1:
                yield json.loads(payload)
            elif first & 15 == 2 and payload[:4] == PREVIEW_WITH_METADATA:
                (size,) = struct.unpack(">I", payload[4:8])
                picture = payload[8 + size :]
                yield {"type": "preview", "data": json.loads(payload[8 : 8 + size]) | {"picture": picture}}

    def until_done(self, prompt_id: str) -> Iterator[dict]:
        """Messages up to the one that ends a run."""
        for message in self:
            yield message
            ended = message["type"] in ("execution_success", "execution_error", "execution_interrupted")
            if ended and message["data"].get("prompt_id") == prompt_id:
                return


def resident_bytes(pid: int) -> int:
    """Memory that a process holds."""
    import psutil

    return psutil.Process(pid).memory_info().rss


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory, tiny_checkpoint, tiny_video) -> Iterator[Server]:
    """A running ComfyUI that has the pack and a few models: `tiny`, `tiny-video`, `many-rows`, and `many-tokens`, which takes
    its time. As a new one has, it has a picture to load."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("set COMFYUI_PATH to a ComfyUI checkout to run the pack in it")
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models" / MODEL_KEY
    shutil.copytree(tiny_checkpoint, models / "tiny")
    shutil.copytree(tiny_video, models / "tiny-video")
    shutil.copytree(tiny_checkpoint, models / "many-tokens")
    (models / "many-tokens" / "generation_config.json").write_text('{"image_grid": [24, 24]}')
    shutil.copytree(tiny_checkpoint, models / "many-rows")
    (models / "many-rows" / "generation_config.json").write_text('{"image_grid": [12, 4]}')
    (base / "input").mkdir()
    Image.new("RGB", (70, 50), "teal").save(base / "input" / "example.png")
    server = Server(Path(path), base)
    yield server
    server.stop()
    lines = [line.lower() for line in server.log.splitlines() if not any(words in line for words in ON_PURPOSE)]
    assert [line for line in lines if MODEL_KEY in line.replace("-", "") and "warn" in line] == []
