"""Example graphs of the embedded model: they run on any computer, without a download."""

from __future__ import annotations

from graph_parts import (
    BELOW,
    COLUMNS,
    DECODE,
    EXACT,
    MAXIMAL,
    NOTE_BELOW_SEED,
    PLAIN,
    SAMPLER,
    SJD,
    STATS,
    Node,
    Workflow,
    below,
    loader,
    method,
    note,
    prompt_and_seed,
    saved,
    shown,
    stats,
)

PROMPT, OTHER, REDRAWN = "a red apple on grass", "a rocket in a starry sky", "a pumpkin on grass"


def quickstart() -> Workflow:
    text = """\
## MC-SJD quickstart

Press **Run**: four pictures, drawn by the small model that comes with the pack. No download, no graphics card needed.

Such a model draws token by token. Here one forward checks a whole window of guessed tokens, so fewer forwards are needed; the \
pictures still follow the model's own distribution exactly. The report's first line says how many it took.

**Try**
- another **seed**: other pictures. The next one repeats three of these four; **batch_seeds** *new with every seed* repeats none.
- another **prompt**: *a panda in front of autumn trees*, *a rocket in a starry sky*, *a blue car in a city*.
- **coupling** *plain AR*: the baseline.
- **coupling** *seed-exact*: the pictures of *plain AR*, in fewer forwards.
"""
    load = loader()
    decode = Node(3, "MCSJD_Decode", (COLUMNS[2], 0), (400, 46), {}, {"model": (1, 0), "tokens": (2, 0)})
    right = COLUMNS[2] + 460
    return Workflow(
        [
            load,
            Node(
                2,
                "MCSJD_Sampler",
                (COLUMNS[1], 0),
                SAMPLER,
                {"prompt": PROMPT, "batch_size": 4},
                {"model": (1, 0)},
            ),
            decode,
            saved(4, (right, 0), (480, 520), (3, 0), "quickstart", "Pictures"),
            stats(5, (COLUMNS[2], 160), STATS, {}, stats=(2, 1), image=(3, 0)),
            note(6, (0, below(load)), (340, 520), text),
            shown(7, (right, 620), (480, 460), (5, 2), "Acceptance map: tokens committed together"),
        ],
        thumbnail=(4,),
        app=([(2, "prompt"), (2, "seed"), (2, "coupling"), (2, "batch_size")], [4, 5]),
    )


def comparison() -> Workflow:
    text = """\
## MC-SJD against SJD

Both check a window of guesses in one forward. After the first wrong guess *SJD* guesses anew; *MC-SJD* changes as few \
guesses as it can, so that they settle.

The report compares the two. The chart shows why: how likely a guess is to be accepted, by its age in forwards. \
The further apart the lines, the more the coupling gains.

**Try** another **seed** or **prompt**, **coupling** *MC-SJD (Gumbel)*, or *plain AR* on the left.
"""
    detailed = {"record_details": True, "batch_size": 8}
    x, right = COLUMNS[3], COLUMNS[3] + 460
    return Workflow(
        [
            loader(),
            *prompt_and_seed(PROMPT, 1),
            note(4, (0, NOTE_BELOW_SEED), (340, 400), text),
            *method(10, 1, "SJD", {"coupling": SJD} | detailed),
            *method(20, 2, "MC-SJD", {"coupling": MAXIMAL} | detailed),
            saved(12, (x, 0), (400, 540), (11, 0), "SJD", "Pictures of SJD"),
            saved(22, (x, 640), (400, 540), (21, 0), "MC-SJD", "Pictures of MC-SJD"),
            stats(
                25, (right, 640), (620, 470), {"chart": "acceptance trajectories"}, "MC-SJD, with SJD as the baseline",
                stats=(20, 1), baseline=(10, 1), image=(21, 0),
            ),
            shown(26, (right, 0), (620, 520), (25, 1), "Acceptance of guesses, by age"),
        ],
        thumbnail=(12, 22, 26),
    )  # fmt: skip


def three_ways(methods: list[tuple[str, dict, dict]], name: str, differences: list[tuple[int, int, str]]) -> list[Node]:
    """Three samplers of one prompt and seed (ids 10, 20, 30), their pictures, and the differences of two pairs.

    `methods` are (title, values, links); a difference is (first, second, title) of samplers. They have the ids 40 to 43.
    What must be seen is not at the lower right, where the browser's map of the graph lies.
    """
    nodes, x = [], COLUMNS[4]
    for index, (title, values, links) in enumerate(methods):
        first = 10 * (index + 1)
        nodes += method(first, 1 + index, title, values, links)
        nodes.append(saved(first + 2, (x, 410 * index), (360, 330), (first + 1, 0), f"{name} {index + 1}", title))
    for index, (one, other, title) in enumerate(differences):
        y = SAMPLER[1] + 70 + DECODE[1] + BELOW
        blend = {"blend_factor": 1.0, "blend_mode": "difference"}
        links = {"image1": (one + 1, 0), "image2": (other + 1, 0)}
        nodes.append(Node(40 + 2 * index, "ImageBlend", (COLUMNS[2 + index], y), (340, 110), blend, links, title=title))
        nodes.append(shown(41 + 2 * index, (x + 420, 320 * index), (360, 210), (40 + 2 * index, 0), title))
    return nodes


