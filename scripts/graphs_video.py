"""Example graphs that draw video: the embedded model's, and the one of the public Cosmos models."""

from __future__ import annotations

from dataclasses import replace

from graph_parts import COLUMNS, SAMPLER, SMALL, STATS, Node, Workflow, below, first_run, loader, note, shown, stats

CHART = "compression by frame"


def video_graph(load: Node, start: Node, values: dict, text: str, before: tuple[Node, ...] = ()) -> Workflow:
    """Load, sample with `values` from the frame of the node `start` (id 2), decode, save the video, look at frames and stats.

    `before` stands above the loader; `text` is the note.
    """
    x, right = COLUMNS[2], COLUMNS[2] + 460
    return Workflow(
        [
            *before,
            load,
            start,
            note(10, (0, below(start)), (340, 400), text, SMALL),
            Node(3, "MCSJD_Sampler", (COLUMNS[1], 0), SAMPLER, values, {"model": (1, 0), "start_frames": (2, 0)}),
            Node(4, "MCSJD_DecodeVideo", (x, 0), (400, 110), {}, {"model": (1, 0), "tokens": (3, 0)}),
            stats(7, (x, 230), STATS, {"chart": CHART}, stats=(3, 1), image=(4, 0)),
            shown(8, (x, 800), (400, 340), (7, 1), "Compression by frame"),
            Node(
                5, "SaveVideo", (right, 0), (520, 610), {"filename_prefix": "video/MC-SJD"}, {"video": (4, 1)},
                title="Save Video",
            ),
            shown(6, (right, 730), (520, 410), (4, 0), "All frames"),
        ],
        thumbnail=(6,),
    )  # fmt: skip


def quickstart() -> Workflow:
    text = """\
## Video quickstart

Press **Run**: the embedded video model gets one frame and a sentence, and draws what happens next. No download. **Save Video** \
plays the video and keeps it in ComfyUI's *output/video*.

Neighbouring frames are alike, so many guesses are accepted. The chart shows this for each code frame (4 frames of the video).

**Try**
- **prompt** *the camera follows the red apple right*, *the camera pans left past the red apple*. It should name what the frame \
shows.
- another **frame**, and its name in the prompt.
- **initialiser** *previous_frame*: a token's first guess is the one in the same position one code frame earlier.
"""
    prompt = "the red apple moves right"
    load = loader(model="embedded: motion")
    start = Node(2, "MCSJD_ExampleFrame", (0, below(load)), (340, 60), {"frame": prompt})
    return video_graph(load, start, {"prompt": prompt}, text)


def cosmos() -> Workflow:
    text = f"""\
## Cosmos: continue a video

Sign in at huggingface.co, accept NVIDIA's licence on the pages of *Cosmos-Predict1-4B* and *Cosmos-Tokenize1-DV8x16x16-720p*, \
and make your access token known on this computer with `hf auth login`. \
{first_run("8.3 GB")}

33 frames of 1024x640, 25 per second: 12,800 tokens, of which 10,240 are drawn after one start frame. This model reads no text.

**Try**
- **9 frames** to start from: *Load Video*, *Get Video Components*, their images into **start_frames**.
- **Cosmos-Predict1-12B**, and the models that read a text, **-5B-Video2World** and **-13B-Video2World**, which need \
*Load CLIP* with *oldt5_xxl_fp16.safetensors*, type *cosmos*, in **text_encoder**.
- a second sampler with the first one's tokens in **continue_video**: a longer video, which *Decode Video* joins.
- **frames** 9 or 17: shorter videos. **initialiser** *previous_frame*.
"""
    name = "Cosmos-Predict1-4B"
    get = Node(9, "MCSJD_GetModel", (0, 0), (340, 260), {"model": name}, title="1. Get the model, once")
    load = loader(1, below(get), model=name)
    start = Node(2, "LoadImage", (0, below(load)), (340, 314), {"image": "example.png"}, title="First frame")
    graph = video_graph(load, start, {"prompt": ""}, text, before=(get,))
    nodes = [
        replace(node, pos=(COLUMNS[2] + 1040, 0), size=(340, 500)) if node.id == 10 else node for node in graph.nodes
    ]
    return Workflow(nodes, thumbnail=())


GRAPHS = {"MC-SJD 11 Video quickstart": quickstart(), "MC-SJD 12 Cosmos video": cosmos()}
