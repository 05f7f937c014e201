"""One model over several GPUs: each process holds a slice of every matrix of the body, and all of them draw the same tokens.

Attention is cut by heads and the feed-forward layer by channels (Shoeybi et al., arXiv 1909.08053, section 3), with torch's
DTensor: two all-reduces a layer. A process keeps keys and values of its own heads alone. The embedding and the head are
cut by channel and by code, and gathered. What is drawn is computed from whole logits by every process alike, from noise that is a
hash of seed and place, so that nothing else has to be sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checkpoints.checkpoint import Placing, placing
from ..errors import InputError, first_line
from ..nn.transformer import Transformer, TransformerConfig

HEADS = ("lm_head", "vision_head")  # what families call the matrix from hidden states to codes
FREED = 0.2  # seconds in which gloo's threads free what they worked on
LONGEST_WAIT = timedelta(minutes=10)  # for another process: a checkpoint is read at different speeds
# What collectives raise when another process is gone, or does not answer.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "NCCL", "Gloo", "gloo")


@dataclass(frozen=True)
class Group:
    """The processes of a run: `mesh` is a DeviceMesh of one dimension, `rank` this process's place in it."""

    mesh: Any
    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0


@contextmanager
def joined(size: int, device: str) -> Iterator[Group]:
    """Inside, this process and the others that torchrun started are a group of `size`, on CPUs or a GPU each.

    Raises InputError if they cannot be, or if another one is gone.
    """
    rank, kind = rank_of(size), _kind_of(device)
    if kind == "cuda":
        torch.cuda.set_device(_own_gpu(rank))
    try:
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT, rank=rank, world_size=size)
        yield Group(dist.init_device_mesh(kind, (size,)), rank, size)
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise InputError(
            f"Process {rank + 1} of {size} ends, since it cannot work with the others ({first_line(error)}); where another one "
            "is gone, the log of that one says why: fix that and start again."
        ) from None
    finally:
        if dist.is_initialized():
            # Torch 2.7 joins gloo's threads while it holds Python's lock; one that still frees its work would wait for it.
            time.sleep(FREED)
            dist.destroy_process_group()


def _kind_of(device: str) -> str:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"There is no device {device} ({first_line(error)}); give --device cuda or cpu.") from None
    if kind not in ("cuda", "cpu"):
        raise InputError(
            f"Processes share a model on CUDA devices or on CPUs, not on {kind}; give --device cuda or cpu."
        )
    return kind


def _own_gpu(rank: int) -> int:
    """The number of this process's GPU on its machine; raises InputError if there are fewer GPUs than processes."""
    number, there = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
    if number >= there:
        raise InputError(
            f"Process {number + 1} of this machine has no GPU of its own: torch finds {there}; start one process per GPU, or "
            "give --device cpu."
        )
    return number


def is_lost(error: RuntimeError) -> bool:
    """Whether a collective failed, which it does when another process has ended, or never was there."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in LOST)


def rank_of(size: int) -> int:
    """This process's rank, as torchrun tells it; raises InputError if it is not one of `size` processes."""
    try:
        told = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR")]
        rank, started, _port = map(int, told[:3])
    except (KeyError, ValueError):
        raise InputError(
            f"A model over {size} GPUs needs {size} processes: start it as `torchrun --nproc-per-node {size} -m mcsjd_core "
            "generate ...`."
        ) from None
    if started != size:
        raise InputError(
            f"torchrun started {started} processes for --tensor-parallel {size}; give both the same number."
        )
    return rank


@contextmanager
def shared(group: Group) -> Iterator[None]:
    """Inside, checkpoints are loaded so that this process reads and holds its slice of every matrix of a body."""
    with placing(partial(share, group)):
        yield


def share(group: Group, module: nn.Module) -> Placing:
    """Cut the bodies in `module`, built on the meta device, and say how to cut its tensors; other modules stay whole."""
    from torch.distributed.tensor import DTensor

    cuts: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, body in [*module.named_modules()]:
        if isinstance(body, Transformer):
            cuts |= {f"{name}.{key}": cut for key, cut in _share_body(group, body).items()}
            _share_heads(group, module)
    sharded = {name: p for name, p in module.named_parameters() if isinstance(p, DTensor)}
    return _Slices(group, sharded, cuts)


