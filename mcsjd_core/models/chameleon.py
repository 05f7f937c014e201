"""Chameleon family (arXiv 2405.09818): text and image tokens in one vocabulary, one transformer, a VQGAN codec.

Reads Hugging Face directories: `config.json`, safetensors with the public tensor names, `tokenizer.json`, and the codec
as `vqgan.safetensors` in the taming-transformers layout. The embedded model is such a directory. Image layout is Anole's:
begin-of-image, then the raster of codes, nothing in between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint, Fields, fill, read_json
from ..codecs.vqgan import VQGAN, VQGANConfig
from ..errors import InputError
from ..grid import Grid
from ..kv_cache import KVCache
from ..sizes import choose_size, size_name
from ..transformer import Transformer, TransformerConfig
from .interface import Prompt, SamplingDefaults

IMAGE_PREFIX, DIGITS = "IMGIMG", "ABCDEFGHIJ"
BOS, BEGIN_OF_IMAGE, TURN_END = "<s>", "<racm3:break>", "<reserved08706>"
# Names that steer the model. Tokenizers of the family differ in which of them they list as added tokens.
CONTROL = re.compile(rf"<(/?s|pad|unk|eoss|racm3:break|image|reserved\d+|sentinel:\d+)>|{IMAGE_PREFIX}[{DIGITS}]+Z")


def image_token_name(code: int) -> str:
    """Vocabulary name of a code: its decimal digits as letters, `IMGIMGBCZ` for 12."""
    return IMAGE_PREFIX + "".join(DIGITS[int(d)] for d in str(code)) + "Z"


@dataclass(frozen=True)
class Vocabulary:
    """The ids that matter for drawing, looked up by name."""

    bos: int
    begin_of_image: int
    turn_end: int
    first_code: int

    @classmethod
    def from_names(cls, ids: dict[str, int], codebook_size: int) -> Vocabulary:
        missing = [name for name in (BOS, BEGIN_OF_IMAGE, TURN_END, image_token_name(0)) if name not in ids]
        if missing:
            raise InputError(f"The vocabulary lacks {', '.join(missing)}; this is not a Chameleon tokenizer.")
        first = ids[image_token_name(0)]
        for code in range(codebook_size):
            name = image_token_name(code)
            if ids.get(name) != first + code:
                raise InputError(f"Image token {name} is not at id {first + code}; the tokenizer is of another model.")
        return cls(ids[BOS], ids[BEGIN_OF_IMAGE], ids[TURN_END], first)


class ChameleonTransformer(nn.Module):
    """The token model. `lm_head` holds the rows of the image tokens only: nothing else is ever drawn.

    A host whose `operations` cast or move the weights may set `compute_dtype`, that of activations and cache (the weights'
    own by default), and `compute_device`, where prompts are put (None: where the weights of `lm_head` lie).
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, vocabulary: Vocabulary, codebook_size: int,
                 *, dtype=None, device=None, operations=nn):  # fmt: skip
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.vocabulary, self.codebook_size = vocabulary, codebook_size
        self.model = Transformer(config, operations=operations, **factory)
        self.model.embed_tokens = operations.Embedding(vocab_size, config.dim, **factory)
        self.lm_head = operations.Linear(config.dim, codebook_size, bias=False, **factory)
        self.compute_dtype = dtype or torch.get_default_dtype()
        self.compute_device: torch.device | None = None

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Embeddings of vocabulary ids (text and control tokens)."""
        return self.model.embed_tokens(ids).to(self.compute_dtype)

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        return self.embed_ids(tokens + self.vocabulary.first_code)

    def new_cache(self, padding: Tensor, capacity: int) -> KVCache:
        return self.model.new_cache(padding, capacity, self.compute_dtype)

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        return self.model.forward_cached(embeddings, slots, cache, extent)

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        return self.lm_head(hidden)


def transformer_config(config: Fields, head_norm_rows: int) -> TransformerConfig:
    """From a public `config.json`; `head_norm_rows` is read off the stored norm tensors."""
    heads, dim = config.count("num_attention_heads"), config.count("hidden_size")
    return TransformerConfig(
        dim=dim,
        layers=config.count("num_hidden_layers"),
        heads=heads,
        kv_heads=config.count("num_key_value_heads", heads),
        head_dim=dim // heads,
        ffn_dim=config.count("intermediate_size"),
        norm_eps=config.number("rms_norm_eps", 1e-5),
        rope_theta=_rope_theta(config),
        qk_norm="layer",
        qk_norm_groups=head_norm_rows,
        norm_after=config.flag("swin_norm", False),
    )


def _rope_theta(config: Fields) -> float:
    """`rope_theta`, which transformers from version 5 on writes inside `rope_parameters`."""
    rope = config.part("rope_parameters", {})
    if config.data.get("rope_scaling") or rope.data.get("rope_type", "default") != "default":
        raise InputError(
            f"{config.where} asks for scaled rotary embedding, which no model of this family is known to have."
        )
    return rope.number("rope_theta", config.number("rope_theta", 10000.0))


def codec_config(vq: Fields) -> VQGANConfig:
    """From `config.json`'s `vq_config`, whose attention is given by side lengths of the feature map."""
    multipliers, sides = vq.counts("channel_multiplier"), vq.counts("attn_resolutions", ())
    resolution = vq.count("resolution", 512)
    return VQGANConfig(
        channels=vq.count("base_channels"),
        channel_multipliers=multipliers,
        res_blocks=vq.count("num_res_blocks"),
        attention_levels=tuple(i for i in range(len(multipliers)) if resolution >> i in sides),
        z_channels=vq.count("latent_channels"),
        embed_dim=vq.count("embed_dim"),
        codebook_size=vq.count("num_embeddings"),
    )


