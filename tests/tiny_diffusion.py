"""A small random `GlmImagePipeline` on disk, its autoregressive part a file that nobody may read."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tiny_checkpoint import randomise

CODES = 60  # as many as the small GLM-Image of test_glm_image draws


def components() -> dict:
    """What the pipeline is made of; its transformer asks for 2 x 2 prior tokens a code."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, GlmImageTransformer2DModel
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    text = T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=384, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    transformer = GlmImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, text_embed_dim=16,
        time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=CODES,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4, norm_num_groups=2, sample_size=64, latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
    return {
        "tokenizer": ByT5Tokenizer(),
        "text_encoder": randomise(T5EncoderModel(text), 1).eval(),
        "transformer": randomise(transformer, 2).eval(),
        "vae": randomise(vae, 3).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def write_diffusion(path: Path) -> Path:
    from diffusers import GlmImagePipeline

    pipeline = GlmImagePipeline(**components(), vision_language_encoder=None, processor=None)
    pipeline.save_pretrained(path)
    index = json.loads((path / "model_index.json").read_text())
    index |= {
        "vision_language_encoder": ["transformers", "GlmImageForConditionalGeneration"],
        "processor": ["transformers", "GlmImageProcessor"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    for name in ("vision_language_encoder", "processor"):
        (path / name).mkdir(exist_ok=True)
        if not list((path / name).iterdir()):
            (path / name / "config.json").write_text("not to be read")
    return path
