"""Peak host memory of loading checkpoints, on random ones that this script writes in the public layouts.

    python scripts/measure_loading.py --folder /tmp/big [--gigabytes 2.1] [--layouts lumina janus]

Every way of loading has a process of its own. What may be taken at most is the loaded model and the largest shard.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcsjd_core.codecs.vq16 import VQ16
from mcsjd_core.codecs.vqgan import VQGAN
from mcsjd_core.families import chameleon, janus
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.transformer import Transformer, TransformerConfig

ROOT = Path(__file__).resolve().parent.parent
DIM, INNER, HEADS = 2048, 5504, 16
LAYER_WEIGHTS = 4 * DIM * DIM + 3 * DIM * INNER
WAYS = [("bfloat16", "full"), ("float32", "full"), ("bfloat16", "fp8"), ("bfloat16", "int8")]

LOAD = """
import sys, torch
sys.path.insert(0, {root!r})
import mcsjd_core
if {weights!r} == "int8":
    import torchao.quantization  # its own size is not the model's

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

def held(tensor):
    names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
    return sum(getattr(tensor, name).nbytes for name in names) or tensor.nbytes

{prepare}
before = resident("VmHWM")
model = mcsjd_core.load({path!r}, dtype=torch.{dtype}, weights={weights!r})
after = resident("VmHWM")
print(before, after, sum(held(p) for part in (model.token_model, model.codec) for p in part.parameters()))
"""


@dataclass(frozen=True)
class Layout:
    """A kind of checkpoint: `begin` writes the small files of one with so many layers and gives the shapes of the large."""

    begin: Callable[[Path, int], dict[str, list[int]]]
    suffix: str = ".safetensors"
    shards: int = 3
    dtype: torch.dtype = torch.bfloat16
    # A family whose codec's shape is fixed, and the test file that has a small one.
    tiny_codec: tuple[str, str] = ("", "")

    @property
    def prepare(self) -> str:
        """What a process runs before it loads: the codec in the folder is a small one."""
        family, test = self.tiny_codec
        if not family:
            return ""
        codec = importlib.import_module(test).CODEC
        imports = f"from mcsjd_core.codecs.vqgan import VQGANConfig\nfrom mcsjd_core.families import {family}"
        return f"{imports}\n{family}.CODEC = {codec!r}"


def config(layers: int, **special) -> TransformerConfig:
    return TransformerConfig(DIM, layers, HEADS, HEADS, DIM // HEADS, INNER, **special)


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def edit(file: Path, *keys: str, **fields) -> int:
    """Change fields of the JSON object at `keys`; gives its vocab_size."""
    data = json.loads(file.read_text())
    inner = data
    for name in keys:
        inner = inner[name]
    inner |= fields
    file.write_text(json.dumps(data))
    return inner["vocab_size"]


def fields(layers: int) -> dict[str, int]:
    return {
        "hidden_size": DIM,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": DIM // HEADS,
        "num_hidden_layers": layers,
    }


def lumina(folder: Path, layers: int) -> dict[str, list[int]]:
    from test_lumina import CODEC, NAMES
    from tiny_checkpoint import write_tiny_checkpoint

    write_tiny_checkpoint(folder, codec=CODEC, controls=NAMES)
    vocab = edit(folder / "config.json", **fields(layers), mask_image_logits=False)
    (folder / "generation_config.json").write_text('{"image_side": 64}')
    body = config(layers, qk_norm="layer")
    vocabulary = chameleon.Vocabulary(0, 29, 30, 4)
    model = chameleon.ChameleonTransformer(body, vocab, vocabulary, CODEC.codebook_size, device="meta")
    return shapes(model) | {"lm_head.weight": [vocab, DIM]}


def janus_directory(folder: Path, layers: int, original: bool = False) -> dict[str, list[int]]:
    from tiny_janus import CODES, original_name, write_native, write_original

    native = write_native(folder / "native" if original else folder)
    if original:
        write_original(folder / "original", native)
        shutil.copytree(folder / "original", folder, dirs_exist_ok=True)
    vocab = edit(folder / "config.json", "language_config" if original else "text_config", **fields(layers))
    codec = {name: list(t.shape) for name, t in load_file(native / "model.safetensors").items() if ".vqmodel." in name}
    for name in ("native", "original"):
        shutil.rmtree(folder / name, ignore_errors=True)
    model = janus.JanusTransformer(config(layers), vocab, VQ16, device="meta")
    large = {native_name(name): shape for name, shape in shapes(model).items()} | codec
    for name in (
        "generation_embeddings.weight",
        "generation_head.vision_head.weight",
        "generation_head.vision_head.bias",
    ):
        large[f"model.{name}"][0] = CODES
    return {original_name(name): shape for name, shape in large.items()} if original else large


def native_name(name: str) -> str:
    """transformers' name of a tensor of the token model."""
    prefixes = sorted(((ours, theirs) for theirs, ours in janus.NATIVE.items()), key=lambda pair: -len(pair[0]))
    return next((theirs + name.removeprefix(ours) for ours, theirs in prefixes if name.startswith(ours)), name)


