"""The embedded image model with one layer and a small grid: for tests of everything around it, which draw many pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from mcsjd_core import EMBEDDED_MODEL

GRID = [9, 2]  # README keeps eight rows


def write_short_model(folder: Path) -> Path:
    """A copy of the embedded checkpoint in `folder`, with the files and the vocabulary that it has."""
    shutil.copytree(EMBEDDED_MODEL, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name or ".layers.0." in name}
    assert len(kept) < len(tensors)
    save_file(kept, weights, metadata={"format": "pt"})
    change(folder / "config.json", num_hidden_layers=1)
    change(folder / "generation_config.json", image_grid=GRID)
    return folder


def change(file: Path, **values) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    assert values.keys() <= data.keys()
    file.write_text(json.dumps(data | values), encoding="utf-8")
