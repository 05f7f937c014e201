"""The example graphs, as lists of nodes; `make_workflows.py` writes them out as files."""

from __future__ import annotations

from dataclasses import dataclass, field

NOTE = "MarkdownNote"  # lives in the browser alone: no inputs, and the server never hears of it


@dataclass(frozen=True)
class Node:
    """One node of a graph: `values` are the widgets that differ from their default, `links` name (node id, output)."""

    id: int
    type: str
    pos: tuple[int, int]
    size: tuple[int, int]
    values: dict = field(default_factory=dict)
    links: dict[str, tuple[int, int]] = field(default_factory=dict)
    title: str | None = None


@dataclass(frozen=True)
class Workflow:
    """The nodes of one graph; `thumbnail` names those whose pictures make its thumbnail, none if it needs a download."""

    nodes: list[Node]
    thumbnail: tuple[int, ...]


SAMPLER, LOADER = (340, 720), (320, 196)  # width and height in the browser; a live preview needs the lower 200
EXACT, MAXIMAL, SJD, PLAIN = "seed-exact (Gumbel)", "MC-SJD (maximal)", "SJD (independent)", "plain AR"


def note(id: int, pos: tuple[int, int], size: tuple[int, int], text: str) -> Node:
    return Node(id, NOTE, pos, size, {"text": text}, title="What to try")


def loader(id: int = 1) -> Node:
    return Node(id, "MCSJD_LoadModel", (0, 0), LOADER)


def prompt_and_seed(prompt: str, seed: int, y: int = 246) -> list[Node]:
    """Nodes 2 and 3: one prompt and one seed for every sampler of a graph."""
    return [
        Node(2, "PrimitiveStringMultiline", (0, y), (320, 110), {"value": prompt}, title="Prompt"),
        Node(3, "PrimitiveInt", (0, y + 160), (320, 84), {"value": seed}, title="Seed"),
    ]


def method(first: int, x: int, title: str, values: dict, links: dict | None = None) -> list[Node]:
    """Sampler, Decode and PreviewImage with the ids `first`, `first` + 1 and `first` + 2, one below the other."""
    links = {"model": (1, 0), "prompt": (2, 0), "seed": (3, 0)} | (links or {})
    return [
        Node(first, "MCSJD_Sampler", (x, 0), SAMPLER, values, links, title=title),
        Node(first + 1, "MCSJD_Decode", (x, 770), (340, 46), {}, {"model": (1, 0), "tokens": (first, 0)}),
        Node(first + 2, "PreviewImage", (x, 866), (340, 340), {}, {"images": (first + 1, 0)}),
    ]


def quickstart() -> Workflow:
    text = """\
## MC-SJD quickstart

Press **Run**: the embedded model draws emoji, on any computer, without a download. The sampler shows the pictures while it \
draws them: guesses dimmed, the rest dark.

An autoregressive model draws a picture token by token, one forward each. Here one forward checks a whole window of \
guessed tokens, so fewer are needed, and the pictures still follow exactly the model's own distribution. \
The report says how many forwards it took.

**Try**
- **coupling** *plain AR*, same seed: the yardstick. Compare forwards and seconds.
- **coupling** *seed-exact (Gumbel)*: the very picture of *plain AR*, in fewer forwards.
- **coupling** *SJD (independent)*: the older method, more forwards as a rule.
- **window** 16 or 128, **cfg** 1 (no guidance) or 3.
- **prompt** rocket, cat face, green heart, smiling face with sunglasses.

Every input explains itself when the mouse rests on it. Other models go below *models/mcsjd*, each in its own directory.
"""
    return Workflow(
        [
            loader(),
            Node(2, "MCSJD_Sampler", (370, 0), SAMPLER, {"batch_size": 4}, {"model": (1, 0)}),
            Node(3, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (3, 0)}),
            Node(5, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (2, 1), "image": (3, 0)}),
            note(6, (0, 246), (320, 474), text),
            Node(7, "PreviewImage", (1620, 0), (460, 480), {}, {"images": (5, 2)}, title="Acceptance map"),
        ],
        thumbnail=(4,),
    )


