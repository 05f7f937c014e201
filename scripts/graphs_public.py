"""Example graphs of public models, with the models' own settings; Get Model is in each, and fetches what it needs."""

from __future__ import annotations

from dataclasses import replace

from graph_parts import COLUMNS, STATS, Node, Workflow, below, first_run, saved, stats, text_to_image


def lumina() -> Workflow:
    text = f"""\
## Lumina-mGPT 7B: 768 px from text

{first_run("14.3 GB")}

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
    text = f"""\
## Janus-Pro: 384 px from text

{first_run("4.2 GB")}

A picture is 24 rows of 24 codes, 576 tokens; the model draws no other size. Guidance and temperature are the authors' \
settings, without top-k or top-p.

**Try**
- **Janus-Pro-7B** (15 GB), or Janus-1.3B, in the menus of Get Model and Load Model.
- **top_k** 1000: what the MC-SJD paper's code uses for this model; it excludes unlikely codes.
- **coupling** *plain AR*: the baseline, 576 forwards.
- **window** 32 or 128.
"""
    values = {"prompt": "a lighthouse on a cliff at sunset", "batch_size": 4}
    return text_to_image("Janus-Pro-1B", values, text)


def llamagen() -> Workflow:
    text = f"""\
## LlamaGen: classes of ImageNet

{first_run("0.7 GB")}

The class picker gives the prompt. A name or number in the sampler's prompt does the same; an empty prompt draws anything. \
Guidance and top-k are those of the authors' demo.

**Try**
- other models, by **Get Model**: *LlamaGen-L-256*, and B, L, XL, XXL and 3B for 384 px.
- the models that read captions: *LlamaGen-text-256* and *-512*, **cfg** 7.5, **top_k** 1000. Their text encoder FLAN-T5-XL \
goes into *LlamaGen-t2i/flan-t5-xl*; it is loaded only for new captions, runs on the CPU, and is then unloaded.
- **coupling** *plain AR*: the baseline.
"""
    graph = text_to_image("LlamaGen-c2i/c2i_B_256.pt", {"batch_size": 4}, text, download="LlamaGen-B-256")
    classes = Node(8, "MCSJD_ImageNetClass", (COLUMNS[2], 0), (400, 60))
    nodes = [lowered(node, 160) if node.id in (3, 6) else node for node in graph.nodes]
    nodes = [replace(node, links=node.links | {"prompt": (8, 0)}) if node.id == 2 else node for node in nodes]
    return Workflow([*nodes, classes], thumbnail=())


def lowered(node: Node, down: int) -> Node:
    return replace(node, pos=(node.pos[0], node.pos[1] + down))


def emu3() -> Workflow:
    text = f"""\
## Emu3-Gen: 720 px from text

{first_run("35.1 GB")} In bf16 the weights take 15.7 GB of memory.

A picture of 720x720 is 90 rows of 90 codes, each followed by a separator, and then three end tokens, none of which needs a \
guess: 8193 tokens. Guidance, top-k and the ending of the prompt are the authors'; the negative prompt is sent with the same size.

**Try**
- **size** 832x624, 624x832, 880x584, 584x880, 960x544 or 544x960.
- **window** 32 to 128. Each position of the window takes about half a megabyte on top of the KV cache.
- **initialiser** *above*: guesses are the codes one row up.
"""
    prompt = "a red fox in the snow, masterpiece, film grained, best quality."
    values = {
        "prompt": prompt,
        "negative": "lowres, blurry, jpeg artifacts, watermark, text",
    }
    return text_to_image("Emu3-Gen", values, text)


def simplear() -> Workflow:
    text = f"""\
## SimpleAR: 1024 px from a small model

Sign in at huggingface.co, accept NVIDIA's licence on the codec's page, and make your access token known on this computer with \
`hf auth login`. {first_run("about 1.5 GB and the codec")}

A picture of 1024x1024 is one frame of Cosmos' video tokenizer, 64 rows of 64 codes: 4096 tokens. Guidance is the authors'; \
with an empty negative prompt it leads away from the list of defects in their script.

**Try**
- **SimpleAR-1.5B-RL** (3.9 GB), or the *-SFT* models, in the menus of Get Model and Load Model.
- **window** 16 to 128.
- **coupling** *plain AR*: the baseline, 4096 forwards.
"""
    return text_to_image("SimpleAR-0.5B-RL", {"prompt": "a red fox in the snow, golden hour"}, text)


def lumina2() -> Workflow:
    text = f"""\
