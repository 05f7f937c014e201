"""Write a transformer, a codec and a tokenizer as an ordinary checkpoint directory of the Chameleon family.

Names, shapes and files are those of the public Hugging Face checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from mcsjd_core.codecs.vqgan import VQGANConfig
from mcsjd_core.nn.transformer import TransformerConfig

from .scenes import COLUMNS


def model_config(
    transformer: TransformerConfig, codec: VQGANConfig, vocabulary: dict[str, int], dtype: torch.dtype
) -> dict:
    """config.json in the fields of transformers' ChameleonConfig."""
    return {
        "model_type": "chameleon",
        "architectures": ["ChameleonForConditionalGeneration"],
        "vocab_size": len(vocabulary),
        "hidden_size": transformer.dim,
        "intermediate_size": transformer.ffn_dim,
        "num_hidden_layers": transformer.layers,
        "num_attention_heads": transformer.heads,
        "num_key_value_heads": transformer.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": transformer.norm_eps,
        "rope_theta": transformer.rope_theta,
        "model_parallel_size": 1,
        "swin_norm": transformer.norm_after,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": vocabulary["<s>"],
        "eos_token_id": vocabulary["</s>"],
        "pad_token_id": vocabulary["<pad>"],
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vq_config": codec_config(codec),
        "vocabulary_map": vocabulary,
    }


def codec_config(codec: VQGANConfig) -> dict:
    """The fields of transformers' ChameleonVQVAEConfig."""
    return {
        "base_channels": codec.channels,
        "channel_multiplier": list(codec.channel_multipliers),
        "num_res_blocks": codec.res_blocks,
        "latent_channels": codec.z_channels,
        "embed_dim": codec.embed_dim,
        "num_embeddings": codec.codebook_size,
        "attn_resolutions": None,
        "attn_type": "vanilla",
        "double_latent": False,
        "in_channels": 3,
        "resolution": COLUMNS * codec.downsampling,
    }


def public_tensors(
    state: dict[str, Tensor], transformer: TransformerConfig, vocab_size: int, first_code: int
) -> dict[str, Tensor]:
    """The transformer's tensors under public names and in the shapes that transformers' ChameleonModel has.

    The head gets zero rows for everything that is no image token, the norms of queries and keys a row for every head.
    """
    head = state["lm_head.weight"]
    full = torch.zeros(vocab_size, head.shape[1])
    full[first_code : first_code + len(head)] = head
    public = state | {"lm_head.weight": full}
    for norm, heads in (("q_norm", transformer.heads), ("k_norm", transformer.kv_heads)):
        for name in (name for name in state if f".{norm}." in name):
            public[name] = state[name].repeat_interleave(heads // len(state[name]), dim=0)
    return public


def trained_tensors(public: dict[str, Tensor], transformer: TransformerConfig, codes: slice) -> dict[str, Tensor]:
    """The way back: a training's tensors, in float32, from those of a checkpoint whose head has the image tokens in `codes`."""
    trained = public | {"lm_head.weight": public["lm_head.weight"][codes]}
    if transformer.qk_norm == "layer":  # one row for all heads
        trained |= {name: rows[:1] for name, rows in public.items() if ".q_norm." in name or ".k_norm." in name}
    return {name: tensor.float() for name, tensor in trained.items()}


def write_checkpoint(
    out: Path, transformer: TransformerConfig, codec: VQGANConfig, tokenizer: Tokenizer,
    transformer_state: dict[str, Tensor], codec_state: dict[str, Tensor], generation: dict,
    dtype: torch.dtype = torch.float16,
) -> None:  # fmt: skip
    """Write the directory `out`; states are those of ChameleonTransformer and VQGAN, `generation` is generation_config.json."""
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    first_code = vocabulary["IMGIMGAZ"]
    tensors = public_tensors(transformer_state, transformer, len(vocabulary), first_code)
    for name, state in (("model", tensors), ("vqgan", codec_state)):
        state = {key: value.to(dtype).contiguous().clone() for key, value in state.items()}
        save_file(state, out / f"{name}.safetensors", metadata={"format": "pt"})
    config = model_config(transformer, codec, vocabulary, dtype)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