def _share_body(group: Group, body: Transformer) -> dict[str, Callable[[Tensor], Tensor]]:
    """Cut one transformer; gives the cuts of what is not a DTensor, by name."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    config, n = body.config, group.size
    check_size(config, n)
    whole_keys = config.kv_heads % n == 0
    columns, rows = ("q_proj", *(("k_proj", "v_proj") if whole_keys else ())), ("o_proj",)
    attentions = ("self_attn", *(("cross_attn",) if config.context_dim else ()))
    plan: dict[str, Any] = {f"{name}.{part}": ColwiseParallel() for name in attentions for part in columns}
    plan |= {f"{name}.{part}": RowwiseParallel() for name in attentions for part in rows}
    plan |= {"mlp.gate_proj": ColwiseParallel(), "mlp.up_proj": ColwiseParallel(), "mlp.down_proj": RowwiseParallel()}
    cuts: dict[str, Callable[[Tensor], Tensor]] = {}
    for number, layer in enumerate(body.layers):
        parallelize_module(layer, group.mesh, plan)
        for name in attentions:
            for key, cut in _cuts_of_attention(config, group, whole_keys).items():
                _shrink(layer.get_submodule(name), key, cut)
                cuts[f"layers.{number}.{name}.{key}"] = cut
    if hasattr(body, "embed_tokens"):
        parallelize_module(body, group.mesh, {"embed_tokens": ColwiseParallel(output_layouts=Replicate())})
    # From here on the body has this process's heads: caches are laid out for them.
    kv_heads = config.kv_heads // n if whole_keys else 1
    body.config = replace(config, heads=config.heads // n, kv_heads=kv_heads, qk_norm_groups=1)
    return cuts


def check_size(config: TransformerConfig, size: int) -> None:
    """Raise InputError if `size` processes cannot share the heads and channels of such a body evenly."""

    def fits(n: int) -> bool:
        keys = config.kv_heads % n == 0 or n % config.kv_heads == 0
        return keys and config.heads % n == 0 and config.ffn_dim % n == 0

    if not fits(size):
        good = [str(n) for n in range(1, config.heads + 1) if fits(n)]
        raise InputError(
            f"{size} processes cannot share {config.heads} heads, {config.kv_heads} key heads and {config.ffn_dim} channels "
            f"evenly; use one of {', '.join(good)}."
        )


def _share_heads(group: Group, module: nn.Module) -> None:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    for name in [name for name, _ in module.named_modules() if name.rpartition(".")[2] in HEADS]:
        parallelize_module(module, group.mesh, {name: ColwiseParallel(output_layouts=Replicate())})


def _cuts_of_attention(
    config: TransformerConfig, group: Group, whole_keys: bool
) -> dict[str, Callable[[Tensor], Tensor]]:
    """How to cut what is not cut as a DTensor: norms with a row for several heads, and keys that processes have in common."""
    cuts: dict[str, Callable[[Tensor], Tensor]] = {}
    n, rank = group.size, group.rank
    if not whole_keys:
        mine = rank * config.kv_heads // n
        rows = slice(mine * config.head_dim, (mine + 1) * config.head_dim)
        names = [f"{part}.{what}" for part in ("k_proj", "v_proj") for what in ("weight", "bias")]
        cuts |= {name: lambda tensor: tensor[rows] for name in names if config.qkv_bias or name.endswith("weight")}
    if config.qk_norm:
        first_key = rank * config.kv_heads // n
        heads = {
            "q_norm": (config.qk_norm_groups, config.heads, rank * config.heads // n, config.heads // n),
            "k_norm": (config.key_norm_groups, config.kv_heads, first_key, max(config.kv_heads // n, 1)),
        }
        what = ("weight", "bias") if config.qk_norm == "layer" else ("weight",)
        cuts |= {
            f"{norm}.{name}": partial(_rows_of_heads, *of) for norm, of in heads.items() if of[0] > 1 for name in what
        }
    return cuts


def _rows_of_heads(groups: int, heads: int, first: int, count: int, rows: Tensor) -> Tensor:
    """A row [count, head_dim] for each of the heads from `first` on, of rows [groups, head_dim]."""
    return rows.repeat_interleave(heads // groups, 0)[first : first + count]


def _shrink(attention: nn.Module, name: str, cut: Callable[[Tensor], Tensor]) -> None:
    """Give a parameter on the meta device the shape of its slice."""
    owner, _, leaf = name.rpartition(".")
    module = attention.get_submodule(owner)
    setattr(module, leaf, nn.Parameter(cut(getattr(module, leaf).detach()), requires_grad=False))


class _Slices:
    """This process's slices of a module's tensors: those of DTensors by their placement, others by a cut of their own."""

    def __init__(self, group: Group, sharded: dict[str, Any], cuts: dict[str, Callable[[Tensor], Tensor]]):
        self.group, self.sharded, self.cuts = group, sharded, cuts

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The slice to read of a whole tensor, which may be mapped: only what is in the slice is then read."""
        if name in self.cuts:
            return self.cuts[name](tensor)
        dim = self._dim(name)
        if dim is None:
            return tensor
        step = -(-tensor.shape[dim] // self.group.size)  # as DTensor cuts: the last one may be shorter
        start = min(self.group.rank * step, tensor.shape[dim])
        return tensor.narrow(dim, start, min(step, tensor.shape[dim] - start))

    def held(self, name: str, local: Tensor, whole: torch.Size) -> Tensor:
        """What the module holds for a slice that was read, of a tensor of shape `whole`."""
        if self._dim(name) is None:
            return local
        from torch.distributed.tensor import DTensor

        parameter, stride = self.sharded[name], torch.empty(whole, device="meta").stride()
        return DTensor.from_local(
            local.contiguous(), parameter.device_mesh, parameter.placements, run_check=False, shape=whole, stride=stride
        )

    def _dim(self, name: str) -> int | None:
        placed = self.sharded[name].placements[0] if name in self.sharded else None
        return placed.dim if placed is not None and placed.is_shard() else None
