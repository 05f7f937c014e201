"""Peak host memory of loading a checkpoint, on one that this script writes: Lumina-mGPT's layout, random, in shards.

    python scripts/measure_loading.py --folder /tmp/big [--gigabytes 2.5]

Every way of loading has a process of its own. Beside the peak stand the bytes of the loaded model and of the largest shard.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

DIM, INNER, HEADS = 2048, 5504, 16
WAYS = [("bfloat16", "full"), ("float32", "full"), ("bfloat16", "fp8")]

LOAD = """
import sys, torch
sys.path.insert(0, {root!r})
import mcsjd_core

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

before = peak()
model = mcsjd_core.load({path!r}, dtype=torch.{dtype}, weights={weights!r})
after = peak()
print(before, after, sum(p.nbytes for part in (model.token_model, model.codec) for p in part.parameters()))
"""


def write(folder: Path, gigabytes: float, shards: int = 3) -> None:
    """A whole Lumina-mGPT directory whose transformer has about that many gigabytes of bfloat16."""
    from test_lumina import CODEC, NAMES
    from tiny_checkpoint import write_tiny_checkpoint

    write_tiny_checkpoint(folder, codec=CODEC, controls=NAMES)
    layer_bytes = 2 * (4 * DIM * DIM + 3 * DIM * INNER)
    layers = round(gigabytes * 1e9 / layer_bytes)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": DIM,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
    }
    config |= {"num_hidden_layers": layers, "mask_image_logits": False}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"image_side": 64}')
    head_dim, vocab = DIM // HEADS, config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, DIM), "lm_head.weight": (vocab, DIM), "model.norm.weight": (DIM,)}
    for n in range(layers):
        name = f"model.layers.{n}."
        shapes |= {f"{name}self_attn.{x}_proj.weight": (DIM, DIM) for x in "qkvo"}
        shapes |= {f"{name}self_attn.{x}_norm.{kind}": (1, head_dim) for x in "qk" for kind in ("weight", "bias")}
        shapes |= {f"{name}mlp.{x}_proj.weight": (INNER, DIM) for x in ("gate", "up")}
        shapes[f"{name}mlp.down_proj.weight"] = (DIM, INNER)
        shapes |= {f"{name}{x}_layernorm.weight": (DIM,) for x in ("input", "post_attention")}
    names, weight_map = list(shapes), {}
    per_shard = -(-len(names) // shards)
    for i in range(shards):
        file, part = f"model-{i + 1:05d}-of-{shards:05d}.safetensors", names[i * per_shard : (i + 1) * per_shard]
        save_file({name: torch.randn(shapes[name], dtype=torch.bfloat16) for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=2.5)
    arguments = parser.parse_args()
    if not (arguments.folder / "config.json").exists():
        write(arguments.folder, arguments.gigabytes)
    sizes = [file.stat().st_size for file in arguments.folder.glob("model-*.safetensors")]
    print(f"checkpoint {sum(sizes) / 1e9:.2f} GB in {len(sizes)} shards, the largest {max(sizes) / 1e9:.2f} GB")
    for dtype, weights in WAYS:
        code = LOAD.format(root=str(ROOT), path=str(arguments.folder), dtype=dtype, weights=weights)
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        before, peak, held = (int(value) / 1e9 for value in output.split())
        print(
            f"{dtype}, {weights}: peak {peak - before:.2f} GB over an idle process of {before:.2f} GB, model {held:.2f} GB"
        )


if __name__ == "__main__":
    main()
