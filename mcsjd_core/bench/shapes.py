"""The transformers of public models with random weights and fewer layers: the time of the whole model is scaled from theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..codecs.vq16 import VQ16
from ..decoding.interface import Prompt
from ..families.chameleon import ChameleonTransformer, Vocabulary
from ..families.janus import JanusTransformer
from ..nn.packing import pack
from ..nn.transformer import TransformerConfig
from ..nn.weights import WEIGHT_FORMATS
from .stopwatch import interleaved, spread

PROMPT_TOKENS = 32
TEXT_IDS = 16  # entries of the vocabulary; a lookup costs the same in a large one


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a public model (its config.json). `tokens` are those of a picture, `timed_layers` a factor to the plan's."""

    config: TransformerConfig
    codebook_size: int
    tokens: int
    build: Callable[..., nn.Module]
    timed_layers: int = 1


def _janus(config: TransformerConfig, codebook_size: int, **factory) -> nn.Module:
    return JanusTransformer(config, TEXT_IDS, replace(VQ16, codebook_size=codebook_size), **factory)


def _chameleon(config: TransformerConfig, codebook_size: int, **factory) -> nn.Module:
    vocabulary = Vocabulary(bos=0, begin_of_image=1, turn_end=2, first_code=TEXT_IDS)
    return ChameleonTransformer(config, TEXT_IDS + codebook_size, vocabulary, codebook_size, **factory)


_JANUS = {"head_dim": 128, "norm_eps": 1e-6}
SHAPES = {
    "Janus-Pro-1B": ModelShape(
        TransformerConfig(2048, 24, heads=16, kv_heads=16, ffn_dim=5632, **_JANUS), 16384, 576, _janus, timed_layers=4
    ),
    "Janus-Pro-7B": ModelShape(
        TransformerConfig(4096, 30, heads=32, kv_heads=32, ffn_dim=11008, **_JANUS), 16384, 576, _janus
    ),
    "Lumina-mGPT-7B-768": ModelShape(
        TransformerConfig(4096, 32, 32, 32, 128, 11008, qk_norm="layer"), 8192, 2353, _chameleon
    ),
}

# Those that take too long on a CPU. Their bodies are Llama's; positions in a video cost what those in a line do.
LARGE_SHAPES = {
    "Emu3": ModelShape(
        TransformerConfig(4096, 32, heads=32, kv_heads=8, head_dim=128, ffn_dim=14336), 32768, 8193, _chameleon
    ),
    "Cosmos-Predict1-4B": ModelShape(
        TransformerConfig(4096, 16, heads=32, kv_heads=8, head_dim=128, ffn_dim=14336), 64000, 12800, _chameleon
    ),
}


class ShapedModel:
    """A model of `shape` with `layers` layers and random weights, and a cache filled as in the middle of a picture.

    Times are those of one picture with guidance: two rows. `weights` is one of WEIGHT_FORMATS.
    """

    def __init__(
        self, shape: ModelShape, layers: int, widest: int, device: str, dtype: torch.dtype, weights: str = "full"
    ):
        self.shape, self.layers, self.device = shape, min(layers, shape.config.layers), device
        config = replace(shape.config, layers=self.layers)
        how: dict[str, Any] = {} if weights == "full" else {"operations": WEIGHT_FORMATS[weights](nn)}
        self.token_model: Any = shape.build(config, shape.codebook_size, dtype=dtype, device=device, **how).eval()
        randomise(self.token_model, torch.Generator(device).manual_seed(0))
        if weights == "full":
            pack(self.token_model)
        else:
            shrink(self.token_model, dtype, device)
        self.prefix = PROMPT_TOKENS + shape.tokens // 2
        self.prompt = self.make_prompt()
        self.cache = self.token_model.new_cache(self.prompt, self.prefix + widest)

    def make_prompt(self) -> Prompt:
        ids = [0] * PROMPT_TOKENS
        return Prompt.of_ids([ids, ids], self.token_model.embed_ids, True, self.device)

    @torch.no_grad()
    def forward_seconds(self, windows: tuple[int, ...], repeats: int) -> dict[int, dict]:
        """Spread of the seconds of a forward of every window, and of the layers' part of it."""
        inputs = {window: self._inputs(window) for window in windows}
        layers = interleaved({w: self._layers(inputs[w]) for w in windows}, repeats, self.device)
        ends = interleaved({w: self._ends(inputs[w]) for w in windows}, repeats, self.device)
        factor = self.shape.config.layers / self.layers
        return {
            window: {
                "layers": spread([factor * seconds for seconds in layers[window]]),
                "forward": spread([a * factor + b for a, b in zip(layers[window], ends[window], strict=True)]),
            }
            for window in windows
        }

    def whole(self, window: int) -> Callable[[], Tensor]:
        """A forward from codes to logits."""
        codes, slots = self._inputs(window)
        model, extent = self.token_model, self.prefix + window
        return lambda: model.logits(model.hidden(model.embed(codes, slots), slots, self.cache, extent), slots)

    def _inputs(self, window: int) -> tuple[Tensor, Tensor]:
        """Codes and cache slots [2, window]."""
        codes = torch.arange(2 * window, device=self.device).view(2, window) % self.shape.codebook_size
        return codes, torch.arange(self.prefix, self.prefix + window, device=self.device).expand(2, -1)

    def _layers(self, inputs: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
        (codes, slots), model = inputs, self.token_model
        embeddings, extent = model.embed(codes, slots), self.prefix + codes.shape[1]
        return lambda: model.hidden(embeddings, slots, self.cache, extent)

    def _ends(self, inputs: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
        """What a model has once, however many layers: embedding and head."""
        (codes, slots), model = inputs, self.token_model
        return lambda: model.logits(model.embed(codes, slots), slots)


def shrink(module: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Hold the matrices as their layers say that they are held."""
    for layer in module.modules():
        pack_weight: Any = getattr(layer, "pack", None)
        weight = getattr(layer, "weight", None)
        if callable(pack_weight) and isinstance(weight, nn.Parameter):
            small: Any = pack_weight(weight.detach(), dtype, device)
            layer.weight = nn.Parameter(small, requires_grad=False)


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep activations near 1, so that no arithmetic on tiny numbers falsifies a time; embeddings of size 1."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            deviation = 1.0 if "embed" in name else parameter[0].numel() ** -0.5
            parameter.uniform_(-deviation * 3**0.5, deviation * 3**0.5, generator=generator)