class Chameleon:
    """A loaded checkpoint of the family."""

    name = "chameleon"

    def __init__(
        self, token_model: ChameleonTransformer, codec: VQGAN, tokenizer, grid: Grid, defaults: SamplingDefaults
    ):
        self.token_model, self.codec, self.tokenizer = token_model, codec, tokenizer
        self._grid, self.defaults = grid, defaults
        factor = codec.config.downsampling
        self.sizes = (size_name(grid.columns * factor, grid.rows * factor),)
        self.control_ids = control_ids(tokenizer)

    def grid(self, size: str | None = None) -> Grid:
        choose_size(size, self.sizes)
        return self._grid

    def text_ids(self, text: str) -> list[int]:
        """Ids of a user's text; control and image tokens written in it are dropped, they would change the format."""
        return [id for id in self.tokenizer.encode(text, add_special_tokens=False).ids if id not in self.control_ids]

    def prompt(self, texts: list[str], negatives: list[str] | None, guided: bool, size: str | None = None) -> Prompt:
        choose_size(size, self.sizes)
        rows: list[list[int]] = []
        for i, text in enumerate(texts):
            rows.append(self._row(text))
            if guided:
                rows.append(self._row(negatives[i] if negatives else ""))
        return self._embed(rows, guided)

    def _row(self, text: str) -> list[int]:
        """`<s> text <reserved08706> <racm3:break>`; without text only the first and the last, as in caption dropout."""
        v = self.token_model.vocabulary
        ids = self.text_ids(text)
        return [v.bos, *ids, *([v.turn_end] if ids else []), v.begin_of_image]

    def _embed(self, rows: list[list[int]], guided: bool) -> Prompt:
        longest = max(map(len, rows))
        device = self.token_model.compute_device or self.token_model.lm_head.weight.device
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        padding = torch.tensor([longest - len(row) for row in rows], device=device)
        return Prompt(self.token_model.embed_ids(padded), padding, guided)


