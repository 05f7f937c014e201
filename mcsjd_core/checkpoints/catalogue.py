"""Public checkpoints by name: where they are published, what of them is needed, their licence and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
TEXTS = ("config.json", "generation_config.json", "tokenizer.json")
CHAMELEON_LICENCE = "Chameleon Research License (research, non-commercial)"
GLM_LICENCE = "MIT according to others; its own page was not seen"
CHAMELEON_CODEC = (
    "Pictures need Chameleon's VQGAN, 275 MB, which goes into the folder chameleon-vqgan beside the model and serves all of "
    "these models. If you cannot reach that repository: ask for access at https://huggingface.co/Alpha-VLLM/Chameleon_7B_mGPT, "
    "and put original_tokenizers/vqgan.ckpt from there into that folder."
)


@dataclass(frozen=True)
class Source:
    """Files of one repository whose names match `patterns`, and the folder, below the model folder, that they go to.

    They lie in the folder `inside` of the repository, at its top where that is empty.
    """

    repository: str
    patterns: tuple[str, ...]
    folder: str
    inside: str = ""


@dataclass(frozen=True)
class Download:
    """A checkpoint: its sources (the first is its own), the licence of its weights, gigabytes as published, and advice."""

    sources: tuple[Source, ...]
    licence: str
    gigabytes: float
    note: str = ""
    checkpoint: str = ""  # folder that is loaded, if it is not the first source's

    @property
    def folder(self) -> str:
        return self.checkpoint or self.sources[0].folder


def _lumina(side: int) -> Download:
    name = f"Lumina-mGPT-7B-{side}"
    own = (Source(f"Alpha-VLLM/{name}", (*WEIGHT_FILES, *TEXTS), name),)
    # The tokenizer is stored in one of the repositories only.
    tokenizer = () if side == 768 else (Source("Alpha-VLLM/Lumina-mGPT-7B-768", ("tokenizer.json",), name),)
    codec = (Source("leloy/Anole-7b-v0.1-vqvae-hf", ("model.safetensors",), "chameleon-vqgan"),)
    licence = f"none stated; derived from Chameleon, so treat it as under the {CHAMELEON_LICENCE}"
    return Download(own + tokenizer + codec, licence, 14.3, CHAMELEON_CODEC)


def _janus(repository: str, gigabytes: float) -> Download:
    name = repository.split("/")[1]
    licence = "DeepSeek Model License (commercial use allowed, with use-based restrictions)"
    return Download((Source(repository, (*WEIGHT_FILES, *TEXTS), name),), licence, gigabytes)


def _llamagen_class(size: str, side: int, gigabytes: float) -> Download:
    """One folder for all of them, since they share the codec."""
    patterns = (f"c2i_{size}_{side}.pt", "vq_ds16_c2i.pt")
    note = "It draws the 1000 classes of ImageNet, each by its name or number. The files are torch files, read as tensors only."
    return Download((Source("FoundationVision/LlamaGen", patterns, "LlamaGen-c2i"),), "MIT", gigabytes, note)


def _llamagen_text(stage: int, side: int) -> Download:
    patterns = (f"t2i_XL_stage{stage}_{side}.pt", "vq_ds16_t2i.pt")
    own = Source("peizesun/llamagen_t2i", patterns, "LlamaGen-t2i")
    encoder = Source("google/flan-t5-xl", (*WEIGHT_FILES, "config.json", "tokenizer.json"), "LlamaGen-t2i/flan-t5-xl")
    note = "Most of it is the text encoder FLAN-T5-XL, which both of these models share."
    return Download((own, encoder), "MIT; the text encoder Apache-2.0", 14.8, note)


def _emu3(name: str) -> Download:
    own = Source(f"BAAI/{name}", (*WEIGHT_FILES, "config.json", "emu3.tiktoken", "emu3_vision_tokens.txt"), name)
    codec = Source("BAAI/Emu3-VisionTokenizer", (*WEIGHT_FILES, "config.json"), f"{name}/Emu3-VisionTokenizer")
    return Download((own, codec), "Apache-2.0", 35.1, "Stored in float32; in bf16 it takes 15.7 GB of memory.")


def _cosmos(size: str, gigabytes: float, reads_text: bool) -> Download:
    """The second generation: of its repositories it is known that they hold these files."""
    own = Source(f"nvidia/Cosmos-Predict1-{size}", ("model.pt", "config.json"), f"Cosmos-Predict1-{size}")
    codec = "Cosmos-Tokenize1-DV8x16x16-720p"
    files = Source(f"nvidia/{codec}", ("encoder.jit", "decoder.jit"), codec)
    licence = "NVIDIA Open Model License (commercial use allowed); to be accepted on the pages first"
    note = (
        "Continues a video of 1 or 9 frames. model.pt is read as tensors only; of the tokenizer's two TorchScript "
        "programs the tensors are taken. Read the licence: NVIDIA's licence for the sister models ends if "
        "their safety guardrail is left out, and this pack has none."
    )
    encoder = (
        " It reads a text as well, with the encoder of T5-11B (version 1.0), which is not part of this download: in ComfyUI "
        "use its CLIPLoader of type cosmos with oldt5_xxl_fp16.safetensors, elsewhere put google-t5/t5-11b "
        "into the folder t5-11b beside the model."
    )
    return Download((own, files), licence, gigabytes, note + encoder * reads_text)


def _simplear(size: str, gigabytes: float) -> Download:
    """Of these repositories neither the list of files nor the sizes were seen: all forms that the loader reads are asked for."""
    name, codec = f"SimpleAR-{size}", "Cosmos-1.0-Tokenizer-DV8x16x16"
    texts = (*TEXTS, "vocab.json", "merges.txt", "added_tokens.json")
    own = Source(f"Daniel0724/{name}", (*WEIGHT_FILES, *texts), name)
    files = Source(f"nvidia/{codec}", ("encoder.jit", "decoder.jit"), codec)
    licence = (
        "none seen (code MIT, base model Apache-2.0); its codec NVIDIA Open Model License, to be accepted on its page"
    )
    note = (
        "Small enough for any card. The codec's two files are NVIDIA's TorchScript programs; their tensors are read. The size is "
        "computed from the parameters; the codec comes on top of it."
    )
    return Download((own, files), licence, gigabytes, note)


def _emu3_5() -> Download:
    name, codec = "Emu3.5-Image", "Emu3.5-VisionTokenizer"
    own = Source(f"BAAI/{name}", (*WEIGHT_FILES, "config.json", "emu3.tiktoken", "emu3_vision_tokens.txt"), name)
    files = Source(f"BAAI/{codec}", ("model.safetensors", "model.ckpt"), f"{name}/{codec}")
    note = (
        "34 billion parameters: 67 GB of memory in bf16, 35 GB as fp8 weights, and 2.2 GB more for a guided picture. One "
        "graphics card computes; what does not fit is offloaded by ComfyUI, which is slow. Pictures begin at once: the text that "
        "the published model may write before one is left out."
    )
    return Download((own, files), "Apache-2.0", 70.0, note)


def _lumina2() -> Download:
    name = "Lumina-mGPT-2.0"
    own = Source(f"Alpha-VLLM/{name}", (*WEIGHT_FILES, *TEXTS, "tokenizer_config.json"), name)
    codec = Source("ai-forever/MoVQGAN", ("movqgan_270M.ckpt",), "movqgan-270m")
    note = (
        "9313 tokens for 768 x 768. Pictures need the 270M MoVQ codec, 1.1 GB, which goes into the folder movqgan-270m beside "
        "the model; its file is a torch file, read as tensors only."
    )
    return Download((own, codec), "Apache-2.0; none is stated for its codec", 16.8, note)


def _glm_image() -> Download:
    """The autoregressive stage alone; of the repository's folders it is known that they hold these files."""
    repository, name = "zai-org/GLM-Image", "GLM-Image"
    model, processor = "vision_language_encoder", "processor"
    texts = ("config.json", "generation_config.json")
    sources = (
        Source(repository, (*WEIGHT_FILES, *texts), f"{name}/{model}", model),
        Source(repository, ("tokenizer.json",), f"{name}/{processor}", processor),
    )
    note = (
        "Only its autoregressive stage, which draws codes: the picture is made of them by a diffusion transformer of 7 billion "
        "parameters, which is the download GLM-Image-decoder. The size is computed from the parameters."
    )
    return Download(sources, GLM_LICENCE, 20.2, note, name)


