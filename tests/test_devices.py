"""What Apple's GPUs and others cannot do is not asked of them: no float64, and no operation that has no kernel there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_cosmos
from mcsjd_core import COUPLINGS, INITIALISERS, DecodeSettings, Grid, LawSettings, load
from mcsjd_core.decoding.drafts import RECALL
from tiny import run, transformer
from tiny_checkpoint import write_tiny_checkpoint

CODES, GRID = 40, Grid(3, 3)
MODEL = transformer(CODES, layers=1)
LAWS = {
    "plain": LawSettings(),
    "guided": LawSettings(cfg_scale=2.0),
    "cooled": LawSettings(temperature=0.5),
    "greedy": LawSettings(temperature=0.0),
    "top-k": LawSettings(top_k=9),
    "top-p": LawSettings(top_p=0.8),
    "min-p": LawSettings(min_p=0.05),
    "everything": LawSettings(2.0, 0.7, 12, 0.9, 0.01),
}
# What this device does in its own way: attention, and rows that `kv_cache.write_rows` writes otherwise on Apple's GPUs.
OF_THE_CPU = {"_scaled_dot_product_flash_attention_for_cpu", "index_copy_"}
EARLIER = torch.arange(GRID.num_tokens)[None] % CODES


class Watch(TorchDispatchMode):
    """Collects the operations that run under it, as torch's own table names them, and refuses float64."""

    def __init__(self):
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations.add(func._schema.name.removeprefix("aten::") + "." * bool(func._schema.overload_name)
                            + func._schema.overload_name)  # fmt: skip
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float64, torch.complex128):
                raise AssertionError(f"{func} gives {tensor.dtype} {list(tensor.shape)}.")
        return result


@cache
def kernels() -> dict[str, set[str]]:
    """Backends for which torch says that it has a kernel of an operation; `Composite...` serves every one."""
    table = Path(torch.__file__).parents[1] / "torchgen/packaged/ATen/native/native_functions.yaml"
    entries = {entry["func"].split("(")[0]: entry for entry in yaml.load(table.read_bytes(), yaml.CSafeLoader)}

    def of(entry: dict) -> set[str]:
        if delegate := entry.get("structured_delegate"):
            return of(entries[delegate])
        keys = entry.get("dispatch", {"CompositeImplicitAutograd": ""})
        return {key.strip() for names in keys for key in names.split(",")}

    return {name: of(entry) for name, entry in entries.items()}


def without_kernel(operations: set[str], backend: str) -> set[str]:
    def has(name: str) -> bool:
        return any(key == backend or key.startswith("Composite") for key in kernels()[name])

    return {name for name in operations - OF_THE_CPU if not has(name)}


def watched(settings: DecodeSettings) -> Watch:
    with Watch() as watch:
        earlier = {"earlier_tokens": EARLIER} if settings.initialiser == "warm" else {}
        run(MODEL, GRID, 2, settings.law.guided, **vars(settings), **earlier)
    return watch


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_decode_with_details_needs_no_float64_and_only_what_apple_s_gpus_have(coupling, law):
    watch = watched(DecodeSettings(coupling, 7, law, trace_detail=True))
    assert not without_kernel(watch.operations, "MPS")


@pytest.mark.parametrize(
    "changes",
    [
        *({"initialiser": name} for name in (*INITIALISERS, RECALL)),
        *({"coupling": coupling, "initialiser": "left_law"} for coupling in COUPLINGS),
        *({"coupling": coupling, "trajectories": 3} for coupling in COUPLINGS),
    ],
    ids=str,
)
def test_first_drafts_and_trajectories_do_not_either(changes):
    watch = watched(DecodeSettings(**{"coupling": "gumbel_exact", "window": 7, "law": LAWS["everything"], **changes}))
    assert not without_kernel(watch.operations, "MPS")


@pytest.mark.parametrize("kind", ["pictures", "videos"])
def test_codecs_do_not_either(kind, tmp_path):
    if kind == "pictures":
        codec, size = load(write_tiny_checkpoint(tmp_path / "tiny")).codec, (1, 3, 64, 96)
    else:
        codec, size = tiny_cosmos.plain_codec(), (1, 3, 9, 32, 48)
    with torch.no_grad(), Watch() as watch:
        codec.decode(codec.encode(torch.rand(size)))
    assert not without_kernel(watch.operations, "MPS")


def test_the_watch_sees_what_it_is_for():
    with pytest.raises(AssertionError, match="float64"), Watch():
        torch.ones(3).double().float()
    with Watch() as watch:
        torch.ones(3, 3).cumsum(-1).geqrf()
    assert without_kernel(watch.operations, "MPS") == {"geqrf"}
