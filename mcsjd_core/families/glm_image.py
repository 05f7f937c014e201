"""GLM-Image's autoregressive stage (github.com/zai-org/GLM-Image): GLM-4-9B's body draws semantic codes, a preview first.

Reads the repository `zai-org/GLM-Image` as diffusers lays it out, its folder `vision_language_encoder` and the tokenizer in
`processor`; the parts that look at pictures are passed over. Pixels are the work of its 7 B diffusion transformer, which
takes the codes as `prior_token_ids` (see `pipeline.diffusion`). Not seen of the published files: tokenizer.json and the
weights' index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..codecs.absent import AbsentCodec
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.layers import plane_angles, spread_pairs
from ..nn.transformer import Transformer, TransformerConfig
from ..text.text_tokenizer import control_ids, read_tokenizer, without_controls
from .hf_config import generation_fields, sampling_defaults, transformer_config
from .interface import PICTURE, PictureFamily, SamplingDefaults, alternating
from .sizes import side_lengths, sizes_of_equal_area
from .token_model import TransformerTokenModel

MODEL, PROCESSOR = "vision_language_encoder", "processor"  # folders of the repository
BEGIN_OF_SIZE, END_OF_SIZE = "<sop>", "<eop>"
CONTROL = re.compile(r"<\|.*\|>|<sop>|<eop>|\[[a-z]*MASK\]")
CELL, PREVIEW_SIDE = 32, 16  # pixels a code, and codes along a side of a square preview
SIZES = (*sizes_of_equal_area(1024, CELL, longest=2), "512x512", "768x1152", "1152x768", "1152x1024", "1024x1152",
         "1920x1088", "1088x1920", "2048x2048")  # fmt: skip
# generation_config.json names no top-k, and transformers' `generate` then takes its own, 50; diffusers draws so.
DEFAULTS = SamplingDefaults(LawSettings(temperature=0.9, top_k=50, top_p=0.75))
PIXELS_ELSEWHERE = (
    "GLM-Image's tokens become a picture in its diffusion transformer alone: in ComfyUI use MC-SJD Decode GLM-Image, elsewhere "
    "hand them on as prior_token_ids."
)
BODY_PREFIX, VISION = "model.language_model.", ("model.visual.", "model.vqmodel.")
SECTIONS, TURNING_SHARE = (8, 12, 12), 0.5  # pairs of a head that turn with text, row and column; channels that turn


def preview_of(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the preview of a grid: about 16 x 16 codes of the same shape."""
    return int(sqrt(rows / columns) * PREVIEW_SIDE), int(sqrt(columns / rows) * PREVIEW_SIDE)


