"""Models under ComfyUI's memory management: loading, drawing, and the way between pictures and tokens."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import comfy.model_management as mm
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .. import mcsjd_core
from ..mcsjd_core import Decoded, DecodeSettings, Drawing, Grid, InputError, Step
from ..mcsjd_core.errors import first_line
from ..mcsjd_core.families.interface import Clip
from ..mcsjd_core.families.sizes import choose_size
from ..mcsjd_core.families.weight_error import logits_change
from ..mcsjd_core.nn import operations as own_operations
from ..mcsjd_core.nn.weights import stored_bytes
from ..mcsjd_core.pipeline import video
from ..mcsjd_core.pipeline.memory import codec_bytes, decode_bytes
from ..mcsjd_core.reporting.report import law_name
from .devices import DEFAULT, at_work_on, device_of, free_memory
from .folders import find_checkpoint, identity
from .progress import PREVIEWED, LivePreview, Progress, check_cancelled
from .speed import EXECUTIONS, check_execution
from .types import ImageTokens, LoadedModel

INT8 = "int8 weights"
SMALL = {"fp8 weights": "fp8", INT8: "int8"}  # the core's names of how matrices are held in 8 bits
HALF = "fp32 from bf16 weights"
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, **dict.fromkeys(SMALL)}
DTYPES[HALF] = torch.float32
HELD = {**SMALL, HALF: "bf16"}
LAYERS = own_operations.__all__  # what the core builds its models from
PICTURES_AT_ONCE = 4  # decoded together; cancel is looked at in between

# Newer versions leave a layer without weights until a file is loaded, but the core needs to see their shapes. Layers with
# a loader of their own are exempt.
OWN_LOADER = {"_load_from_state_dict": nn.Module._load_from_state_dict}


@contextmanager
def memory_freed_on_error() -> Iterator[None]:
    """ComfyUI keeps an exception while it tidies up, and its frames would keep weights or the KV cache."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


# -- loading -----------------------------------------------------------------------------------------------------------


def operations():
    """The layers that the core builds models from: ComfyUI's, which can stay in ordinary memory until they are used."""
    layers = comfy.ops.disable_weight_init  # weights are made in the dtype that they are used in: no casting on top
    if not all(hasattr(layers, name) for name in LAYERS):
        return own_operations
    return SimpleNamespace(**{name: type(name, (getattr(layers, name),), OWN_LOADER) for name in LAYERS})


def casting_operations():
    """The same with linear layers that cast their weights, of whatever dtype, to that of their input."""
    layers = operations()
    rest = {name: getattr(layers, name) for name in LAYERS if name != "Linear"}
    return SimpleNamespace(**rest, Linear=type("Linear", (comfy.ops.manual_cast.Linear,), OWN_LOADER))


def choose_dtype(choice: str, device: torch.device) -> torch.dtype:
    """dtype of activations. `auto` is bfloat16 where the device computes in it, else float32: float16 can overflow."""
    if choice not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {choice!r}.")
    return DTYPES[choice] or (torch.bfloat16 if mm.should_use_bf16(device) else torch.float32)


def check_fp8(device: torch.device, dtype: torch.dtype) -> None:
    """Raise InputError if the device cannot hold float8 and turn it into `dtype`."""
    try:
        torch.ones(1).to(torch.float8_e4m3fn).to(device).to(dtype)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = first_line(error)
        raise InputError(f"{device} cannot hold fp8 weights ({reason}); choose bf16, fp16 or fp32.") from None


def load_model(
    name: str, dtype_choice: str, execution: str = EXECUTIONS[0], device_choice: str = DEFAULT
) -> LoadedModel:
    """Read a checkpoint into ordinary memory; it moves to the device when it is used. Stop works between tensors."""
    path, device = find_checkpoint(name), device_of(device_choice)
    check_execution(execution, device)
    # The host may keep its own models where they compute, which for this one may be too small, or another device.
    offload_device = mm.unet_offload_device() if device == mm.get_torch_device() else torch.device("cpu")
    dtype, weights = choose_dtype(dtype_choice, device), HELD.get(dtype_choice, "full")
    if weights == "fp8":
        check_fp8(device, dtype)
    layers = casting_operations() if weights in ("fp8", "bf16") else operations()
    options = {"dtype": dtype, "device": offload_device, "operations": layers, "weights": weights}
    with memory_freed_on_error():
        family = mcsjd_core.load(path, **options, before_tensor=check_cancelled)
        change = None if weights in ("full", "bf16") else logits_change(family, path, check_cancelled)
    # The class that keeps weights where they are while a run lasts, not the host's newer one: captured and compiled iterations
    # need that, and it was the faster one where both were measured. The host would count 8-bit weights at their dense size.
    patchers = [
        ModelPatcher(m, load_device=device, offload_device=offload_device, size=stored_bytes(m))
        for m in (family.token_model, cast(nn.Module, family.codec))
    ]
    dtype_name = str(dtype).removeprefix("torch.") + (f" with {weights} weights" if weights != "full" else "")
    tokens, codec = patchers
    return LoadedModel(name, identity(path), family, dtype_name, tokens, codec, execution, change)


