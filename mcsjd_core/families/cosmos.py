"""NVIDIA's Cosmos autoregressive world models (arXiv 2501.03575): they continue a video, two of them by a text as well.

Reads the published directories (`model.pt` or safetensors, and the video tokenizer beside it), and any of the same format
at another size, such as the embedded video model. Shapes are those of the tensors; config.json tells what these do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.grid_positions import GridPositions, Yarn
from ..nn.transformer import Transformer, TransformerConfig
from ..text.words import Words
from .cosmos_codec import FIRST_CODEC, SECOND_CODEC, open_cosmos_codec
from .cosmos_shapes import Shapes
from .hf_config import generation_fields, sampling_defaults
from .interface import Clip, SamplingDefaults, VideoCodec, alternating
from .sizes import choose_size, size_name
from .t5_captions import T5Captions
from .token_model import TransformerTokenModel

FIELDS = {"dim", "n_layers", "n_kv_heads", "ffn_hidden_size"}  # that every config.json of this family has
MODEL_FILE = "model.pt"
DRAWS_VIDEO = True
T5_DIRECTORIES = ("t5", "t5-11b", "google-t5/t5-11b")  # the last is where NVIDIA's downloader puts it
# Recommended top-p of the 4B, 12B, 5B and 13B, by width and whether they read text.
TOP_P = {(4096, False): 0.8, (5120, False): 0.9, (4096, True): 0.7, (5120, True): 0.8}
SCALED_DIM = 5120  # the models of this width went on from a shorter grid by YaRN


class CosmosModel(TransformerTokenModel):
    """The token model; `positions` says where in the grid a position lies. With a context it adds absolute embeddings, too.

    `vocab_size` counts all ids, of which the first `codebook_size` can be drawn. If there are more, the next one begins a
    video.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, codebook_size: int, positions: GridPositions,
                 absolute: bool, *, dtype=None, device=None, operations=nn):  # fmt: skip
        factory = {"dtype": dtype, "device": device, "operations": operations}
        offsets = positions.embeddings if absolute else None
        transformer = Transformer(config, positions.angles, offsets, **factory)
        super().__init__(transformer, vocab_size, codebook_size, **factory)
        self.begin = codebook_size if vocab_size > codebook_size else None

    def start(self, rows: int) -> tuple[Tensor, Tensor]:
        """What stands before the first code, embeddings [rows, 1, dim] and padding [rows]."""
        ids = torch.full((rows, 1), self.begin or 0, device=self.prompt_device)
        # Models without a begin token start with a code, which is always given: the slot in front of it is padding.
        return self.embed_ids(ids), torch.full((rows,), int(self.begin is None), device=self.prompt_device)


