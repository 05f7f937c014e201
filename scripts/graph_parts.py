"""What the example graphs are made of: nodes, workflows, and the pieces that several graphs share."""

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


SAMPLER, LOADER = (340, 810), (320, 220)  # width and height in the browser; a live preview needs the lower 200
EXACT, MAXIMAL, SJD, PLAIN = "seed-exact (Gumbel)", "MC-SJD (maximal)", "SJD (independent)", "plain AR"


def note(id: int, pos: tuple[int, int], size: tuple[int, int], text: str) -> Node:
    return Node(id, NOTE, pos, size, {"text": text}, title="What to try")


def loader(id: int = 1) -> Node:
    return Node(id, "MCSJD_LoadModel", (0, 0), LOADER)


def prompt_and_seed(prompt: str, seed: int, y: int = 270) -> list[Node]:
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
        Node(first + 1, "MCSJD_Decode", (x, SAMPLER[1] + 50), (340, 46), {}, {"model": (1, 0), "tokens": (first, 0)}),
        Node(first + 2, "PreviewImage", (x, SAMPLER[1] + 146), (340, 340), {}, {"images": (first + 1, 0)}),
    ]


def text_to_image(model: str, values: dict, text: str, note_height: int) -> Workflow:
    """A public model's graph: load, sample with `values`, decode, look at picture and stats; `text` is its note."""
    return Workflow(
        [
            Node(1, "MCSJD_LoadModel", (0, 0), LOADER, {"model": model}),
            Node(2, "MCSJD_Sampler", (370, 0), SAMPLER, values, {"model": (1, 0)}),
            Node(3, "MCSJD_Decode", (760, 0), (300, 46), {}, {"model": (1, 0), "tokens": (2, 0)}),
            Node(4, "PreviewImage", (1110, 0), (460, 480), {}, {"images": (3, 0)}),
            Node(5, "MCSJD_Stats", (760, 100), (300, 420), {}, {"stats": (2, 1), "image": (3, 0)}),
            note(6, (0, 274), (320, note_height), text),
        ],
        thumbnail=(),
    )