def describe(model: LoadedModel) -> str:
    """What a person wants to know of a model before the first run: family, sizes, memory."""
    family, own = model.family, model.family.defaults
    settings = DecodeSettings(window=own.window)
    parameters = sum(p.numel() for p in family.token_model.parameters())
    weights, codec = (patcher.model_size() for patcher in (model.token_patcher, model.codec_patcher))
    prompt, grid = family.empty_prompt(guided=True), family.grid()
    run = decode_bytes(family, prompt, settings, grid)
    drawn = ("picture" if family.clip.is_picture else "video") + (" with guidance" if prompt.guided else "")
    error = "" if model.logits_change is None else f", which change its logits by {model.logits_change:.1%} (rms)"
    return "\n".join(
        (
            f"draws {family.sizes[0]} by default ({family.name} family)",
            *video_lines(family.clip),
            f"its own settings (-1 in the sampler): {law_name(own.law)}, window {own.window}",
            f"{count_name(parameters)} parameters, {model.dtype}{error}",
            f"weights {bytes_name(weights)}, codec {bytes_name(codec)}",
            f"one {drawn}, window {settings.window}: {bytes_name(run)} more",
            f"decoding it: {bytes_name(codec_bytes(family, 1, grid))}",
            f"sizes: {', '.join(family.sizes)}",
        )
    )


def video_lines(clip: Clip) -> list[str]:
    """What a video of the model is, as people read it; nothing for models of pictures."""
    if clip.is_picture:
        return []
    return [
        f"videos of {clip.frames} frames at {clip.frame_rate:g} per second, continued from {clip.start_name} (start_frames)"
    ]