def llamagen(folder: Path, layers: int) -> dict[str, list[int]]:
    """GPT-XL as published, whatever the layers asked for: the family knows its models by their shapes."""
    from test_llamagen import codec_state, gpt_shapes
    from tiny_checkpoint import randomise

    torch.save({"model": codec_state(randomise(VQGAN(VQ16)))}, folder / "vq_ds16_c2i.pt")
    return gpt_shapes("c2i", 1280, 36, 3584, 16384)


def emu3(folder: Path, layers: int) -> dict[str, list[int]]:
    from test_emu3 import CODES, CONFIG, FIRST, write_emu3

    adopt(write_emu3, folder)
    vocab = edit(folder / "config.json", **fields(layers))
    assert vocab == CONFIG["vocab_size"]
    body = Transformer(config(layers), device="meta")
    model = TransformerTokenModel(body, vocab, CODES, FIRST, device="meta")
    return shapes(model) | {"lm_head.weight": [vocab, DIM]}


def adopt(write: Callable[[Path], object], folder: Path) -> None:
    """What a test's writer makes in a directory of its own, in `folder`."""
    write(folder / "tiny")
    shutil.copytree(folder / "tiny", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "tiny")


def simplear(folder: Path, layers: int) -> dict[str, list[int]]:
    from test_simplear import CODES, FIRST, write_simplear

    adopt(partial(write_simplear, tied=True), folder)
    vocab = edit(folder / "config.json", **fields(layers))
    body = Transformer(config(layers, qkv_bias=True), device="meta")
    large = shapes(TransformerTokenModel(body, vocab, CODES, FIRST, device="meta"))
    return {name: shape for name, shape in large.items() if name != "lm_head.weight"}


def lumina2(folder: Path, layers: int) -> dict[str, list[int]]:
    from test_lumina2 import CODES, FIRST, write_lumina2

    adopt(write_lumina2, folder)
    vocab = edit(folder / "config.json", **fields(layers))
    body = Transformer(config(layers, qk_norm="layer"), device="meta")
    model = TransformerTokenModel(body, vocab, CODES, FIRST, device="meta")
    return shapes(model) | {"lm_head.weight": [vocab, DIM]}


def glm_image(folder: Path, layers: int) -> dict[str, list[int]]:
    """The folder of the autoregressive model, with the tokenizer in it."""
    from test_glm_image import CODES, VISION, write_glm_image

    write_glm_image(folder / "tiny")
    shutil.copytree(folder / "tiny" / "vision_language_encoder", folder, dirs_exist_ok=True)
    shutil.copy(folder / "tiny" / "processor" / "tokenizer.json", folder)
    shutil.rmtree(folder / "tiny")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
    vocab = edit(folder / "config.json", "text_config", **fields(layers), rope_parameters=rope)
    body = Transformer(config(layers, qkv_bias=True, norm_both=True), device="meta")
    ours = shapes(TransformerTokenModel(body, vocab, CODES, device="meta"))
    large = {name.replace("model.", "model.language_model.", 1): shape for name, shape in ours.items()}
    for name in [name for name in large if ".gate_proj." in name]:
        rows, columns = large.pop(name)
        del large[name.replace("gate", "up")]
        large[name.replace("gate_proj", "gate_up_proj")] = [2 * rows, columns]
    return large | {"lm_head.weight": [VISION, DIM]}