## Lumina-mGPT 2.0: 768 px from text

{first_run("16.8 GB")} The weights take 14.5 GB of memory in bf16 and 8.0 GB as fp8 weights; the KV cache of one picture \
with guidance takes 10 GB.

A picture of 768x768 is 96 rows of 96 codes. With a separator after each row and an end token, which are certain and need no \
guess, that makes 9313 tokens. Guidance and top-k are the authors'.

**Try**
- **size** 1152x512, 512x1152, 864x672 and the others that Load Model shows.
- **window** 32 or 64; **initialiser** *above*.
"""
    return text_to_image("Lumina-mGPT-2.0", {"prompt": "a red fox in the snow, golden hour"}, text)


def emu3_5() -> Workflow:
    text = f"""\
## Emu3.5-Image: 34 billion parameters

{first_run("70 GB")} The weights take 67 GB of memory in bf16 and 35 GB as fp8 weights; what does not fit on the card is \
offloaded, which is slow.

A picture of 1168x880 is 55 rows of 73 codes: 4070 tokens. The picture begins at once: the text that the published model may \
write before it is left out. Guidance and top-k are the authors'.

**Try**
- **size** 1024x1024, 880x1168, 1248x832, 832x1248, 1360x752, 752x1360 or 1552x656.
- **dtype** *fp8 weights*, offloaded where needed; or *int8 weights*, if all 35 GB fit on the card.
"""
    return text_to_image("Emu3.5-Image", {"prompt": "a red fox in the snow, golden hour"}, text)


def glm_image() -> Workflow:
    """Two stages, so two models to get and to load."""
    text = f"""\
## GLM-Image: a plan in tokens, then a picture

{first_run("20.2 GB")} Do the same in *2. Get its decoder* (15.3 GB), which needs ComfyUI's Python to have diffusers 0.42, \
transformers 5 and accelerate.

The autoregressive stage draws a plan: a preview of about 16x16 codes, then 32x32 for 1024x1024, 1281 tokens with the end. Its \
weights take 17.8 GB of memory in bf16, 9.6 GB as fp8 weights. A diffusion transformer turns the plan into a picture; this part \
takes about 15 GB in bf16. Temperature, top-k and top-p are diffusers'; the first stage has no guidance.

**Try**
- **size** 512x512 to 2048x2048; Load Model shows them.
- quotation marks around text that the picture should show.
- *Export Tokens* gives the prior_token_ids to other packs.
"""
    graph = text_to_image("GLM-Image", {"prompt": 'a poster of a red fox with the words "first snow"'}, text, 520)
    kept = [node for node in graph.nodes if node.id not in (3, 4, 6)]
    x = COLUMNS[2]
    get = Node(
        8, "MCSJD_GetModel", (x, 0), (340, 300), {"model": "GLM-Image-decoder"}, title="2. Get its decoder, once"
    )
    load = Node(9, "MCSJD_LoadDiffusion", (x, below(get)), (340, 82), {"model": "GLM-Image"})
    links = {"decoder": (9, 0), "model": (1, 0), "tokens": (2, 0)}
    decode = Node(3, "MCSJD_DecodeDiffusion", (x, below(load)), (340, 190), {}, links)
    figures = stats(6, (COLUMNS[3], 0), STATS, {}, stats=(2, 1), image=(3, 0))
    picture = saved(4, (COLUMNS[3] + 460, 0), (600, 640), (3, 0), "GLM-Image", "Pictures")
    return Workflow([*kept, get, load, decode, figures, picture], thumbnail=())


GRAPHS = {
    "MC-SJD 07 Lumina-mGPT": lumina(),
    "MC-SJD 08 Janus-Pro": janus(),
    "MC-SJD 09 LlamaGen": llamagen(),
    "MC-SJD 10 Emu3": emu3(),
    "MC-SJD 15 SimpleAR": simplear(),
    "MC-SJD 16 Lumina-mGPT 2": lumina2(),
    "MC-SJD 17 GLM-Image": glm_image(),
    "MC-SJD 18 Emu3.5": emu3_5(),
}