class Cosmos:
    """A loaded checkpoint. `text_folders` are directories where its T5 encoder may lie, read when a prompt asks for it."""

    name = "cosmos"

    def __init__(self, token_model: CosmosModel, codec: VideoCodec, grid: Grid, clip: Clip, defaults: SamplingDefaults,
                 text_folders: list[Path], context_tokens: int):  # fmt: skip
        self.token_model, self.codec, self.clip, self.defaults = token_model, codec, clip, defaults
        self.text_folders, self.context_tokens = text_folders, context_tokens
        self._grid, self._captions = grid, None
        self.sizes = (size_name(grid.columns * codec.pixels_per_code, grid.rows * codec.pixels_per_code),)

    def grid(self, size: str | None = None, frames: int | None = None) -> Grid:
        choose_size(size, self.sizes)
        return Grid(self._grid.rows, self._grid.columns, frames=self.clip.code_frames(frames))

    def prompt(self, texts: Sequence[str], negatives: Sequence[str] | None, guided: bool, size: str | None = None,
               encoded: Mapping[str, Tensor] | None = None) -> Prompt:  # fmt: skip
        choose_size(size, self.sizes)
        rows = [text or "" for text in alternating(texts, negatives or [""] * len(texts), guided)]
        embeddings, padding = self.token_model.start(len(rows))
        if self.clip.reads_text:
            return Prompt(embeddings, padding, guided, self._context(rows, encoded or {}))
        if encoded is not None:
            raise InputError("This model reads no text; disconnect the text encoder.")
        if guided:
            raise InputError("This model reads no text, so guidance has nothing to lead away from; set cfg to 1.")
        if any(text.strip() for text in texts):
            raise InputError(
                "This model reads no text: what it draws follows its start frames; leave the prompt empty."
            )
        return Prompt(embeddings, padding, guided)

    def read_ahead(self, texts: Sequence[str]) -> None:
        if self.clip.reads_text:
            self.captions.encode(list(texts))

    def handed_on(self, tokens: Tensor, size: str | None = None) -> dict[str, Tensor]:
        return {}

    @property
    def words(self) -> Words | None:
        return self.captions.words if self.clip.reads_text else None

    def empty_prompt(self, guided: bool) -> Prompt:
        width = self.token_model.context_dim
        encoded = None if width is None or not self.clip.reads_text else {"": torch.zeros(0, width)}
        return self.prompt([""], None, guided and self.clip.reads_text, encoded=encoded)

    def _context(self, texts: list[str], encoded: Mapping[str, Tensor]) -> Tensor:
        """States [rows, context_tokens, width] of texts; rows of zeros after a text are looked at as well."""
        missing = [text for text in dict.fromkeys(texts) if text not in encoded]
        states = dict(encoded) | (dict(zip(missing, self.captions.encode(missing), strict=True)) if missing else {})
        width, room = self.token_model.model.config.context_dim, self.context_tokens
        rows = {}
        for text in dict.fromkeys(texts):
            if states[text].ndim != 2 or states[text].shape[1] != width:
                raise InputError(
                    f"The encoded text has shape {list(states[text].shape)}, this model reads [tokens, {width}]; the "
                    "published ones need the encoder of T5-11B, version 1.0."
                )
            cut = states[text][:room].to(self.token_model.prompt_device, self.token_model.compute_dtype)
            rows[text] = F.pad(cut, (0, 0, 0, room - len(cut)))
        return torch.stack([rows[text] for text in texts])

    @property
    def captions(self) -> T5Captions:
        """The text encoder, which a host that has its own does without; raises InputError if it is not there."""
        if self._captions is None:
            folders = self.text_folders
            folder = next((folder for folder in folders if folder.is_dir()), folders[0])
            self._captions = T5Captions(folder, self.context_tokens)
        return self._captions


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family; the published config.json has no field for that.

    Post-training leaves a directory without it: then the file's name and the family's, or its video tokenizer, have to do.
    """
    config = path / "config.json"
    if config.is_file():
        return read_json(config).keys() >= FIELDS
    if not (path / MODEL_FILE).is_file():
        return False
    codecs = [folder / name for folder in (path, path.parent) for name in (FIRST_CODEC, SECOND_CODEC)]
    return "cosmos" in own_names(path) or any(codec.is_dir() for codec in codecs)


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Cosmos:
    """Load a checkpoint directory; the codec runs in float32, or as it was published."""
    file, config_file = path / MODEL_FILE, path / "config.json"
    config = Fields.of_file(config_file) if config_file.is_file() else Fields({}, str(config_file))
    checkpoint = Checkpoint([file]) if file.is_file() else Checkpoint.of_directory(path)
    shapes = Shapes(checkpoint, path)
    shape, vocab_size, codebook_size = shapes.transformer(config), *shapes.vocabulary()
    frames, rows, columns = _grid_shape(config, "video_latent_shape", (5, 40, 64))
    reads_text = shape.context_dim is not None
    positions = GridPositions(
        rows, columns, int(vocab_size > codebook_size), shape.head_dim, shape.dim,
        config.number("rope_theta", 500_000.0), _yarn(config, shape.dim),
    )  # fmt: skip
    # The codec comes first: what is missing is reported before gigabytes are read.
    codec = open_cosmos_codec(path, _codec_names(path), frames, device, operations)
    if codec.config.codebook_size != codebook_size:
        raise InputError(f"{path} draws {codebook_size} codes, its video tokenizer has {codec.config.codebook_size}.")
    absolute = config.flag("apply_abs_pos_emb", reads_text)
    token_model = CosmosModel(
        shape, vocab_size, codebook_size, positions, absolute, dtype=dtype, device="meta", operations=operations
    )
    fill(token_model, shapes.tensors(), dtype=dtype, device=device, source=path)
    clip = Clip(
        frames=1 + (frames - 1) * codec.frames_per_code,
        frame_rate=config.number("frame_rate", 25.0),
        frames_per_code=codec.frames_per_code,
        start_frames=config.counts("start_frames", (1, 9)),
        reads_text=reads_text,
    )
    published = SamplingDefaults(LawSettings(top_p=TOP_P.get((shape.dim, reads_text), 1.0)))
    defaults = sampling_defaults(generation_fields(path), published)
    text_folders = [parent / name for parent in (path, path.parent) for name in T5_DIRECTORIES]
    context_tokens = config.count("context_tokens", 512)
    return Cosmos(token_model, codec, Grid(rows, columns, frames), clip, defaults, text_folders, context_tokens)


def _codec_names(path: Path) -> tuple[str, str]:
    """The tokenizers that a model may have, its own first: each generation has one, and names may tell the generation.

    Where they do not, the tokenizer that lies beside the model does.
    """
    names = own_names(path)
    if "predict1" in names:
        return SECOND_CODEC, FIRST_CODEC
    second = (
        "cosmos-1.0" not in names and (path.parent / SECOND_CODEC).is_dir() and not (path.parent / FIRST_CODEC).is_dir()
    )
    return (SECOND_CODEC, FIRST_CODEC) if second else (FIRST_CODEC, SECOND_CODEC)


def _grid_shape(config: Fields, name: str, published: tuple[int, int, int]) -> tuple[int, int, int]:
    shape = config.counts(name, published)
    if len(shape) != 3:
        raise InputError(f"`{name}` in {config.where} has to be frames, rows and columns, got {list(shape)}.")
    return shape


def _yarn(config: Fields, dim: int) -> Yarn | None:
    if not config.flag("apply_yarn", dim == SCALED_DIM):
        return None
    original = _grid_shape(config, "original_latent_shape", (3, 40, 64))
    number = config.number
    return Yarn(original, number("yarn_beta_fast", 4.0), number("yarn_beta_slow", 1.0), number("yarn_scale", 2.0))


def companions(path: Path) -> list[Path]:
    """The published video tokenizers and text encoders that lie beside the directory."""
    return [
        path.parent / name for name in (FIRST_CODEC, SECOND_CODEC, *T5_DIRECTORIES) if (path.parent / name).is_dir()
    ]
