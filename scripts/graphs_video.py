"""Example graphs that draw video: the embedded model's, and the one of the public Cosmos models."""

from __future__ import annotations

from graph_parts import LOADER, SAMPLER, Node, Workflow, note

CHART = "compression by frame"


def video_graph(model: str, start: Node, values: dict, text: str, frame_width: int) -> Workflow:
    """Load, sample with `values` from the frame of the node `start` (id 2), decode, save the video, look at frames and stats.

    `text` is the note; `frame_width` is that of the node which shows the video.
    """
    right = 760 + 350 + frame_width + 50
    return Workflow(
        [
            Node(1, "MCSJD_LoadModel", (0, 0), LOADER, {"model": model}),
            start,
            Node(3, "MCSJD_Sampler", (370, 0), SAMPLER, values, {"model": (1, 0), "start_frames": (2, 0)}),
            Node(4, "MCSJD_DecodeVideo", (760, 0), (300, 110), {}, {"model": (1, 0), "tokens": (3, 0)}),
            Node(
                5, "SaveVideo", (1110, 0), (frame_width, 560), {"filename_prefix": "video/MC-SJD"}, {"video": (4, 1)},
                title="Save Video",
            ),
            Node(6, "PreviewImage", (right, 0), (560, 560), {}, {"images": (4, 0)}, title="All frames"),
            Node(7, "MCSJD_Stats", (760, 160), (300, 400), {"chart": CHART}, {"stats": (3, 1), "image": (4, 0)}),
            Node(8, "PreviewImage", (760, 610), (770, 440), {}, {"images": (7, 1)}, title="Compression by frame"),
            Node(9, "PreviewImage", (right, 610), (560, 440), {}, {"images": (7, 2)}, title="Acceptance map"),
            note(10, (0, start.pos[1] + start.size[1] + 50), (320, 640), text),
        ],
        thumbnail=(6,),
    )  # fmt: skip


def quickstart() -> Workflow:
    text = """\
## Video quickstart

Press **Run**: the embedded video model gets one frame and a sentence, and draws what happens next, on any computer, without a \
download. **Save Video** plays the video and keeps it in ComfyUI's *output/video*.

Neighbouring frames are alike, so guesses hold more often than in pictures, and one forward commits many tokens. The chart shows \
it by frame of codes (4 frames of the video each). The first one drawn is as a rule the most expensive: it has to find out what \
moves where.

**Try**
- **prompt** *the red apple bounces right*, *moves down*, *hops*, *stands still*. It should name what the frame shows.
- another **frame** in *Example Frame*, and its name in the prompt.
- **coupling** *plain AR*, same seed: the yardstick, a forward for every token.
- **initialiser** *previous_frame*: a token's first guess is the one at its place a frame back.
- **window** 16 or 128. **batch_size** 4: four videos, one after the other.
- a picture of your own: *Load Image* in place of *Example Frame*. The model knows emoji on plain backgrounds.
"""
    prompt = "the red apple moves right"
    start = Node(2, "MCSJD_ExampleFrame", (0, 270), (320, 60), {"frame": prompt})
    values = {"prompt": prompt, "cfg": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 0.8}
    return video_graph("embedded: emoji-motion", start, values, text, frame_width=420)


def cosmos() -> Workflow:
    text = """\
## Cosmos: go on with a video

Needs the directory **Cosmos-Predict1-4B** and beside it **Cosmos-Tokenize1-DV8x16x16-720p** below *models/mcsjd* (8.3 GB \
together): accept NVIDIA's licence on the pages of both at huggingface.co, log in, add the node **MC-SJD Get Model**, choose \
*Cosmos-Predict1-4B*, and press **R** afterwards. `python -m mcsjd_core download Cosmos-Predict1-4B` does the same. Until then, \
*embedded: emoji-motion* runs this graph.

A video has 33 frames of 1024x640, 25 a second: 12,800 tokens, 10,240 of them drawn after one frame. This model reads no text; \
leave the prompt empty. Temperature and top-p are the authors'.

**Try**
- **9 frames** to start from: *Load Video*, *Get Video Components*, and their images into **start_frames**. The last 9 count. \
By NVIDIA's figures far fewer videos fail then.
- **Cosmos-Predict1-12B**: **top_p** 0.9.
- the models that read a text, **Cosmos-Predict1-5B-Video2World** and *-13B-Video2World*: **top_p** 0.7 and 0.8. They need the \
encoder of T5-11B: *Load CLIP* with *oldt5_xxl_fp16.safetensors* or its fp8 file in *models/text_encoders*, type *cosmos*, \
connected to **text_encoder**; or the encoder as transformers saves it, in a folder *t5-11b* in or beside the model's.
- **Cosmos-1.0-Autoregressive** directories, with *encoder.jit* and *decoder.jit* in *Cosmos-1.0-Tokenizer-DV8x16x16* beside them.
- **frames** 9 or 17: shorter videos. **initialiser** *previous_frame*. **window** 16 to 128.
"""
    start = Node(2, "LoadImage", (0, 270), (320, 330), {"image": "example.png"}, title="First frame")
    values = {"prompt": "", "cfg": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 0.8}
    graph = video_graph("Cosmos-Predict1-4B", start, values, text, frame_width=560)
    return Workflow(graph.nodes, thumbnail=())


GRAPHS = {"11_video_quickstart": quickstart(), "12_cosmos_video_to_world": cosmos()}
