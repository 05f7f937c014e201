"""Example graphs of public models, with the models' own settings; Get Model is in each, and fetches what it needs."""

from __future__ import annotations

from dataclasses import replace

from graph_parts import COLUMNS, Node, Workflow, text_to_image


def lumina() -> Workflow:
    text = """\
## Lumina-mGPT 7B: 768 px from text

Switch **accept_licence** on in *Get Model* and press **Run**: 14.3 GB are downloaded, once. Then press \
**R**, and the graph draws.

A picture of 768x768 is 48 rows of 48 codes. With a separator after each row and an end token, which are certain and need no \
guess, that makes 2353 tokens. Guidance, top-k and temperature are the authors' defaults; the window is that of the MC-SJD \
paper's code.

**Try**
- **size** 1152x512, 512x1152, 864x672 and the others that Load Model shows: 73 sizes of about the same area.
- **dtype** *fp8 weights*: 7 GB of weights instead of 13.6 GB in bf16. The KV cache of one picture with guidance takes \
2.5 GB more.
- **coupling** *plain AR*: the baseline, 2353 forwards.
- **initialiser** *above*: guesses are the codes one row up.
- the models for 512 and 1024 px, in the menus of Get Model and Load Model.
"""
    return text_to_image("Lumina-mGPT-7B-768", {"prompt": "a red fox in the snow, golden hour"}, text)


def janus() -> Workflow:
    text = """\
## Janus-Pro: 384 px from text

Switch **accept_licence** on in *Get Model* and press **Run**: 4.2 GB are downloaded, once. Then press \
**R**, and the graph draws.

A picture is 24 rows of 24 codes, 576 tokens; the model draws no other size. Guidance and temperature are the authors' \
settings, without top-k or top-p.

**Try**
- **Janus-Pro-7B** (15 GB), or Janus-1.3B, in the menus of Get Model and Load Model.
- **top_k** 1000: what the MC-SJD paper's code uses for this model; it excludes unlikely codes.
- **coupling** *plain AR*: the baseline, 576 forwards.
- **window** 16 or 128.
"""
    values = {"prompt": "a lighthouse on a cliff at sunset", "batch_size": 4}
    return text_to_image("Janus-Pro-1B", values, text)


def llamagen() -> Workflow:
    text = """\
## LlamaGen: classes of ImageNet

Switch **accept_licence** on in *Get Model* and press **Run**: 0.7 GB are downloaded, once. Then press \
**R**, and the graph draws.

The class picker gives the prompt. A name or number in the sampler's prompt does the same; an empty prompt draws anything. \
Guidance and top-k are those of the authors' demo.

**Try**
- other files, in the menu of **Load Model**: L, XL, XXL and 3B, 256 and 384 px. Larger ones follow the class better.
- the models that read captions: *LlamaGen-text-256* and *-512*, **cfg** 7.5, **top_k** 1000. Their text encoder FLAN-T5-XL \
goes into *LlamaGen-t2i/flan-t5-xl*; it is loaded only for new captions, runs on the CPU, and is then unloaded.
- **coupling** *plain AR*: the baseline.
"""
    graph = text_to_image("LlamaGen-c2i/c2i_B_256.pt", {"batch_size": 4}, text, download="LlamaGen-B-256")
    classes = Node(8, "MCSJD_ImageNetClass", (COLUMNS[2], 0), (400, 60))
    nodes = [moved(node, 160) if node.id in (3, 6) else node for node in graph.nodes]
    nodes = [replace(node, links=node.links | {"prompt": (8, 0)}) if node.id == 2 else node for node in nodes]
    return Workflow([*nodes, classes], thumbnail=())


def moved(node: Node, down: int) -> Node:
    return replace(node, pos=(node.pos[0], node.pos[1] + down))


def emu3() -> Workflow:
    text = """\
## Emu3-Gen: 720 px from text

Switch **accept_licence** on in *Get Model* and press **Run**: 35.1 GB are downloaded, once. Then press \
**R**, and the graph draws. In bf16 the weights take 15.7 GB of memory.

A picture of 720x720 is 90 rows of 90 codes, each row with a separator that needs no guess: 8193 tokens. Guidance, top-k and the \
ending of the prompt are the authors'; the request for the negative prompt names the same size.

**Try**
- **size** 832x624, 624x832, 880x584, 584x880, 960x544 or 544x960.
- **window** 16 to 128. Each position of the window takes about half a megabyte on top of the KV cache.
- **initialiser** *above*: guesses are the codes one row up.
"""
    prompt = "a red fox in the snow, masterpiece, film grained, best quality."
    values = {
        "prompt": prompt,
        "negative": "lowres, blurry, jpeg artifacts, watermark, text",
    }
    return text_to_image("Emu3-Gen", values, text)


GRAPHS = {
    "MC-SJD 07 Lumina-mGPT": lumina(),
    "MC-SJD 08 Janus-Pro": janus(),
    "MC-SJD 09 LlamaGen": llamagen(),
    "MC-SJD 10 Emu3": emu3(),
}
