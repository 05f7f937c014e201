"""A checkpoint directory of the Chameleon family at the smallest size, with random weights: what the tests load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig
from mcsjd_core.families.chameleon import ChameleonTransformer, Vocabulary, image_token_name
from mcsjd_core.nn.transformer import TransformerConfig
from training.chameleon_files import write_checkpoint

TRANSFORMER = TransformerConfig(dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, ffn_dim=48, qk_norm="layer")
CODEC = VQGANConfig(channels=32, channel_multipliers=(1, 1), res_blocks=1, z_channels=8, embed_dim=4, codebook_size=24)
GENERATION = {"image_grid": [4, 6], "guidance_scale": 3.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
CONTROLS = ("<eoss>", "<racm3:break>", "<reserved08706>", "<image>")


def build_tokenizer(codebook_size: int = CODEC.codebook_size, controls: tuple[str, ...] = CONTROLS) -> Tokenizer:
    """Byte-level, one merge, ids in the order of the family: four leading tokens, images, controls, text."""
    leading = ("<s>", "<pad>", "</s>", "<unk>")
    images = [image_token_name(code) for code in range(codebook_size)]
    names = [*leading, *images, *controls, *sorted(pre_tokenizers.ByteLevel.alphabet()), "re"]
    vocabulary = {name: id for id, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("r", "e")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*leading, *controls)])
    return tokenizer


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter, biases and norms too, so that nothing is hidden behind a 0 or 1; keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name.endswith("bias"):
            values *= 0.3
        elif "norm" in name and "conv" not in name:
            values = 1 + 0.3 * values
        elif "embed" not in name:
            values /= parameter[0].numel() ** 0.5
        parameter.copy_(values)
    return module.eval()


def write_tiny_checkpoint(
    directory: Path,
    *,
    transformer: TransformerConfig = TRANSFORMER,
    codec: VQGANConfig = CODEC,
    controls: tuple[str, ...] = CONTROLS,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a whole checkpoint directory and give its path; the same seed gives the same weights."""
    tokenizer = build_tokenizer(codec.codebook_size, controls)
    vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), codec.codebook_size)
    token_model = ChameleonTransformer(transformer, tokenizer.get_vocab_size(), vocabulary, codec.codebook_size)
    states = [randomise(model, seed).state_dict() for model in (token_model, VQGAN(codec))]
    write_checkpoint(directory, transformer, codec, tokenizer, *states, GENERATION, dtype)
    return directory


def split_into_shards(directory: Path, count: int = 3) -> None:
    """Turn `model.safetensors` of `directory` into `count` shards with an index, as big checkpoints are published."""
    tensors = load_file(directory / "model.safetensors")
    names, weight_map = sorted(tensors), {}
    for i in range(count):
        shard = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = {name: tensors[name].clone() for name in names[i::count]}
        save_file(part, directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (directory / "model.safetensors").unlink()
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
