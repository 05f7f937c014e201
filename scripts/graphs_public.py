"""Example graphs of public models, with the authors' settings; their notes say what has to be downloaded."""

from __future__ import annotations

from graph_parts import LOADER, SAMPLER, Node, Workflow, note, text_to_image


def lumina() -> Workflow:
    text = """\
## Lumina-mGPT 7B: 768 px from text

Needs the directory **Lumina-mGPT-7B-768** (14 GB) and beside it **chameleon-vqgan** (0.3 GB) below *models/mcsjd*: add the node \
**MC-SJD Get Model**, choose *Lumina-mGPT-7B-768*, and press **R** afterwards. \
`python -m mcsjd_core download Lumina-mGPT-7B-768` does the same. Until then, any other model of the menu runs this graph.

A picture of 768x768 is 48 rows of 48 codes; the separator behind each row and the end are certain, so they cost no guess: 2353 \
tokens. Guidance, top-k and temperature are the authors' defaults, the window is that of the MC-SJD paper's code.

**Try**
- **size** 1152x512, 512x1152, 864x672 and the others that Load Model shows: 73 sizes of about the same area.
- **dtype** *fp8 weights*: 7 GB of weights in place of 13.6 in bf16. The guided KV cache of one picture takes 2.5 GB more.
- **coupling** *plain AR*: the yardstick, 2353 forwards.
- **initialiser** *above*: guesses are the codes one row up.
- the models for 512 and 1024 px, in the menus of Get Model and Load Model.
"""
    values = {
        "prompt": "a red fox in the snow, golden hour",
        "window": 32,
        "cfg": 3.0,
        "temperature": 1.0,
        "top_k": 2000,
    }
    return text_to_image("Lumina-mGPT-7B-768", values, text, note_height=640)


def janus() -> Workflow:
    text = """\
## Janus-Pro: 384 px from text

Needs the directory **Janus-Pro-1B** (4 GB) below *models/mcsjd*: add the node **MC-SJD Get Model**, choose *Janus-Pro-1B*, and \
press **R** afterwards. `python -m mcsjd_core download Janus-Pro-1B` does the same. Until then, any other model of the menu runs \
this graph.

A picture is 24 rows of 24 codes, 576 tokens; the model draws no other size. Guidance and temperature are the authors', who cut \
nothing.

**Try**
- **Janus-Pro-7B** (15 GB), or Janus-1.3B, in the menus of Get Model and Load Model.
- **top_k** 1000: what the MC-SJD paper's code uses for this model; unlikely codes are cut then.
- **coupling** *plain AR*: the yardstick, 576 forwards.
- **window** 16 or 128.
"""
    values = {
        "prompt": "a lighthouse on a cliff at sunset",
        "cfg": 5.0,
        "temperature": 1.0,
        "top_k": 0,
        "batch_size": 4,
    }
    return text_to_image("Janus-Pro-1B", values, text, note_height=560)


def llamagen() -> Workflow:
    text = """\
## LlamaGen: classes of ImageNet

Needs **LlamaGen-c2i/c2i_B_256.pt** and **LlamaGen-c2i/vq_ds16_c2i.pt** below *models/mcsjd* (0.7 GB together): add the node \
**MC-SJD Get Model**, choose *LlamaGen-B-256*, and press **R** afterwards. `python -m mcsjd_core download LlamaGen-B-256` does \
the same. Until then, any other model of the menu runs this graph.

The class picker gives the prompt. A name or number in the sampler's prompt will do as well; empty draws anything. Guidance and \
top-k are those of the authors' demo.

**Try**
- other files, in the menu of **Load Model**: L, XL, XXL and 3B, 256 and 384 px. Larger ones follow the class better.
- the models that read captions: *LlamaGen-text-256* and *-512*, **cfg** 7.5, **top_k** 1000. Their text encoder FLAN-T5-XL \
goes into *LlamaGen-t2i/flan-t5-xl*; it is read for new captions only, runs on the CPU, and is not kept.
- **coupling** *plain AR*: the yardstick.
"""
    return Workflow(
        [
            Node(1, "MCSJD_LoadModel", (0, 0), LOADER, {"model": "LlamaGen-c2i/c2i_B_256.pt"}),
            Node(2, "MCSJD_ImageNetClass", (0, 274), (320, 60)),
            Node(
                3, "MCSJD_Sampler", (370, 0), SAMPLER, {"cfg": 4.0, "temperature": 1.0, "top_k": 2000, "batch_size": 4},
                {"model": (1, 0), "prompt": (2, 0)},
            ),
            Node(4, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (3, 0)}),
            Node(5, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (4, 0)}),
            Node(6, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (3, 1), "image": (4, 0)}),
            note(7, (0, 384), (320, 640), text),
        ],
        thumbnail=(),
    )  # fmt: skip


def emu3() -> Workflow:
    text = """\
## Emu3-Gen: 720 px from text

Needs the directory **Emu3-Gen** below *models/mcsjd*, and in it **Emu3-VisionTokenizer** (35 GB together): add the node \
**MC-SJD Get Model**, choose *Emu3-Gen*, and press **R** afterwards. `python -m mcsjd_core download Emu3-Gen` does the same. \
Until then, any other model of the menu runs this graph. In bf16 the weights take 15.7 GB of memory.

A picture of 720x720 is 90 rows of 90 codes, each row with a separator that costs no guess: 8193 tokens. Guidance, top-k and the \
ending of the prompt are those of the authors; the negative prompt has the same size in it.

**Try**
- **size** 832x624, 624x832, 880x584, 584x880, 960x544 or 544x960.
- **window** 16 to 128. A position of the window takes about half a megabyte beside the KV cache.
- **initialiser** *above*: guesses are the codes one row up.
"""
    prompt = "a red fox in the snow, masterpiece, film grained, best quality."
    values = {
        "prompt": prompt,
        "negative": "lowres, blurry, jpeg artifacts, watermark, text",
        "cfg": 3.0,
        "temperature": 1.0,
        "top_k": 2048,
    }
    return text_to_image("Emu3-Gen", values, text, note_height=560)


GRAPHS = {
    "7_lumina_mgpt": lumina(),
    "8_janus_pro": janus(),
    "9_llamagen": llamagen(),
    "10_emu3": emu3(),
}