def seed_exact() -> Workflow:
    text = """\
## The same picture, faster

*seed-exact* draws the very picture that *plain AR* draws with this seed. *MC-SJD* draws another one from the same distribution.

A difference is **black** where two pictures agree. (Where two tokens are almost equally likely, rounding can tip the \
balance; this is rarest with dtype *fp32*.)

**Try** another **seed**; **window** 16 in the middle: the same picture.
"""
    names = {"plain AR": PLAIN, "seed-exact": EXACT, "MC-SJD": MAXIMAL}
    ways = [(title, {"coupling": coupling}, {}) for title, coupling in names.items()]
    differences = [(10, 20, "plain AR - seed-exact"), (10, 30, "plain AR - MC-SJD")]
    return Workflow(
        [
            loader(),
            *prompt_and_seed(OTHER, 3),
            note(4, (0, NOTE_BELOW_SEED), (340, 400), text),
            *three_ways(ways, "seed-exact", differences),
            stats(
                50, (COLUMNS[4] + 420, 640), (360, 470), {"chart": "tokens per forward"}, "seed-exact against plain AR",
                stats=(20, 1), baseline=(10, 1), image=(21, 0),
            ),
        ],
        thumbnail=(12, 22, 32, 43),
    )  # fmt: skip


def warm_start() -> Workflow:
    text = """\
## Change a setting, reuse the last tokens

You like a picture and want to change a setting a little. *seed-exact* takes the last picture's tokens as first guesses \
(**initialiser** *warm*), and where nothing changes whole windows of them are accepted.

The right picture is **the same as the middle one**, which starts from scratch: their difference is black. The report says what \
the warm tokens saved.

**Try** another **temperature**, the same in the middle and right samplers.
"""
    changed = {"coupling": EXACT, "temperature": 0.95}
    ways = [
        ("First run", {"coupling": EXACT}, {}),
        ("Changed, from scratch", changed, {}),
        ("Changed, warm", changed | {"initialiser": "warm"}, {"warm_tokens": (10, 0)}),
    ]
    differences = [(20, 30, "from scratch - warm"), (10, 30, "first run - changed")]
    return Workflow(
        [
            loader(),
            *prompt_and_seed(PROMPT, 10),
            note(4, (0, NOTE_BELOW_SEED), (340, 400), text),
            *three_ways(ways, "warm", differences),
            stats(
                50, (COLUMNS[4] + 420, 640), (360, 470), {"chart": "tokens per forward"}, "Warm against from scratch",
                stats=(30, 1), baseline=(20, 1), image=(31, 0),
            ),
        ],
        thumbnail=(12, 22, 32, 43),
    )  # fmt: skip


def from_a_picture(
    seed: int, title: str, between: list[Node], values: dict, links: dict, text: str, name: str
) -> Workflow:
    """A first picture of that seed (ids 2 to 4), nodes `between` it and a second sampler (id 7), its pictures and stats."""
    load = loader()
    x, right = COLUMNS[2], COLUMNS[4]
    return Workflow(
        [
            load,
            note(12, (0, below(load)), (340, 520), text),
            Node(
                2,
                "MCSJD_Sampler",
                (COLUMNS[1], 0),
                SAMPLER,
                {"prompt": PROMPT, "seed": seed},
                {"model": (1, 0)},
                title="A picture",
            ),
            Node(3, "MCSJD_Decode", (x, 0), DECODE, {}, {"model": (1, 0), "tokens": (2, 0)}),
            shown(4, (x, 160), (340, 330), (3, 0), "The picture"),
            *between,
            Node(7, "MCSJD_Sampler", (COLUMNS[3], 0), SAMPLER, values, {"model": (1, 0)} | links, title=title),
            Node(8, "MCSJD_Decode", (right, 0), (400, 46), {}, {"model": (1, 0), "tokens": (7, 0)}),
            saved(9, (right, 160), (400, 310), (8, 0), name, title),
            stats(10, (right, 560), (400, 450), {"chart": "tokens per forward"}, stats=(7, 1), image=(8, 0)),
        ],
        thumbnail=(4, 9),
    )