def planes_of(grid: Grid) -> Tensor:
    """Positions [num_tokens, 3] of preview, picture and end: their common start, and from there row and column.

    A raster takes up as many positions as its longer side has codes.
    """
    assert grid.preview is not None
    rows, columns = grid.preview
    parts, start = [], 0
    for height, width in ((rows, columns), (grid.rows, grid.columns)):
        cell = torch.arange(height * width)
        axes = torch.stack((torch.zeros_like(cell), cell // width, cell % width), -1)
        parts.append(axes + start)
        start += max(height, width)
    return torch.cat((*parts, torch.full((len(grid.end), 3), start)))


def prior_token_ids(codes: Tensor) -> Tensor:
    """What diffusers' `GlmImagePipeline` calls so: [B, 4 h w] int64 of codes [B, h, w], each of them 2 x 2 times."""
    return codes.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)


class GlmImage(PictureFamily):
    """A loaded checkpoint. Its codes are no pixels; `prior_token_ids` of them go to the diffusion transformer."""

    name = "glm_image"
    clip = replace(PICTURE, takes_guidance=False, pixels_elsewhere=PIXELS_ELSEWHERE)

    def __init__(
        self, token_model: TransformerTokenModel, tokenizer, image_ids: tuple[int, int], defaults: SamplingDefaults
    ):
        self.token_model, self.tokenizer, self.defaults = token_model, tokenizer, defaults
        self.codec, self.sizes = AbsentCodec(PIXELS_ELSEWHERE), SIZES
        self.begin_of_image, self.end_of_image = image_ids
        self.control_ids = control_ids(tokenizer, CONTROL)

    def picture_grid(self, size: str) -> Grid:
        width, height = side_lengths(size)
        rows, columns = height // CELL, width // CELL
        end = (self.token_model.forced_token(self.end_of_image),)
        return Grid(rows, columns, end=end, preview=preview_of(rows, columns))

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        grid, model = self.picture_grid(size), self.token_model
        rows = [self._row(text or "", grid) for text in alternating(texts, negatives, guided)]
        return Prompt.of_ids(rows, model.embed_ids, guided, model.prompt_device, planes_of(grid))

    def handed_on(self, tokens: Tensor, size: str | None = None) -> dict[str, Tensor]:
        return {"prior_token_ids": prior_token_ids(self.grid(size).codes(tokens))}

    def _row(self, text: str, grid: Grid) -> list[int]:
        """Text, the picture's size in codes, the preview's, begin-of-image: no roles and no begin of a sequence."""
        text = without_controls(self.tokenizer, text, self.control_ids)
        assert grid.preview is not None
        sizes = ((grid.rows, grid.columns), grid.preview)
        request = text + "".join(f"{BEGIN_OF_SIZE}{h} {w}{END_OF_SIZE}" for h, w in sizes)
        return [*self.tokenizer.encode(request, add_special_tokens=False).ids, self.begin_of_image]


def _folder(path: Path) -> Path:
    """That of the autoregressive model: inside the repository, or `path` itself."""
    return path / MODEL if (path / MODEL).is_dir() else path


def detect(path: Path) -> bool:
    """Whether `path` is the repository of this family, or the folder of its autoregressive model."""
    config = _folder(path) / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "glm_image"


def parts(path: Path) -> list[Path]:
    """The folders of the model and of its tokenizer: the diffusion transformer's in the same repository come and go."""
    folder = _folder(path)
    return [part for part in (folder, folder.parent / PROCESSOR) if part.is_dir()]


def load(path: Path, *, dtype: torch.dtype, device, operations) -> GlmImage:
    """Load a repository, or the folder of its autoregressive model with the tokenizer in it or in `processor` beside it."""
    folder = _folder(path)
    config = Fields.of_file(folder / "config.json")
    files = [each / "tokenizer.json" for each in (folder, folder.parent / PROCESSOR)]
    tokenizer = read_tokenizer(next((file for file in files if file.is_file()), files[-1]))
    missing = [name for name in (BEGIN_OF_SIZE, END_OF_SIZE) if tokenizer.token_to_id(name) is None]
    if missing:
        raise InputError(f"The vocabulary lacks {', '.join(missing)}; this is not GLM-Image's tokenizer.")
    image_ids = config.count("image_start_token_id", 16384), config.count("image_end_token_id", 16385)
    codes = config.part("vq_config", {}).count("num_embeddings", 16384)
    shape, sections = body_config(config.part("text_config"))
    checkpoint = Checkpoint.of_directory(folder)
    vocab_size = checkpoint.shape(f"{BODY_PREFIX}embed_tokens.weight")[0]
    if max(*tokenizer.get_vocab().values(), *image_ids, codes - 1) >= vocab_size:
        raise InputError(
            f"{folder} embeds {vocab_size} ids, fewer than its tokenizer has; the files do not belong together, so download all "
            "of them again."
        )
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    angles = partial(plane_angles, sections=sections, head_dim=shape.head_dim, theta=shape.rope_theta)
    token_model = TransformerTokenModel(Transformer(shape, angles, **factory), vocab_size, codes, **factory)
    tensors = token_model.own_tensors(model_tensors(checkpoint, shape, sum(sections)))
    fill(token_model, tensors, dtype=dtype, device=device, source=folder)
    return GlmImage(token_model, tokenizer, image_ids, sampling_defaults(generation_fields(folder), DEFAULTS))


def body_config(text: Fields) -> tuple[TransformerConfig, tuple[int, ...]]:
    """The body, and how its turning pairs are shared out to the axes."""
    shape = transformer_config(text, norm_eps=1e-5, qkv_bias=text.flag("attention_bias", True), norm_both=True)
    rope = text.part("rope_parameters", {})
    sections = rope.counts("mrope_section", SECTIONS)
    turning = int(shape.head_dim * rope.number("partial_rotary_factor", TURNING_SHARE)) // 2
    if len(sections) != 3 or sum(sections) != turning:
        raise InputError(
            f"`mrope_section` in {rope.where} has to share out {turning} pairs to 3 axes, got {list(sections)}."
        )
    return shape, sections


def model_tensors(checkpoint: Checkpoint, shape: TransformerConfig, turning: int) -> Iterator[tuple[str, Tensor]]:
    """The text path's tensors under this project's names: gate and up apart, the pairs of queries and keys spread."""
    wanted = checkpoint.tensors(lambda name: not name.startswith(VISION) and "rotary_emb" not in name)
    for name, tensor in wanted:
        name = name.replace(BODY_PREFIX, "model.", 1)
        if name.endswith("gate_up_proj.weight") and len(tensor) % 2 == 0:
            for part, rows in zip(("gate", "up"), tensor.chunk(2), strict=True):
                yield name.replace("gate_up", part), rows
        elif ".q_proj." in name or ".k_proj." in name:
            yield name, spread_pairs(tensor, shape.head_dim, turning) if len(tensor) % shape.head_dim == 0 else tensor
        else:
            yield name, tensor
