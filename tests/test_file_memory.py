"""What of a file of weights is in memory while it is read."""

import os
import re

import pytest
import torch
from safetensors.torch import save_file

from mcsjd_core.checkpoints.checkpoint import Checkpoint


def resident_of(file) -> int:
    """Bytes of a mapped file that this process has in memory."""
    here, total = False, 0
    with open("/proc/self/smaps") as maps:
        for line in maps:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                here = line.rstrip().endswith(file.name)
            elif here and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="only Linux tells what of a file is in memory")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_is_converted_is_never_in_memory_as_a_whole(tmp_path, monkeypatch, suffix):
    tensors = {f"t{i:02d}": torch.full((256, 1024), float(i)) for i in range(24)}
    file, size = tmp_path / f"model-of-24.{suffix}", 2**20
    save_file(tensors, file) if suffix == "safetensors" else torch.save(tensors, file)
    monkeypatch.setattr("mcsjd_core.checkpoints.checkpoint.MAPPED", 4 * size)
    most, sums = 0, []
    for _, tensor in Checkpoint([file]).tensors():
        sums.append(tensor.sum().item())
        most = max(most, resident_of(file))
    assert sorted(sums) == [i * 256 * 1024 for i in range(24)]
    assert 2 * size <= most <= 10 * size  # two mappings at the change from one to the next, and what is read ahead
    kept = dict(Checkpoint([file]).tensors())  # as for weights that are stored as they are used
    assert len({tensor.untyped_storage()._cdata for tensor in kept.values()}) <= len(kept)
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())


def test_a_file_older_than_torch_1_6_is_read_once(tmp_path, monkeypatch):
    """It cannot be mapped, so every opening reads all of it."""
    tensors = {f"t{i}": torch.full((64, 64), float(i)) for i in range(6)}
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr("mcsjd_core.checkpoints.checkpoint.MAPPED", 1)
    checkpoint, loads, load = Checkpoint([tmp_path / "old.pt"]), [], torch.load
    monkeypatch.setattr(torch, "load", lambda *names, **options: loads.append(names) or load(*names, **options))
    sums = {name: tensor.sum().item() for name, tensor in checkpoint.tensors()}
    assert sums == {name: tensor.sum().item() for name, tensor in tensors.items()} and len(loads) == 1
