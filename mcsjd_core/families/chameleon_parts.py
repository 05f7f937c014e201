"""What Chameleon's kin share with Lumina-mGPT 2.0, which was trained anew: the body, and Lumina's layout of a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.checkpoint import Checkpoint, Fields
from ..decoding.grid import Grid
from ..errors import InputError
from ..nn.transformer import TransformerConfig
from .hf_config import transformer_config as llama_config
from .sizes import side_lengths, sizes_of_equal_area

BEGIN_OF_IMAGE, END_OF_IMAGE, TURN_END, ROW_END = "<racm3:break>", "<eoss>", "<reserved08706>", "<reserved08799>"
BLOCK = 32  # pixels that Lumina-mGPT's size tokens count in: `<reserved08801>` is one block, `<reserved08802>` two


@dataclass(frozen=True)
class DrawingIds:
    """The ids of a vocabulary that matter for drawing; codes follow one another from the first."""

    bos: int
    begin_of_image: int
    turn_end: int
    first_code: int


def transformer_config(config: Fields, head_norm_rows: int) -> TransformerConfig:
    """From a public `config.json`; `head_norm_rows` is read off the stored norm tensors."""
    after = config.flag("swin_norm", False)
    return llama_config(config, 1e-5, qk_norm="layer", qk_norm_groups=head_norm_rows, norm_after=after)


def head_norm_rows(checkpoint: Checkpoint) -> int:
    """Rows of the stored query norms: 1 for every model-parallel shard (Lumina-mGPT), or one a head (transformers)."""
    name = "model.layers.0.self_attn.q_norm.weight"
    shape = checkpoint.shape(name)
    if len(shape) != 2:
        raise InputError(
            f"{name} needs the shape [rows, head channels], got {shape}; convert it to the Hugging Face layout."
        )
    return shape[0]


def named_id(ids: dict[str, int], name: str) -> int:
    if name not in ids:
        raise InputError(f"The vocabulary lacks {name}; the tokenizer belongs to another model.")
    return ids[name]


class LuminaLayout:
    """Lumina-mGPT: size tokens after begin-of-image, height first, a separator after every row, and end-of-image.

    `ids` are those of all names; a code stands for `cell` pixels a side.
    """

    def __init__(self, vocabulary: DrawingIds, ids: dict[str, int], codebook_size: int, side: int, cell: int):
        self.vocabulary, self.codebook_size, self.cell = vocabulary, codebook_size, cell
        self.sizes = sizes_of_equal_area(side, BLOCK, longest=4)
        blocks = {side // BLOCK for size in self.sizes for side in side_lengths(size)}
        self.size_ids = {count: named_id(ids, f"<reserved{8800 + count:05d}>") for count in blocks}
        self.row_end, self.end = named_id(ids, ROW_END), named_id(ids, END_OF_IMAGE)
        self.ids = (self.row_end, self.end, *self.size_ids.values())

    def grid(self, size: str) -> Grid:
        width, height = side_lengths(size)
        row_end, end = (
            self.codebook_size + id for id in (self.row_end, self.end)
        )  # forced tokens, see the token model
        return Grid(height // self.cell, width // self.cell, row_end=row_end, end=(end,))

    def request(self, text: str, size: str) -> str:
        return f"Generate an image of {size} according to the following prompt:\n{text}"

    def row(self, text: list[int], size: str) -> list[int]:
        """`<s> text <reserved08706> <racm3:break> height width`."""
        return [self.vocabulary.bos, *text, self.vocabulary.turn_end, *self.unconditional(size)]

    def unconditional(self, size: str) -> list[int]:
        width, height = side_lengths(size)
        return [self.vocabulary.begin_of_image, self.size_ids[height // BLOCK], self.size_ids[width // BLOCK]]


def first_file(path: Path, names: tuple[str, ...]) -> Path:
    """The first of several files that is there; the first of all, for its error, if none is.

    A name in `..` is one beside the path as it is written, also where the path is a link into another folder.
    """
    files = [Path(os.path.normpath(path / name)) for name in names]
    return next((file for file in files if file.exists()), files[0])


def shared_file(path: Path, names: tuple[str, ...], folder: str) -> list[Path]:
    """The first of several files, where it is there and lies in a folder of that name, which several checkpoints share."""
    found = first_file(path, names)
    return [found] if found.exists() and found.parent.name == folder else []