def control_ids(tokenizer) -> frozenset[int]:
    """Ids that no text may lead to: added tokens, and whatever bears the name of a control or image token."""
    named = {id for name, id in tokenizer.get_vocab().items() if CONTROL.fullmatch(name)}
    return frozenset(named | set(tokenizer.get_added_tokens_decoder()))


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "chameleon"


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Chameleon:
    """Load a checkpoint directory; the codec always runs in float32, since lower precision shows in flat areas."""
    config = Fields.of_file(path / "config.json")
    codec_shape = codec_config(config.part("vq_config"))
    tokenizer, vocab_size = _tokenizer(path / "tokenizer.json"), config.count("vocab_size")
    vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), codec_shape.codebook_size)
    _check_ids(tokenizer, vocabulary, codec_shape.codebook_size, vocab_size)
    drawing = _drawing(path)
    # All files are opened before any is read: a missing codec is told at once, not after gigabytes of transformer.
    checkpoint, codec_checkpoint = Checkpoint.of_directory(path), Checkpoint([path / "vqgan.safetensors"])
    token_model = ChameleonTransformer(
        transformer_config(config, _head_norm_rows(checkpoint)), vocab_size, vocabulary, codec_shape.codebook_size,
        dtype=dtype, device="meta", operations=operations,
    )  # fmt: skip
    wanted = checkpoint.tensors(lambda name: not name.startswith("model.vqmodel."))
    image_rows = slice(vocabulary.first_code, vocabulary.first_code + codec_shape.codebook_size)
    tensors = ((name, tensor[image_rows] if name == "lm_head.weight" else tensor) for name, tensor in wanted)
    fill(token_model, tensors, dtype=dtype, device=device, source=path)
    codec = VQGAN(codec_shape, device="meta", operations=operations)
    fill(codec, codec_checkpoint.tensors(), dtype=torch.float32, device=device, source=path / "vqgan.safetensors")
    return Chameleon(token_model, codec, tokenizer, *drawing)


def _head_norm_rows(checkpoint: Checkpoint) -> int:
    """Rows of the stored query norms: 1 for every model-parallel shard (Lumina-mGPT), or one a head (transformers)."""
    name = "model.layers.0.self_attn.q_norm.weight"
    shape = checkpoint.shape(name)
    if len(shape) != 2:
        raise InputError(
            f"{name} needs the shape [rows, head channels], got {shape}; convert it to the Hugging Face layout."
        )
    return shape[0]


def _check_ids(tokenizer, vocabulary: Vocabulary, codebook_size: int, vocab_size: int) -> None:
    """Every id that a prompt or picture can hold has to have an embedding."""
    controls = control_ids(tokenizer)
    text = max((id for id in tokenizer.get_vocab().values() if id not in controls), default=0)
    image = vocabulary.first_code + codebook_size - 1
    largest = max(text, image, vocabulary.bos, vocabulary.begin_of_image, vocabulary.turn_end)
    if largest >= vocab_size:
        raise InputError(
            f"tokenizer.json has ids up to {largest}, the model embeds {vocab_size}; it is of another model."
        )


def _tokenizer(path: Path):
    from tokenizers import Tokenizer  # heavy: only when a model is loaded

    if not path.is_file():
        raise InputError(f"{path} is missing; the text tokenizer is part of the checkpoint directory.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path} is not a tokenizer file ({error}); download it again.") from None


def _drawing(path: Path) -> tuple[Grid, SamplingDefaults]:
    """Grid and default settings: `image_grid` and the sampling fields of generation_config.json, else 32 x 32 (Anole)."""
    file = path / "generation_config.json"
    settings = Fields(read_json(file) if file.exists() else {}, str(file))
    grid = settings.counts("image_grid", (32, 32))
    if len(grid) != 2:
        raise InputError(f"`image_grid` in {file} has to be [rows, columns], got {list(grid)}.")
    defaults = SamplingDefaults(
        cfg_scale=settings.number("guidance_scale", 3.0),
        temperature=settings.number("temperature", 1.0),
        top_k=int(settings.number("top_k", 0)),
        top_p=settings.number("top_p", 1.0),
    )
    return Grid(*grid), defaults