def continuation() -> Workflow:
    text = """\
## Continue a picture

The first picture is turned back into tokens (**Encode**), its upper 6 rows are kept (**Crop Tokens**), and all that is below \
them is drawn anew, four times.

**Try**
- a picture of your own: *Load Image* instead of the first sampler and its Decode.
- **rows** 12 or 18; another **prompt** for the second sampler.
- the first sampler's tokens directly into **Crop Tokens**: then nothing is lost in the codec.
"""
    between = [
        Node(5, "MCSJD_Encode", (COLUMNS[2], 590), (340, 80), {}, {"model": (1, 0), "image": (3, 0)}),
        Node(6, "MCSJD_CropTokens", (COLUMNS[2], 800), (340, 60), {"rows": 6}, {"tokens": (5, 0)}),
    ]
    values = {"prompt": PROMPT, "seed": 300, "batch_size": 4}
    return from_a_picture(7, "Continued", between, values, {"first_tokens": (6, 0)}, text, "continued")


def redraw() -> Workflow:
    text = """\
## Redraw a part

The first picture's tokens stay where the mask is black, and are redrawn where it is white; here four times, with another \
prompt.

Tokens are drawn from top left to bottom right: a new one takes into account what comes before it, not what comes after.

**Try**
- a picture of your own: *Load Image*, paint the part in its mask editor; its **IMAGE** through **Encode** into \
**picture_tokens**, its **MASK** into **redraw_mask**.
- another **prompt** for the second sampler.
"""
    x = COLUMNS[2]
    between = [
        Node(5, "SolidMask", (x, 590), (340, 106), {"value": 0.0, "width": 192, "height": 192}, title="Keep"),
        Node(6, "SolidMask", (x, 790), (340, 106), {"value": 1.0, "width": 176, "height": 152}, title="Redraw"),
        Node(
            11, "MaskComposite", (x, 990), (340, 126), {"x": 8, "y": 16, "operation": "add"},
            {"destination": (5, 0), "source": (6, 0)}, title="Where to redraw",
        ),
    ]  # fmt: skip
    values = {"prompt": REDRAWN, "seed": 300, "batch_size": 4}
    links = {"picture_tokens": (2, 0), "redraw_mask": (11, 0)}
    return from_a_picture(2, "Redrawn", between, values, links, text, "redrawn")


def batch() -> Workflow:
    text = """\
## A batch and its charts

Eight pictures share their forwards; each advances at its own pace, and a finished one costs nothing more. Picture k, \
counted from 0, is the one that seed + k draws alone.

The charts are of the whole batch. *NFE against token difference* is the paper's figure 2: a dot for each picture, placed by how \
many guesses each forward changed and how many forwards the picture took.

**Try** **coupling** *SJD (independent)*, another **temperature**, **batch_size** 16.
"""
    load, x = loader(), COLUMNS[2]
    right = x + 460
    return Workflow(
        [
            load,
            note(10, (0, below(load)), (340, 520), text),
            Node(
                2, "MCSJD_Sampler", (COLUMNS[1], 0), SAMPLER,
                {"prompt": PROMPT, "batch_size": 8, "record_details": True}, {"model": (1, 0)},
            ),
            Node(3, "MCSJD_Decode", (x, 0), (400, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            stats(5, (x, 160), (400, 520), {}, stats=(2, 1), image=(3, 0)),
            saved(4, (x, 780), (400, 380), (3, 0), "batch", "Pictures"),
            shown(6, (right, 0), (640, 700), (5, 1), "Charts: click one to enlarge it"),
            shown(7, (right, 780), (640, 380), (5, 2), "Acceptance maps"),
        ],
        thumbnail=(4,),
    )  # fmt: skip


def sheet() -> Workflow:
    text = """\
## A sheet of prompts

One prompt on each line, all drawn in one run, in shared forwards. Line k, counted from 0, gives the picture that its prompt \
draws alone with seed + k.

**Try** lines of your own; **batch_size** 2: two pictures of each prompt.
"""
    load, x = loader(), COLUMNS[2]
    prompts = Node(3, "MCSJD_PromptList", (0, below(load)), (340, 200), {}, title="One prompt on each line")
    return Workflow(
        [
            load,
            prompts,
            note(7, (0, below(prompts)), (340, 300), text),
            Node(2, "MCSJD_Sampler", (COLUMNS[1], 0), SAMPLER, {"prompt": ""}, {"model": (1, 0), "prompts": (3, 0)}),
            Node(4, "MCSJD_Decode", (x, 0), (400, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            stats(6, (x, 160), STATS, {"chart": "tokens per forward"}, stats=(2, 1), image=(4, 0)),
            saved(5, (x + 460, 0), (600, 640), (4, 0), "sheet", "Sheet"),
        ],
        thumbnail=(5,),
    )


GRAPHS = {
    "MC-SJD 01 Quickstart": quickstart(),
    "MC-SJD 02 Compare with SJD": comparison(),
    "MC-SJD 03 Seed-exact": seed_exact(),
    "MC-SJD 04 Continue a picture": continuation(),
    "MC-SJD 05 Batch and charts": batch(),
    "MC-SJD 06 Warm start": warm_start(),
    "MC-SJD 13 Redraw a part": redraw(),
    "MC-SJD 14 Sheet of prompts": sheet(),
}