def comparison() -> Workflow:
    text = """\
## Three ways to draw, one seed

*plain AR* takes one forward a token. *SJD* checks a window of guesses and redraws what lies behind the first wrong one. \
*MC-SJD* redraws it so that it changes as rarely as it can, so that as a rule more guesses \
hold; a single picture may say otherwise.

**Look at**
- the reports: forwards (NFE), tokens per forward, and the speed-up in measured seconds against *plain AR*.
- **acceptance**: how it moves from forward to forward under each of them.
- **collisions**: how likely a guess is drawn again.

The pictures differ from one another: each method draws from the same distribution, not the same picture. The \
next workflow draws the same one.

**Try** another **window**, **coupling** *MC-SJD (Gumbel)*, **cfg** 1. *record_details* is on for the charts and costs some \
time; turn it off to compare seconds.
"""
    detailed = {"record_details": True}
    nodes = [
        loader(),
        *prompt_and_seed("red apple", 1),
        *method(10, 370, "plain AR", {"coupling": PLAIN}),
        *method(20, 760, "SJD", {"coupling": SJD} | detailed),
        *method(30, 1150, "MC-SJD", {"coupling": MAXIMAL} | detailed),
        note(4, (0, 540), (320, 560), text),
    ]
    for x, first in ((1540, 20), (2240, 30)):
        stats = {"stats": (first, 1), "baseline": (10, 1), "image": (first + 1, 0)}
        title = f"Stats of {'SJD' if first == 20 else 'MC-SJD'}"
        nodes += [
            Node(first + 5, "MCSJD_Stats", (x, 0), (650, 430), {}, stats, title=title),
            Node(first + 6, "PreviewImage", (x, 480), (650, 726), {}, {"images": (first + 5, 1)}, title="Charts"),
            Node(
                first + 7, "PreviewImage", (x, 1256), (650, 480), {}, {"images": (first + 5, 2)}, title="Acceptance map"
            ),
        ]
    return Workflow(nodes, thumbnail=(12, 22, 32, 37))


def seed_exact() -> Workflow:
    text = """\
## The same picture, faster

*seed-exact* draws the very tokens that *plain AR* draws with the same seed, whatever the window: its noise belongs to the \
place, and a guess counts only if it is the token that AR would have drawn.

The difference image is **black** where both agree. (Two forwards of different shape can round differently; where two \
tokens are all but equally likely, a token can then differ. dtype *fp32* makes that rarest.)

**Try** another **seed**, **window** 16 or 128, **initialiser** *left*: the picture stays the same, only the number of \
forwards changes. With **coupling** *MC-SJD (maximal)* it becomes another one.
"""
    return Workflow(
        [
            loader(),
            *prompt_and_seed("rocket", 3),
            *method(10, 370, "plain AR", {"coupling": PLAIN}),
            *method(20, 760, "seed-exact", {"coupling": EXACT}),
            Node(
                30, "ImageBlend", (1150, 0), (340, 110), {"blend_factor": 1.0, "blend_mode": "difference"},
                {"image1": (11, 0), "image2": (21, 0)}, title="Difference",
            ),
            Node(31, "PreviewImage", (1150, 160), (340, 340), {}, {"images": (30, 0)}, title="Difference: black if equal"),
            Node(
                32, "MCSJD_Stats", (1150, 550), (340, 440), {"chart": "tokens per forward"},
                {"stats": (20, 1), "baseline": (10, 1), "image": (21, 0)},
            ),
            Node(33, "PreviewImage", (1540, 0), (520, 440), {}, {"images": (32, 1)}, title="Tokens per forward"),
            Node(34, "PreviewImage", (1540, 490), (520, 616), {}, {"images": (32, 2)}, title="Acceptance map"),
            note(4, (0, 540), (320, 430), text),
        ],
        thumbnail=(12, 22, 31, 33),
    )  # fmt: skip