def count_name(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def bytes_name(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


# -- drawing -----------------------------------------------------------------------------------------------------------


def sample(model: LoadedModel, drawing: Drawing, live_preview: bool) -> tuple[Decoded, float]:
    """Draw tokens with the model on its device; the bar counts committed tokens, Stop works after every forward.

    Also gives the seconds that live previews took.
    """
    _load_transformer(model, drawing.memory_bytes)
    preview = _preview_of(model, drawing, live_preview)
    _check_captured(model)
    progress = Progress(drawing.prompt.batch * drawing.grid.num_tokens)

    def on_step(step: Step) -> None:
        progress.update(sum(step.done), preview.picture(step))

    with memory_freed_on_error(), at_work_on(model.token_patcher.load_device):
        decoded = drawing.to(model.family.token_model.prompt_device).run(on_step)
    return decoded, preview.seconds


def _load_transformer(model: LoadedModel, needed: int) -> None:
    """Put the transformer on its device, with `needed` bytes left for the run.

    In one piece where it cannot be run in parts: weights in system memory cannot be part of a recorded iteration, and int8 ones
    cannot be copied one by one.
    """
    patcher = model.token_patcher
    whole = model.execution != EXECUTIONS[0] or INT8 in model.dtype
    mm.load_models_gpu([patcher], memory_required=needed, force_full_load=whole)
    follow_weights(patcher)


def _check_captured(model: LoadedModel) -> None:
    """Raise InputError if iterations are to be recorded and not all weights are there; called when all else is in place."""
    patcher = model.token_patcher
    tensors = (*patcher.model.parameters(), *patcher.model.buffers())
    if model.execution == "captured" and any(tensor.device != patcher.load_device for tensor in tensors):
        smaller = "" if any(held in model.dtype for held in SMALL.values()) else ", or dtype to fp8 weights"
        raise InputError(
            f"The weights of {model.name!r} do not all fit on {patcher.load_device}, as captured iterations require; set "
            f"execution to eager{smaller}."
        )


def follow_weights(patcher: ModelPatcher) -> None:
    """Tell the model where to compute: ComfyUI may leave some weights in system memory, so no single weight shows it."""
    patcher.model.compute_device = getattr(patcher.model, "device", None)


def _preview_of(model: LoadedModel, drawing: Drawing, wanted: bool) -> LivePreview:
    """Live previews of a run, if they are wanted and possible."""
    preview, needed = LivePreview(model.family, drawing.grid), drawing.memory_bytes
    preview.enabled &= wanted and _make_room_for_previews(
        model, needed, min(PREVIEWED, drawing.prompt.batch), drawing.grid
    )
    return preview


def _make_room_for_previews(model: LoadedModel, needed: int, count: int, grid: Grid) -> bool:
    """Put the codec beside the transformer if there is room without pushing anything out; says whether there is."""
    codec = model.codec_patcher
    needed += codec_bytes(model.family, count, grid)
    reserve = max(mm.minimum_inference_memory(), needed + mm.extra_reserved_memory())
    wanted, device = 1.1 * codec.model_size() + reserve, codec.load_device
    if free_memory(codec) < wanted:
        return False
    # Newer hosts count what other models can give back at once. They give it here: asked for it by the codec's loading, the
    # host would choose whom to push out, the transformer among them.
    ours = [loaded for loaded in mm.current_loaded_models if loaded.model is model.token_patcher]
    mm.free_memory(wanted, device, keep_loaded=ours)
    if mm.get_free_memory(device) < wanted:
        return False
    mm.load_models_gpu([codec], memory_required=needed, force_full_load=True)
    return True


# -- pictures ----------------------------------------------------------------------------------------------------------


def pictures(model: LoadedModel, tokens: ImageTokens) -> Tensor:
    """IMAGE [B, H, W, 3] float32 on the CPU of whole tokens; of videos [B T, H, W, 3], one after the other."""
    at_once = PICTURES_AT_ONCE if model.family.clip.is_picture else 1
    progress, parts, done = Progress(len(tokens.tokens)), [], 0
    with _codec_at_work(model, len(tokens.tokens), tokens.grid):
        for clips in video.clips(model.family, tokens.tokens, tokens.size, at_once):
            parts.append(clips.flatten(0, 1).movedim(1, -1).cpu())
            done += len(clips)
            progress.update(done)
    return torch.cat(parts).contiguous()


def encode(model: LoadedModel, images: Tensor, size: str | None) -> ImageTokens:
    """Tokens of an IMAGE [B, H, W, C], scaled and cropped to `size`."""
    if not model.family.clip.is_picture:
        raise InputError(
            f"{model.name!r} draws videos; connect the frames to the sampler's start_frames, which encodes them itself."
        )
    _check_pixels(images)
    size = choose_size(size, model.family.sizes)
    progress, parts = Progress(len(images)), []
    with _codec_at_work(model, len(images), model.family.grid(size)):
        for part in images.movedim(-1, 1).split(PICTURES_AT_ONCE):
            parts.append(mcsjd_core.encode(model.family, part, size).cpu())
            progress.update(sum(map(len, parts)))
    return ImageTokens.of(torch.cat(parts), size, model)


def start_of_video(model: LoadedModel, clip: Tensor, size: str, frames: int | None) -> ImageTokens:
    """Tokens of the last frames of an IMAGE [T, H, W, C], as many as the model may be given, for `sample` to continue."""
    grid = model.family.grid(size, frames)
    _check_pixels(clip)
    start = model.family.grid(size, model.family.clip.start_of(len(clip)))
    with _codec_at_work(model, 1, start):
        codes = video.start_codes(model.family, clip.movedim(-1, 1), size)
    return ImageTokens.of(grid.tokens(codes), size, model, frames)


def _check_pixels(images: Tensor) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"The image to encode has no pixels: its shape is {list(images.shape)}; connect a picture.")


@contextmanager
def _codec_at_work(model: LoadedModel, count: int, grid: Grid) -> Iterator[None]:
    """Inside, the codec is on its device, with room for so many pictures, and that device is the current one."""
    needed = codec_bytes(model.family, min(count, PICTURES_AT_ONCE), grid)
    # A codec is small; in one piece it lies where its codebook lies.
    mm.load_models_gpu([model.codec_patcher], memory_required=needed, force_full_load=True)
    with at_work_on(model.codec_patcher.load_device):
        yield
