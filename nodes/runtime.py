"""Everything of ComfyUI that is not schema: model folders, devices and memory, progress, cancel, text in a node."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as mm
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .. import mcsjd_core
from ..mcsjd_core import Decoded, DecodeSettings, InputError, Step
from ..mcsjd_core.models.interface import Family, Prompt
from .types import LoadedModel

MODEL_FOLDER = "mcsjd"
SEARCH_DEPTH = 3  # folders below a model folder: organisation/model, and one to spare
EMBEDDED = f"embedded: {mcsjd_core.EMBEDDED_MODEL.name}"
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYERS = ("Linear", "Embedding", "RMSNorm", "Conv2d", "GroupNorm")  # what the core builds its models from
PICTURES_AT_ONCE = 4  # decoded together; cancel is looked at in between


# -- model folders -----------------------------------------------------------------------------------------------------


def register_model_folder() -> None:
    """Make `models/mcsjd` known; folders that extra_model_paths.yaml gives for the same key stay."""
    folder_paths.add_model_folder_path(
        MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER), is_default=True
    )


def checkpoints() -> dict[str, Path]:
    """Directory of every checkpoint, by its name in the menu. Names are looked up here, never joined to a path."""
    found = {EMBEDDED: mcsjd_core.EMBEDDED_MODEL}
    for root in map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)):
        for directory in _checkpoint_directories(root):
            found.setdefault(directory.relative_to(root).as_posix(), directory)
    return dict(sorted(found.items(), key=lambda item: (item[0] != EMBEDDED, item[0])))


def _checkpoint_directories(root: Path) -> list[Path]:
    """Directories below `root` that hold a config.json.

    Those that no family supports are among them: loading one says what is wrong, a missing entry would say nothing.
    """
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        directory = Path(folder)
        depth = len(directory.relative_to(root).parts)
        is_checkpoint = depth > 0 and "config.json" in files
        if is_checkpoint:
            found.append(directory)
        if is_checkpoint or depth == SEARCH_DEPTH:
            subfolders.clear()  # links can make circles
    return found


def find_checkpoint(name: str) -> Path:
    directory = checkpoints().get(name)
    if directory is None:
        raise InputError(
            f"There is no model {name!r} below models/{MODEL_FOLDER}: put its directory there, press R to refresh the "
            "menu, and choose it again."
        )
    return directory


def identity(directory: Path) -> str:
    """Hash that changes when a file of the checkpoint is replaced; reads no file."""
    digest = hashlib.sha256()
    files = [entry for entry in directory.iterdir() if entry.is_file()] if directory.is_dir() else []
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# -- loading -----------------------------------------------------------------------------------------------------------


def operations():
    """The layers that the core builds models from: ComfyUI's, which can stay in ordinary memory until they are used."""
    layers = comfy.ops.disable_weight_init  # weights are made in the dtype that they are used in: no casting on top
    if not all(hasattr(layers, name) for name in LAYERS):
        return nn
    # Newer versions leave a layer without weights until a file is loaded, but the core needs to see their shapes.
    # Layers with a loader of their own are exempt.
    loader = {"_load_from_state_dict": nn.Module._load_from_state_dict}
    return SimpleNamespace(**{name: type(name, (getattr(layers, name),), loader) for name in LAYERS})


