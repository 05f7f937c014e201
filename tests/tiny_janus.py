"""Janus checkpoints at the smallest size, with random weights, in both public layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tiny_checkpoint import randomise

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BEGIN, END, PLACEHOLDER = "<begin_of_image>", "<end_of_image>", "<image_placeholder>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
DIM, LAYERS, CODES = 32, 2, 40


LETTERS = "øöúÿõ÷ûýÀùÁþü"  # added by DeepSeek-LLM's vocabulary, not as special tokens: signs of bytes that UTF-8 lacks


def build_tokenizer(*, roles: bool = True, order: int = 0) -> Tokenizer:
    """Byte-level; control tokens come after the text, and `order` turns them round, since checkpoints differ in ids."""
    text = [*sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*LETTERS}), "re", "Ġ:"]
    tokenizer = Tokenizer(models.BPE(vocab={name: id for id, name in enumerate(text)}, merges=[("r", "e"), ("Ġ", ":")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [BOS, EOS, PAD, BEGIN, END, PLACEHOLDER, *((USER, ASSISTANT) if roles else ())]
    names = names[order:] + names[:order]
    tokenizer.add_tokens([AddedToken(letter, special=False, normalized=True) for letter in LETTERS])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


def prompt_ids(tokenizer, text: str) -> list[int]:
    """The published form as one string with its control tokens in it."""
    whole = f"{BOS}{USER}: {text}\n\n{ASSISTANT}:{BEGIN}"
    return tokenizer.encode(whole, add_special_tokens=False).ids


def unconditional(tokenizer, ids: list[int]) -> list[int]:
    """The rule of transformers: pad in place of all that is neither first nor begin of image."""
    kept = {tokenizer.token_to_id(BOS), tokenizer.token_to_id(BEGIN)}
    return [id if id in kept else tokenizer.token_to_id(PAD) for id in ids]


def rows_of(model, texts: list[str]) -> list[list[int]]:
    """Conditional and unconditional ids of every text, in turn."""
    conditional = [prompt_ids(model.tokenizer, text) for text in texts]
    return [ids for row in conditional for ids in (row, unconditional(model.tokenizer, row))]


def write_native(directory: Path, *, seed: int = 0, kv_heads: int = 4, **tokenizer_options) -> Path:
    """The layout of transformers, written by transformers."""
    import transformers

    tokenizer = build_tokenizer(**tokenizer_options)
    text = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=DIM, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=kv_heads, rms_norm_eps=1e-6, max_position_embeddings=1024,
        pad_token_id=tokenizer.token_to_id(PAD), bos_token_id=tokenizer.token_to_id(BOS),
    )  # fmt: skip
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": DIM}
    vq = {
        "base_channels": 32, "num_embeddings": CODES, "embed_dim": 8, "projection_dim": DIM, "image_token_embed_dim": DIM,
    }  # fmt: skip
    config = transformers.JanusConfig(text_config=text.to_dict(), vision_config=vision, vq_config=vq)
    model = transformers.JanusForConditionalGeneration(config)
    randomise(model, seed)
    with torch.no_grad():
        model.model.generation_head.vision_head.weight.mul_(2)  # laws that differ from position to position
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def write_original(directory: Path, native: Path, *, binary: bool = False) -> Path:
    """The layout of DeepSeek with the weights of a native directory, as safetensors or pytorch_model.bin."""
    directory.mkdir(parents=True)
    tensors = {original_name(name): tensor for name, tensor in load_file(native / "model.safetensors").items()}
    tensors["gen_vision_model.quantize.codebook_used"] = torch.zeros(65536)
    if binary:
        torch.save(tensors, directory / "pytorch_model.bin")
    else:
        save_file(tensors, directory / "model.safetensors")
    text = json.loads((native / "config.json").read_text())["text_config"]
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    language = {name: text[name] for name in fields} | {"vocab_size": text["vocab_size"], "model_type": "llama"}
    config = {
        "model_type": "multi_modality",
        "language_config": language,
        "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": CODES, "n_embed": 8}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_bytes((native / "tokenizer.json").read_bytes())
    return directory


def original_name(name: str) -> str:
    """DeepSeek's name of a tensor of the native layout, by the tables of transformers' conversion read backwards."""
    for native, original in (
        ("lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
        ("model.generation_embeddings.", "gen_embed."),
        ("model.generation_aligner.fc1.", "gen_aligner.layers.0."),
        ("model.generation_aligner.hidden_layers.0.", "gen_aligner.layers.2."),
        ("model.generation_head.proj_out.", "gen_head.output_mlp_projector."),
        ("model.generation_head.vision_head.", "gen_head.vision_head."),
        ("model.aligner.fc1.", "aligner.layers.0."),
        ("model.aligner.hidden_layers.0.", "aligner.layers.2."),
        ("model.vision_model.", "vision_model.vision_tower."),
        ("model.vqmodel.", "gen_vision_model."),
    ):
        if name.startswith(native):
            name = original + name.removeprefix(native)
            break
    name = re.sub(r"coder\.(?:down|up)\.(\d)\.block\.", r"coder.conv_blocks.\1.res.", name)
    name = re.sub(r"coder\.(?:down|up)\.(\d)\.", r"coder.conv_blocks.\1.", name)
    return re.sub(
        r"mid\.(block_1|attn_1|block_2)", lambda m: f"mid.{['block_1', 'attn_1', 'block_2'].index(m[1])}", name
    )