def emu3_5(folder: Path, layers: int) -> dict[str, list[int]]:
    from test_emu3_5 import CODES, FIRST, write_emu3_5

    adopt(write_emu3_5, folder)
    vocab = edit(folder / "config.json", **fields(layers))
    body = Transformer(config(layers, qk_norm="rms"), device="meta")
    large = shapes(TransformerTokenModel(body, vocab, CODES, FIRST, device="meta"))
    heads = {name: shape[1:] for name, shape in large.items() if name.endswith(("q_norm.weight", "k_norm.weight"))}
    return large | heads | {"lm_head.weight": [vocab, DIM]}


LAYOUTS = {
    "lumina": Layout(lumina),
    "janus": Layout(janus_directory, shards=2),
    "janus-original": Layout(partial(janus_directory, original=True), ".bin", 2),
    "llamagen": Layout(llamagen, ".pt", 1, torch.float32),
    "emu3": Layout(emu3, dtype=torch.float32),
    "simplear": Layout(simplear, shards=2),
    "lumina-mgpt-2": Layout(lumina2, tiny_codec=("lumina2", "test_lumina2")),
    "glm_image": Layout(glm_image),
    "emu3.5": Layout(emu3_5, tiny_codec=("emu3_5", "test_emu3_5")),
}


def random_tensor(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A million random numbers, over and over: what they are does not matter, and drawing them takes its time."""
    numbers, count = torch.randn(2**20).to(dtype), torch.Size(shape).numel()
    return numbers.repeat(-(-count // 2**20))[:count].reshape(shape).clone()


def write(folder: Path, name: str, gigabytes: float) -> Path:
    """A whole checkpoint of that layout whose transformer has about that many gigabytes; its path."""
    layout = LAYOUTS[name]
    folder.mkdir(parents=True)
    large = layout.begin(folder, round(gigabytes * 1e9 / layout.dtype.itemsize / LAYER_WEIGHTS))
    for old in (*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*")):
        old.unlink()
    stem = {".safetensors": "model", ".bin": "pytorch_model", ".pt": "c2i_XL"}[layout.suffix]
    names, weight_map = list(large), {}
    per_shard = -(-len(names) // layout.shards)
    for i in range(layout.shards):
        part = names[i * per_shard : (i + 1) * per_shard]
        file = f"{stem}-{i + 1:05d}-of-{layout.shards:05d}{layout.suffix}" if layout.shards > 1 else f"{stem}_384.pt"
        tensors = {name: random_tensor(large[name], layout.dtype) for name in part}
        (save_file if layout.suffix == ".safetensors" else torch.save)(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if layout.shards == 1:
        return folder / file
    (folder / f"{stem}{layout.suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def measure(path: Path, dtype: str, weights: str, prepare: str) -> tuple[float, float]:
    """Gigabytes: growth of the most memory that a process of its own had resident, and what the model holds."""
    code = LOAD.format(root=str(ROOT), path=str(path), dtype=dtype, weights=weights, prepare=prepare)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, peak, held = (int(value) / 1e9 for value in output.split())
    return peak - before, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="an empty or new folder, emptied again afterwards")
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    arguments = parser.parse_args()
    ways = [way for way in WAYS if way[1] != "int8" or importlib.util.find_spec("torchao")]
    print(
        "| layout | stored | dtype | weights | model, GB | largest shard | peak | allowed |\n|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.layouts:
        path = write(arguments.folder / name, name, arguments.gigabytes)
        files = [path] if path.is_file() else [f for f in path.iterdir() if f.suffix == LAYOUTS[name].suffix]
        largest, stored = max(f.stat().st_size for f in files) / 1e9, sum(f.stat().st_size for f in files) / 1e9
        for dtype, weights in ways:
            peak, held = measure(path, dtype, weights, LAYOUTS[name].prepare)
            print(f"| {name} | {stored:.2f} | {dtype} | {weights} | {held:.2f} | {largest:.2f} | {peak:.2f} | "
                  f"{held + largest:.2f} |", flush=True)  # fmt: skip
        shutil.rmtree(arguments.folder / name)


if __name__ == "__main__":
    main()
