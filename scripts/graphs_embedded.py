"""Example graphs of the embedded model: they run on any computer, without a download."""

from __future__ import annotations

from graph_parts import (
    EXACT,
    MAXIMAL,
    PLAIN,
    SAMPLER,
    SJD,
    Node,
    Workflow,
    loader,
    method,
    note,
    prompt_and_seed,
)


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
- **window** 16 or 128, or 0: chosen while drawing by what is fastest. **cfg** 1 (no guidance) or 3.
- **prompt** pizza, cat face, house, smiling face with sunglasses.

Every input explains itself when the mouse rests on it. Other models go below *models/mcsjd*, each in its own directory.
"""
    return Workflow(
        [
            loader(),
            Node(2, "MCSJD_Sampler", (370, 0), SAMPLER, {"batch_size": 4}, {"model": (1, 0)}),
            Node(3, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (3, 0)}),
            Node(5, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (2, 1), "image": (3, 0)}),
            note(6, (0, 270), (320, 474), text),
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
        note(4, (0, 564), (320, 560), text),
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
            *prompt_and_seed("pizza", 3),
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
            note(4, (0, 564), (320, 430), text),
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
            Node(3, "MCSJD_Decode", (370, SAMPLER[1] + 50), (340, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (370, SAMPLER[1] + 146), (340, 340), {}, {"images": (3, 0)}, title="Picture to continue"),
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
            note(12, (0, 270), (320, 480), text),
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
            note(10, (0, 270), (320, 440), text),
        ],
        thumbnail=(4,),
    )  # fmt: skip


def warm_start() -> Workflow:
    text = """\
## Change a setting, reuse the last tokens

You liked a picture and nudge a setting. With *seed-exact*, any guess is allowed, so the last picture's tokens are the \
first guesses (**initialiser** *warm*). Where nothing changed they are accepted in whole windows.

Left: the picture at cfg 1.2. Middle: cfg 1.4, drawn from scratch. Right: cfg 1.4 with warm tokens: **the same picture as in \
the middle**, as a rule in fewer forwards. The report compares the two.

How much it saves depends on where the first token changes: behind it, the picture is another one.

**Try** cfg 1.22 or 2 in both; **temperature** 0.35; another **prompt** on the right (then it helps little). Changing the \
two right samplers does not draw the left one again.
"""
    changed = {"coupling": EXACT, "cfg": 1.4}
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
            note(4, (0, 564), (320, 520), text),
        ],
        thumbnail=(12, 32, 41, 42),
    )  # fmt: skip


GRAPHS = {
    "1_quickstart": quickstart(),
    "2_ar_sjd_and_mc-sjd": comparison(),
    "3_seed_exact": seed_exact(),
    "4_continue_a_picture": continuation(),
    "5_batch_with_stats": batch(),
    "6_warm_start": warm_start(),
}
