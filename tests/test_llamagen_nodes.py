"""LlamaGen in ComfyUI: its files in the menu, classes by name, and what the loader says of it. Real classes, tiny sizes."""

from __future__ import annotations

import pytest
import torch

from comfy_host import draw, sentence
from test_llamagen import CODEC, DIM, HEADS, LAYERS, SIDE, codec_state, gpt_state
from tiny_checkpoint import randomise

NAME = f"LlamaGen-c2i/c2i_B_{2 * SIDE}.pt"


@pytest.fixture
def llamagen(pack, model_folder, monkeypatch):
    """Two models with one codec in a folder, as Get Model leaves them, and a text encoder's folder."""
    from mcsjd_core.codecs.vqgan import VQGAN

    family, vqgan = pack.part("mcsjd_core.families.llamagen"), pack.part("mcsjd_core.codecs.vqgan")
    monkeypatch.setitem(family.HEADS, (LAYERS, DIM), HEADS)
    monkeypatch.setitem(family.CODECS, "vq_ds16", vqgan.VQGANConfig(**vars(CODEC)))
    folder = model_folder / "LlamaGen-c2i"
    (folder / "flan-t5-xl").mkdir(parents=True)
    (folder / "flan-t5-xl" / "config.json").write_text("{}")
    for size in ("B", "L"):
        torch.save({"model": gpt_state("c2i")}, folder / f"c2i_{size}_{2 * SIDE}.pt")
    torch.save({"model": codec_state(randomise(VQGAN(CODEC)))}, folder / "vq_ds16_c2i.pt")
    return pack.run("MCSJD_LoadModel", model=NAME, dtype="auto")[0]


def test_the_menu_has_the_models_and_not_their_parts(pack, llamagen):
    other = NAME.replace("_B_", "_L_")
    assert list(pack.folders.checkpoints()) == [*pack.embedded, NAME, other, "tiny"]
    pack.folders.checkpoints()[other].unlink()
    assert list(pack.folders.checkpoints()) == [*pack.embedded, NAME, "tiny"]  # of one file, too


def test_a_chosen_class_is_drawn(pack, llamagen):
    labels = pack.nodes["MCSJD_ImageNetClass"].GET_SCHEMA().inputs[0].options
    (prompt,) = pack.run("MCSJD_ImageNetClass", class_name=labels[207])
    assert prompt == "golden retriever (207)"
    drawn = [draw(pack, llamagen, prompt=text)[0].tokens for text in (prompt, "207", "Golden Retriever", "goldfish")]
    assert drawn[0].equal(drawn[1]) and drawn[0].equal(drawn[2]) and not drawn[0].equal(drawn[3])
    tokens, _ = draw(pack, llamagen, prompt=prompt)
    (image,) = pack.run("MCSJD_Decode", model=llamagen, tokens=tokens)
    assert image.shape == (1, 2 * SIDE, 2 * SIDE, 3)


def test_a_text_is_answered_with_what_to_do(pack, llamagen):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, llamagen, prompt="retriever")
    assert "golden retriever (207)" in sentence(error)


def test_the_loader_describes_it(pack, llamagen):
    assert "draws 8x8 by default (llamagen family)" in pack.runtime.describe(llamagen)


def test_a_model_is_read_again_when_its_codec_changes_and_not_when_another_model_comes(pack, model_folder, llamagen):
    folder, file = model_folder / "LlamaGen-c2i", model_folder / NAME
    before = pack.folders.identity(file)
    (folder / f"c2i_XL_{2 * SIDE}.pt").write_bytes(b"")
    assert pack.folders.identity(file) == before == llamagen.identity
    (folder / "vq_ds16_c2i.pt").write_bytes(b"another")
    changed = pack.folders.identity(file)
    (folder / "flan-t5-xl" / "config.json").write_text("{ }")
    assert len({before, changed, pack.folders.identity(file)}) == 3


def test_a_saved_class_that_is_none_is_refused(pack):
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_ImageNetClass", class_name="no such thing")
    assert "no ImageNet class" in sentence(error)