def _glm_decoder() -> Download:
    """What makes pixels of its tokens, in the folder of the model, as the repository has it."""
    repository, name = "zai-org/GLM-Image", "GLM-Image"
    folders = {
        "transformer": (*WEIGHT_FILES, "config.json"),
        "text_encoder": (*WEIGHT_FILES, "config.json"),
        "vae": (*WEIGHT_FILES, "config.json"),
        "tokenizer": ("*.json",),
        "scheduler": ("scheduler_config.json",),
    }
    parts = [Source(repository, patterns, f"{name}/{folder}", folder) for folder, patterns in folders.items()]
    note = (
        "Makes pictures from GLM-Image's tokens: a diffusion transformer, a text encoder and a VAE, run by diffusers. It needs "
        'the packages of `pip install "diffusers>=0.42" "transformers>=5" accelerate`. The size is computed from the parameters.'
    )
    return Download((*parts, Source(repository, ("model_index.json",), name)), GLM_LICENCE, 15.3, note, name)


# Gigabytes of the two Janus-Pro, of LlamaGen's XL and XXL, of its text encoder and of Cosmos are computed from their
# parameters, the others are the repositories' own figures.
DOWNLOADS = {
    "Janus-Pro-1B": _janus("deepseek-community/Janus-Pro-1B", 4.2),
    "Janus-Pro-7B": _janus("deepseek-community/Janus-Pro-7B", 14.8),
    "Janus-1.3B": _janus("deepseek-ai/Janus-1.3B", 4.2),
    "Lumina-mGPT-7B-512": _lumina(512),
    "Lumina-mGPT-7B-768": _lumina(768),
    "Lumina-mGPT-7B-1024": _lumina(1024),
    "Anole-7B": Download(
        (Source("leloy/Anole-7b-v0.1-hf", (*WEIGHT_FILES, *TEXTS), "Anole-7B"),), CHAMELEON_LICENCE, 14.3
    ),
    "LlamaGen-B-256": _llamagen_class("B", 256, 0.7),
    "LlamaGen-B-384": _llamagen_class("B", 384, 0.7),
    "LlamaGen-L-256": _llamagen_class("L", 256, 1.7),
    "LlamaGen-L-384": _llamagen_class("L", 384, 1.7),
    "LlamaGen-XL-384": _llamagen_class("XL", 384, 3.4),
    "LlamaGen-XXL-384": _llamagen_class("XXL", 384, 5.9),
    "LlamaGen-3B-384": _llamagen_class("3B", 384, 12.7),
    "LlamaGen-text-256": _llamagen_text(1, 256),
    "LlamaGen-text-512": _llamagen_text(2, 512),
    "Emu3-Gen": _emu3("Emu3-Gen"),
    "Emu3-Stage1": _emu3("Emu3-Stage1"),
    "Cosmos-Predict1-4B": _cosmos("4B", 8.3, reads_text=False),
    "Cosmos-Predict1-12B": _cosmos("12B", 23.4, reads_text=False),
    "Cosmos-Predict1-5B-Video2World": _cosmos("5B-Video2World", 9.4, reads_text=True),
    "Cosmos-Predict1-13B-Video2World": _cosmos("13B-Video2World", 26.9, reads_text=True),
    "Lumina-mGPT-2.0": _lumina2(),
    "Emu3.5-Image": _emu3_5(),
    "GLM-Image": _glm_image(),
    "GLM-Image-decoder": _glm_decoder(),
    "SimpleAR-0.5B-RL": _simplear("0.5B-RL", 1.5),
    "SimpleAR-0.5B-SFT": _simplear("0.5B-SFT", 1.5),
    "SimpleAR-1.5B-RL": _simplear("1.5B-RL", 3.9),
    "SimpleAR-1.5B-SFT": _simplear("1.5B-SFT", 3.9),
}


def choose_download(name: str) -> Download:
    if name not in DOWNLOADS:
        raise InputError(f"There is no download called {name!r}; there are {', '.join(DOWNLOADS)}.")
    return DOWNLOADS[name]


def describe(name: str, root: Path) -> str:
    """What a person should know before the download: size, licence, from where, to where."""
    download = choose_download(name)
    repositories = dict.fromkeys(source.repository for source in download.sources)
    lines = [
        f"{name}: about {download.gigabytes:g} GB",
        f"licence: {download.licence}",
        "from: " + ", ".join(f"https://huggingface.co/{each}" for each in repositories),
        f"to: {root / download.folder}",
    ]
    return "\n".join(lines + ([download.note] if download.note else []))