def choose_dtype(choice: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the device computes in it, else float32: float16 overflows in some families."""
    if choice not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {choice!r}.")
    return DTYPES[choice] or (torch.bfloat16 if mm.should_use_bf16(device) else torch.float32)


def load_model(name: str, dtype_choice: str) -> LoadedModel:
    """Read a checkpoint into ordinary memory; it moves to the device when it is used."""
    directory = find_checkpoint(name)
    device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    dtype = choose_dtype(dtype_choice, device)
    family = mcsjd_core.load(directory, dtype=dtype, device=offload_device, operations=operations())
    patchers = [
        ModelPatcher(m, load_device=device, offload_device=offload_device) for m in (family.token_model, family.codec)
    ]
    return LoadedModel(name, identity(directory), family, dtype, *patchers)


# -- memory ------------------------------------------------------------------------------------------------------------

# Bytes alive at the worst moment of an iteration, counted over the tensors of a decode in float32 and bfloat16; a test
# compares the sums below with what is really allocated.
LOGIT_BYTES, GUIDED_BYTES = 8, 16  # a code of the window while logits are guided: for each model row, for each picture
LAW_BYTES = 44  # a code that top-k keeps, while tokens are drawn: target and draft law, residual or noise
ACTIVATIONS = 20  # numbers per embedding channel: a block's residual, queries, keys, values and feed-forward layer
MASK_BYTES = 8  # a pair of query and cache slot, also as the attention kernel wants it
CODEC_ACTIVATIONS = 8  # float32 feature maps at full resolution


def decode_bytes(family: Family, prompt: Prompt, settings: DecodeSettings) -> int:
    """What a decode allocates beside the weights: KV cache, logits or laws of the window, activations."""
    rows, slots, dim = prompt.embeddings.shape
    window, codebook_size = settings.effective_window, family.token_model.codebook_size
    capacity = slots + family.grid().num_tokens + window
    cache = family.token_model.new_cache(torch.zeros(rows, dtype=torch.long, device="meta"), capacity)
    kept = min(settings.law.top_k or codebook_size, codebook_size)
    guiding = codebook_size * (rows * LOGIT_BYTES + prompt.batch * GUIDED_BYTES)
    drawing = prompt.batch * (codebook_size * LOGIT_BYTES + kept * LAW_BYTES)
    channels = dim * ACTIVATIONS * prompt.embeddings.element_size()
    activations = rows * max(slots, window) * (channels + capacity * MASK_BYTES)
    return cache.nbytes + window * max(guiding, drawing) + activations


def codec_bytes(family: Family, count: int) -> int:
    """What decoding `count` pictures at once allocates beside the weights."""
    codec, grid = family.codec.config, family.grid()
    pixels = grid.rows * grid.columns * codec.downsampling**2
    return count * pixels * codec.channels * max(codec.channel_multipliers[:2]) * CODEC_ACTIVATIONS * 4


# -- using a model -----------------------------------------------------------------------------------------------------


def check_cancelled() -> None:
    """Raise ComfyUI's interrupt if the user pressed Stop; nobody below ComfyUI may catch it."""
    mm.throw_exception_if_processing_interrupted()


def progress(total: int) -> Callable[[int], None]:
    """ComfyUI's progress bar of the node that runs: call it with the amount done. Raises if the user pressed Stop."""
    bar = comfy.utils.ProgressBar(total)

    def update(done: int) -> None:
        check_cancelled()  # the bar of newer versions skips most updates, and the check in them
        bar.update_absolute(done, total)

    return update


def sample(model: LoadedModel, texts: list[str], settings: DecodeSettings) -> Decoded:
    """Draw tokens with the model on its device; the bar counts committed tokens, Stop works after every forward."""
    family = model.family
    _follow_weights(model.token_patcher)
    needed = decode_bytes(family, family.prompt(texts, None, settings.law.guided), settings)
    mm.load_models_gpu([model.token_patcher], memory_required=needed)
    _follow_weights(model.token_patcher)
    update = progress(len(texts) * family.grid().num_tokens)

    def on_step(step: Step) -> None:
        update(sum(step.done))

    try:
        return mcsjd_core.sample(family, texts, settings, on_step=on_step)
    except BaseException as error:
        # ComfyUI keeps the exception while it tidies up, and its frames keep the KV cache.
        traceback.clear_frames(error.__traceback__)
        raise


def _follow_weights(patcher: ModelPatcher) -> None:
    """Tell the model where to compute: ComfyUI may leave some weights behind, so no single weight shows it."""
    patcher.model.compute_device = getattr(patcher.model, "device", None)


def pictures(model: LoadedModel, tokens: Tensor) -> Tensor:
    """IMAGE [B, H, W, 3] float32 on the CPU of whole token rows [B, num_tokens]."""
    needed = codec_bytes(model.family, min(len(tokens), PICTURES_AT_ONCE))
    # A codec is small; in one piece it lies where its codebook lies.
    mm.load_models_gpu([model.codec_patcher], memory_required=needed, force_full_load=True)
    update, parts = progress(len(tokens)), []
    for part in tokens.split(PICTURES_AT_ONCE):
        parts.append(mcsjd_core.pictures(model.family, part).movedim(1, -1).float().cpu())
        update(sum(map(len, parts)))
    return torch.cat(parts).contiguous()


def show_text(text: str, node_id: str | None) -> None:
    """Show a line inside a node while the browser is connected."""
    from server import PromptServer  # not there when the nodes run without ComfyUI's server

    server = getattr(PromptServer, "instance", None)
    if node_id is not None and server is not None:
        server.send_progress_text(text, node_id)
