"""What the example graphs are made of: nodes, workflows, and the pieces that several graphs share.

Positions leave room for Nodes 2.0, which draws nodes taller than a graph saves them: GAP between columns, and below a node
as much as its type grows.
"""

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
    font_size: int | None = None  # of a note's text, in pixels before zoom; `web/js/notes.js` reads it


@dataclass(frozen=True)
class Workflow:
    """The nodes of one graph; `thumbnail` names those whose pictures make its thumbnail, none if it needs a download.

    `app` says what App mode shows: (node id, widget) to fill in, and the nodes whose results it shows.
    """

    nodes: list[Node]
    thumbnail: tuple[int, ...]
    app: tuple[list[tuple[int, str]], list[int]] | None = None


# Width and height in the browser. The lower 200 of a sampler are for its live preview.
LOADER, SAMPLER, STATS, DECODE = (340, 320), (340, 980), (400, 470), (340, 46)
SMALL = 12  # font size of long notes
GAP, BELOW = 60, 100  # between columns; below a node that grows
COLUMNS = [column * (340 + GAP) for column in range(6)]
EXACT, MAXIMAL, SJD, PLAIN = "seed-exact (Gumbel)", "MC-SJD (maximal)", "SJD (independent)", "plain AR"


def note(id: int, pos: tuple[int, int], size: tuple[int, int], text: str, font_size: int = 14) -> Node:
    return Node(id, NOTE, pos, size, {"text": text}, title="What to try", font_size=font_size)


def first_run(gigabytes: str) -> str:
    """How a note says what fetches a public model."""
    return (
        "Press **Run**: *Get Model* shows size and licence, and downloads nothing yet. If you agree, switch **accept_licence** "
        f"on and press **Run**: {gigabytes} are downloaded, once. Then press **R** and **Run** again: the graph draws."
    )


def loader(id: int = 1, y: int = 0, **values) -> Node:
    return Node(id, "MCSJD_LoadModel", (0, y), LOADER, values)


def below(node: Node, room: int = BELOW) -> int:
    """Where the next node of a column begins."""
    return node.pos[1] + node.size[1] + room


def saved(id: int, pos: tuple[int, int], size: tuple[int, int], images: tuple[int, int], name: str, title: str) -> Node:
    """A Save Image node; its files lie in ComfyUI's output/MC-SJD."""
    return Node(id, "SaveImage", pos, size, {"filename_prefix": f"MC-SJD/{name}"}, {"images": images}, title=title)


def shown(id: int, pos: tuple[int, int], size: tuple[int, int], images: tuple[int, int], title: str) -> Node:
    return Node(id, "PreviewImage", pos, size, {}, {"images": images}, title=title)


def prompt_and_seed(prompt: str, seed: int) -> list[Node]:
    """Nodes 2 and 3, below the loader: one prompt and one seed for every sampler of a graph."""
    y = LOADER[1] + BELOW
    return [
        Node(2, "PrimitiveStringMultiline", (0, y), (340, 110), {"value": prompt}, title="Prompt"),
        Node(3, "PrimitiveInt", (0, y + 190), (340, 84), {"value": seed}, title="Seed"),
    ]


NOTE_BELOW_SEED = LOADER[1] + BELOW + 190 + 84 + BELOW


def method(first: int, column: int, title: str, values: dict, links: dict | None = None) -> list[Node]:
    """Sampler and Decode with the ids `first` and `first` + 1, one below the other.

    Without live previews: such graphs compare seconds, and in Nodes 2.0 a preview makes the sampler reach over Decode.
    """
    values = {"live_preview": False} | values
    links = {"model": (1, 0), "prompt": (2, 0), "seed": (3, 0)} | (links or {})
    x = COLUMNS[column]
    sampler = Node(first, "MCSJD_Sampler", (x, 0), SAMPLER, values, links, title=title)
    return [
        sampler,
        Node(first + 1, "MCSJD_Decode", (x, below(sampler, 70)), DECODE, {}, {"model": (1, 0), "tokens": (first, 0)}),
    ]


def stats(
    id: int, pos: tuple[int, int], size: tuple[int, int], values: dict, title: str | None = None, **links
) -> Node:
    return Node(id, "MCSJD_Stats", pos, size, values, links, title=title)


def text_to_image(model: str, values: dict, text: str, note_height: int = 420, download: str | None = None) -> Workflow:
    """A public model's graph: get, load, sample with `values`, decode, look at pictures and stats; `text` is its note.

    `download` is the model's name in Get Model, where that is not the one in Load Model.
    """
    get = Node(5, "MCSJD_GetModel", (0, 0), (340, 300), {"model": download or model}, title="1. Get the model, once")
    load = loader(1, below(get), model=model)
    return Workflow(
        [
            get,
            load,
            note(7, (0, below(load)), (340, note_height), text, SMALL),
            Node(2, "MCSJD_Sampler", (COLUMNS[1], 0), SAMPLER, values, {"model": (1, 0)}),
            Node(3, "MCSJD_Decode", (COLUMNS[2], 0), (400, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            stats(6, (COLUMNS[2], 160), STATS, {}, stats=(2, 1), image=(3, 0)),
            saved(4, (COLUMNS[2] + 460, 0), (600, 640), (3, 0), model.split("/")[0], "Pictures"),
        ],
        thumbnail=(),
    )
