"""LlamaGen: files as they are published and as people have them, what is wrong with them, and the published sizes."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mcsjd_core
from mcsjd_core import Grid, InputError
from mcsjd_core.checkpoints.checkpoint import Checkpoint
from mcsjd_core.codecs.vq16 import VQ8, VQ16, vqgan_name
from mcsjd_core.codecs.vqgan import VQGAN
from mcsjd_core.families import llamagen
from mcsjd_core.families.llamagen import transformer_config
from mcsjd_core.families.llamagen_model import LlamaGenModel
from test_llamagen import (  # noqa: F401 - fixtures among them
    CODEC,
    CODES,
    DIM,
    FFN,
    HEADS,
    LAYERS,
    SIDE,
    WORDS,
    codec_state,
    folder,
    gpt_shapes,
    gpt_state,
    model_of,
    tiny,
)
from tiny_checkpoint import randomise

# -- files ---------------------------------------------------------------------------------------------------------------


def test_files_are_recognised_by_their_published_names(folder):
    assert mcsjd_core.detect(folder / f"c2i_B_{2 * SIDE}.pt") == "llamagen"
    assert mcsjd_core.detect(folder) is None  # two models: each is a checkpoint of its own
    assert mcsjd_core.detect(folder / "vq_ds16_c2i.pt") is None
    assert mcsjd_core.detect(folder / "c2i_B_999.pt") is None


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [("c2i_B_256.pt", "c2i", "256"), ("c2i_3B_384.pt", "c2i", "384"), ("t2i_XL_stage2_512.pt", "t2i", "512")],
)
def test_a_name_tells_kind_and_side(name, kind, side):
    match = llamagen.PUBLISHED.fullmatch(name)
    assert (match["kind"], match["side"]) == (kind, side)


def link(folder, tmp_path, *names: str) -> None:
    for name in names:
        (tmp_path / name).symlink_to(folder / name)


def test_a_directory_with_one_model_will_do(folder, tmp_path):
    link(folder, tmp_path, "c2i_B_8.pt", "vq_ds16_c2i.pt")
    assert mcsjd_core.detect(tmp_path) == "llamagen"
    assert mcsjd_core.load(tmp_path).sizes == ("8x8",)


def test_problems_are_told_in_one_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"holds several checkpoints, c2i_B_8\.pt, t2i_XL_stage1_8\.pt; give one"):
        mcsjd_core.load(folder)
    link(folder, tmp_path, "c2i_B_8.pt")
    with pytest.raises(InputError, match=r"vq_ds16_c2i\.pt is missing"):
        mcsjd_core.load(tmp_path)
    link(folder, tmp_path, "vq_ds16_c2i.pt")
    torch.save({"model": {k: v for k, v in gpt_state("c2i").items() if k != "output.weight"}}, tmp_path / "c2i_L_8.pt")
    with pytest.raises(InputError, match=r"1 missing: lm_head\.weight"):
        mcsjd_core.load(tmp_path / "c2i_L_8.pt")
    monkeypatch.delitem(llamagen.HEADS, (LAYERS, DIM))
    with pytest.raises(InputError, match="No LlamaGen of 2 layers of width 48"):
        mcsjd_core.load(tmp_path / "c2i_B_8.pt")


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_weights_are_found_under_the_keys_of_training_code(folder, tmp_path, wrapper):
    """The files of the largest models hold the tensors themselves, as sharded training saves them."""
    state = gpt_state("c2i")
    torch.save({wrapper: state, "steps": 7, "args": {"lr": 0.1}} if wrapper else state, tmp_path / "c2i_3B_8.pt")
    link(folder, tmp_path, "vq_ds16_c2i.pt")
    head = mcsjd_core.load(tmp_path).token_model.lm_head.weight
    assert torch.equal(head, state["output.weight"])


def test_a_file_that_would_run_code_is_not_opened(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    link(folder, tmp_path, "vq_ds16_c2i.pt")
    torch.save({"model": gpt_state("c2i"), "trap": Trap()}, tmp_path / "c2i_B_8.pt")
    with pytest.raises(InputError, match=r"c2i_B_8\.pt is not opened: .* could run code"):
        mcsjd_core.load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_the_tensors_tell_the_grid_where_the_name_tells_another(folder, tmp_path):
    angles = torch.zeros(1 + SIDE**2, 6, 2)  # of the one condition and the raster
    torch.save({"model": gpt_state("c2i") | {"freqs_cis": angles}}, tmp_path / f"c2i_B_{4 * SIDE}.pt")
    link(folder, tmp_path, "vq_ds16_c2i.pt")
    model = mcsjd_core.load(tmp_path)
    assert model.sizes == (f"{2 * SIDE}x{2 * SIDE}",) and model.grid(None) == Grid(SIDE, SIDE)


def test_codebooks_and_classes_of_one_s_own_training_load(tmp_path):
    state = gpt_state("c2i", codes=12)
    state["cls_embedding.embedding_table.weight"] = state["cls_embedding.embedding_table.weight"][:8]
    torch.save({"ema": {f"_orig_mod.{name}": t for name, t in state.items()}}, tmp_path / f"c2i_B_{2 * SIDE}.pt")
    codec = codec_state(randomise(VQGAN(replace(CODEC, codebook_size=12)), 0))
    torch.save({"model": codec}, tmp_path / "vq_ds16_c2i.pt")
    model = mcsjd_core.load(tmp_path)
    assert model.token_model.codebook_size == 12 and model.token_model.cls_embedding.classes == 7
    model.prompt(["6"], None, True)
    for text in ("7", "golden retriever"):
        with pytest.raises(InputError, match=f"7 classes of its own: give a number from 0 to 6, got '?{text}'?"):
            model.prompt([text], None, True)
    torch.save({"model": gpt_state("c2i")}, tmp_path / f"c2i_B_{2 * SIDE}.pt")
    with pytest.raises(InputError, match=rf"draws {CODES} codes, vq_ds16_c2i\.pt has 12"):
        mcsjd_core.load(tmp_path)


def test_a_text_is_no_class(folder):
    with pytest.raises(InputError, match="no ImageNet class"):
        model_of(folder, "c2i").prompt(["a red fox in the snow"], None, True)


# -- the published sizes -------------------------------------------------------------------------------------------------


class Shapes(Checkpoint):
    """A checkpoint of shapes alone."""

    def __init__(self, shapes: dict[str, list[int]]):
        self.files, self.shapes = shapes, shapes

    def shape(self, name):
        return self.shapes[name]

    def tensors(self, wanted=lambda name: True):
        return ((name, torch.empty(shape, device="meta")) for name, shape in self.shapes.items() if wanted(name))


@pytest.mark.parametrize(
    ("kind", "dim", "layers", "heads", "ffn", "parameters", "tensors"),
    [
        ("c2i", 768, 12, 12, 2048, 110_888_448, 88),
        ("c2i", 1024, 24, 16, 2816, 342_910_976, 172),
        ("c2i", 1280, 36, 20, 3584, 774_699_520, 256),
        ("t2i", 1280, 36, 20, 3584, 777_923_840, 258),
        ("c2i", 1536, 48, 24, 4096, 1_410_972_672, 340),
        ("c2i", 3200, 24, 32, 8704, 3_096_659_200, 172),
    ],
)
def test_published_models_have_the_published_shapes(kind, dim, layers, heads, ffn, parameters, tensors):
    """Every tensor that a full-size file holds finds its place, and the counts are those of the authors' own class."""
    published = Shapes(gpt_shapes(kind, dim, layers, ffn, 16384))
    assert len(published.shapes) == tensors
    config = transformer_config(published)
    assert (config.heads, config.head_dim, config.ffn_dim) == (heads, dim // heads, ffn)
    state = LlamaGenModel(config, kind, 16384, 24, device="meta").state_dict()
    found = {name: list(tensor.shape) for name, tensor in llamagen.model_tensors(published)}
    assert found == {name: list(tensor.shape) for name, tensor in state.items()}
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.mark.parametrize(("config", "tensors", "elements"), [(VQ16, 344, 71_948_939), (VQ8, 300, 70_175_371)])
def test_published_codecs_have_the_published_shapes(config, tensors, elements):
    codec = VQGAN(config, device="meta")
    published = codec_state(codec)
    assert (len(published), sum(tensor.numel() for tensor in published.values())) == (tensors, elements)
    found = {vqgan_name(name, config) for name in published} - {None}
    assert found == codec.state_dict().keys()
    widths = {n: list(published[f"decoder.conv_blocks.{n}.res.0.conv1.weight"].shape[:2]) for n in (0, 1, 3)}
    assert widths == {0: [512, 512], 1: [256, 512], 3: [128, 256]}
    assert (
        "decoder.conv_blocks.0.attn.2.q.weight" in published
    ) and "decoder.conv_blocks.1.attn.0.q.weight" not in published