def continuation() -> Workflow:
    text = """\
## Continue a picture

The picture on the left is read back into tokens (**Encode**), its upper 8 of 16 rows are kept (**Crop Tokens**), and the \
sampler draws four new lower halves.

**Try**
- a picture of your own: replace the first sampler and its Decode by *Load Image*, and connect it to **Encode**. It is \
scaled and cropped to the model's size.
- **rows** 4 or 12.
- another **prompt** for the second sampler: the upper half of one thing, the lower half of another.
- connect the first sampler's tokens to **Crop Tokens** directly: nothing is lost on the way through the codec.
"""
    return Workflow(
        [
            loader(),
            Node(2, "MCSJD_Sampler", (370, 0), SAMPLER, {"prompt": "cat face", "seed": 2}, {"model": (1, 0)}, title="A picture"),
            Node(3, "MCSJD_Decode", (370, 770), (340, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (370, 866), (340, 340), {}, {"images": (3, 0)}, title="Picture to continue"),
            Node(5, "MCSJD_Encode", (760, 0), (300, 80), {}, {"model": (1, 0), "image": (3, 0)}),
            Node(6, "MCSJD_CropTokens", (760, 130), (300, 60), {"rows": 8}, {"tokens": (5, 0)}),
            Node(
                7, "MCSJD_Sampler", (1110, 0), SAMPLER, {"prompt": "cat face", "seed": 100, "batch_size": 4},
                {"model": (1, 0), "first_tokens": (6, 0)}, title="Continue",
            ),
            Node(8, "MCSJD_Decode", (1500, 0), (300, 46), {}, {"model": (1, 0), "tokens": (7, 0)}),
            Node(9, "PreviewImage", (1500, 96), (520, 540), {}, {"images": (8, 0)}, title="Four continuations"),
            Node(10, "MCSJD_Stats", (2070, 0), (320, 420), {"chart": "tokens per forward"}, {"stats": (7, 1), "image": (8, 0)}),
            Node(11, "PreviewImage", (2070, 470), (520, 540), {}, {"images": (10, 2)}, title="Acceptance map"),
            note(12, (0, 246), (320, 480), text),
        ],
        thumbnail=(9,),
    )  # fmt: skip


def batch() -> Workflow:
    text = """\
## A batch, and what sets its pictures apart

Eight pictures are drawn together, in forwards that they share; each commits at its own pace, and a finished one costs \
nothing more. Picture k is the one that seed + k draws alone.

The charts cover the whole batch. **NFE against token difference** is the paper's figure 2: pictures whose guesses change \
less from forward to forward need fewer forwards.

**Try** **coupling** *SJD (independent)* and compare the same chart; **temperature** 0.7; **batch_size** 16. \
One setting of this graph at a time: what has not changed is not drawn again.
"""
    return Workflow(
        [
            loader(),
            Node(
                2, "MCSJD_Sampler", (370, 0), SAMPLER,
                {"prompt": "smiling face with sunglasses", "batch_size": 8, "record_details": True}, {"model": (1, 0)},
            ),
            Node(3, "MCSJD_Decode", (760, 0), (340, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (1150, 0), (560, 400), {}, {"images": (3, 0)}, title="Pictures"),
            Node(5, "MCSJD_Stats", (760, 100), (340, 520), {}, {"stats": (2, 1), "image": (3, 0)}),
            Node(6, "PreviewImage", (1150, 450), (560, 560), {}, {"images": (5, 1)}, title="Charts"),
            Node(7, "PreviewImage", (1760, 0), (560, 400), {}, {"images": (5, 2)}, title="Acceptance maps"),
            Node(
                8, "MCSJD_Stats", (1760, 450), (560, 420), {"chart": "NFE against token difference"}, {"stats": (2, 1)},
                title="One chart alone",
            ),
            Node(9, "PreviewImage", (1760, 920), (560, 460), {}, {"images": (8, 1)}, title="NFE against token difference"),
            note(10, (0, 246), (320, 440), text),
        ],
        thumbnail=(4,),
    )  # fmt: skip


def warm_start() -> Workflow:
    text = """\
## Change a setting, reuse the last tokens

You liked a picture and nudge a setting. With *seed-exact*, any guess is allowed, so the last picture's tokens are the \
first guesses (**initialiser** *warm*). Where nothing changed they are accepted in whole windows.

Left: the picture at cfg 1.5. Middle: cfg 1.6, drawn from scratch. Right: cfg 1.6 with warm tokens: **the same picture as in \
the middle**, as a rule in fewer forwards. The report compares the two.

How much it saves depends on where the first token changes: behind it, the picture is another one.

**Try** cfg 1.52 or 2 in both; **temperature** 0.95; another **prompt** on the right (then it helps little). Changing the \
two right samplers does not draw the left one again.
"""
    changed = {"coupling": EXACT, "cfg": 1.6}
    return Workflow(
        [
            loader(),
            *prompt_and_seed("green heart", 5),
            *method(10, 370, "First run", {"coupling": EXACT}),
            *method(20, 760, "cfg changed, from scratch", changed),
            *method(30, 1150, "cfg changed, warm", changed | {"initialiser": "warm"}, {"warm_tokens": (10, 0)}),
            Node(
                40, "MCSJD_Stats", (1540, 0), (420, 420), {"chart": "tokens per forward"},
                {"stats": (30, 1), "baseline": (20, 1), "image": (31, 0)}, title="Warm against from scratch",
            ),
            Node(41, "PreviewImage", (1540, 470), (420, 370), {}, {"images": (40, 1)}, title="Tokens per forward"),
            Node(42, "PreviewImage", (2010, 0), (480, 580), {}, {"images": (40, 2)}, title="Acceptance map"),
            note(4, (0, 540), (320, 520), text),
        ],
        thumbnail=(12, 32, 41, 42),
    )  # fmt: skip


def text_to_image(model: str, values: dict, text: str, note_height: int) -> Workflow:
    """A public model's graph: load, sample with `values`, decode, look at picture and stats; `text` is its note."""
    return Workflow(
        [
            Node(1, "MCSJD_LoadModel", (0, 0), LOADER, {"model": model}),
            Node(2, "MCSJD_Sampler", (370, 0), SAMPLER, values, {"model": (1, 0)}),
            Node(3, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (3, 0)}),
            Node(5, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (2, 1), "image": (3, 0)}),
            note(6, (0, 250), (320, note_height), text),
        ],
        thumbnail=(),
    )


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
    values = {"prompt": "a red fox in the snow, golden hour", "window": 32, "cfg": 3.0, "top_k": 2000}
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
    values = {"prompt": "a lighthouse on a cliff at sunset", "cfg": 5.0, "top_k": 0, "batch_size": 4}
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
            Node(2, "MCSJD_ImageNetClass", (0, 250), (320, 60)),
            Node(
                3, "MCSJD_Sampler", (370, 0), SAMPLER, {"cfg": 4.0, "top_k": 2000, "batch_size": 4},
                {"model": (1, 0), "prompt": (2, 0)},
            ),
            Node(4, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (3, 0)}),
            Node(5, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (4, 0)}),
            Node(6, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (3, 1), "image": (4, 0)}),
            note(7, (0, 360), (320, 640), text),
        ],
        thumbnail=(),
    )  # fmt: skip


def emu3() -> Workflow:
    text = """\
## Emu3-Gen: 720 px from text

Needs the directory **Emu3-Gen** below *models/mcsjd*, and in it **Emu3-VisionTokenizer** (35 GB together): add the node \
**MC-SJD Get Model**, choose *Emu3-Gen*, and press **R** afterwards. `python -m mcsjd_core download Emu3-Gen` does the same. \
Until then, any other model of the menu runs this graph. In bf16 the weights take 17 GB of memory.

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
        "top_k": 2048,
    }
    return text_to_image("Emu3-Gen", values, text, note_height=560)


WORKFLOWS = {
    "1_quickstart": quickstart(),
    "2_ar_sjd_and_mc-sjd": comparison(),
    "3_seed_exact": seed_exact(),
    "4_continue_a_picture": continuation(),
    "5_batch_with_stats": batch(),
    "6_warm_start": warm_start(),
    "7_lumina_mgpt": lumina(),
    "8_janus_pro": janus(),
    "9_llamagen": llamagen(),
    "10_emu3": emu3(),
}
