"""GLM-Image in ComfyUI from the prompt to the picture, both stages small and random."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is what makes these pictures")
pytest.importorskip("accelerate", reason="diffusers reads weights with it")

from comfy_host import draw, sentence
from test_glm_image import GRIDS, SIZES, write_glm_image
from tiny_diffusion import write_diffusion


@pytest.fixture
def repository(model_folder):
    (model_folder / "GLM-Image").mkdir()
    return write_diffusion(write_glm_image(model_folder / "GLM-Image"))


@pytest.fixture
def glm(pack, repository):
    loaded = pack.run("MCSJD_LoadModel", model="GLM-Image", dtype="fp32")[0]
    loaded.family.sizes, loaded.family.picture_grid = SIZES, GRIDS.__getitem__
    return loaded


@pytest.fixture
def decoder(pack, repository):
    return pack.run("MCSJD_LoadDiffusion", model="GLM-Image", dtype="fp32")[0]


def decode(pack, decoder, glm, tokens, **changes) -> torch.Tensor:
    return pack.run(
        "MCSJD_DecodeDiffusion",
        decoder=decoder,
        model=glm,
        tokens=tokens,
        **{"seed": 3, "steps": 2, "cfg": 1.5} | changes,
    )[0]


def test_a_prompt_becomes_pictures(pack, glm, decoder, monkeypatch):
    told: list[tuple[int, int]] = []
    progress = pack.part("nodes.progress").Progress
    update = progress.update
    monkeypatch.setattr(
        progress, "update", lambda self, done, picture=None: (told.append((done, self.total)), update(self, done))
    )
    tokens, _ = draw(pack, glm, prompt='a sign "snow"', batch_size=2, size=SIZES[0], top_p=0.9)
    told.clear()
    image = decode(pack, decoder, glm, tokens)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert image.shape == (2, 96, 128, 3) and image.dtype == torch.float32 and image.is_contiguous()
    assert not image[0].equal(image[1])
    made = decoder.decoder.pictures(
        glm.family.handed_on(tokens.tokens, SIZES[0])["prior_token_ids"], ['a sign "snow"'] * 2, SIZES[0],
        pack.part("mcsjd_core.pipeline.diffusion").DiffusionSettings(2, 1.5, 3),
    )  # fmt: skip
    assert torch.equal(image, torch.cat(list(made)).movedim(1, -1))
    assert not decode(pack, decoder, glm, tokens, seed=4).equal(image)


def test_the_host_moves_every_part_with_weights(pack, glm, decoder, monkeypatch):
    import comfy.model_management as mm

    asked = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, **options: asked.append((models, options)))
    decode(pack, decoder, glm, draw(pack, glm, size=SIZES[0])[0])
    models, options = asked[-1]
    held = sum(p.nbytes for part in decoder.decoder.parts.values() for p in part.parameters())
    assert models == decoder.get_models() and len(models) == 3
    assert held <= sum(patcher.model_size() for patcher in models) < 1.1 * held
    assert options["memory_required"] >= 96 * 128 * 3 * 4 and options["force_full_load"]


@pytest.mark.parametrize(("fp8", "advice"), [(False, "set dtype to fp8 weights"), (True, "too small even for 8-bit")])
def test_parts_left_behind_are_told_and_what_may_help(pack, glm, decoder, monkeypatch, fp8, advice):
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "load_models_gpu", lambda models, **options: None)
    monkeypatch.setattr(decoder.patcher, "load_device", torch.device("cuda"))
    tokens = draw(pack, glm, size=SIZES[0])[0]
    with pytest.raises(pack.core.InputError) as error:
        decode(pack, replace(decoder, fp8=fp8), glm, tokens)
    assert "do not fit on cuda all at once" in sentence(error) and advice in sentence(error)


@pytest.mark.parametrize("kind", ["codec", "foreign", "absent", "dtype"])
def test_what_does_not_fit_is_told_in_a_sentence(pack, model, glm, decoder, kind):
    other = draw(pack, model)[0]
    faults = {
        "codec": lambda: pack.run("MCSJD_Decode", model=glm, tokens=draw(pack, glm, size=SIZES[0])[0]),
        "foreign": lambda: decode(pack, decoder, model, other),
        "absent": lambda: pack.run("MCSJD_LoadDiffusion", model="nowhere", dtype="auto"),
        "dtype": lambda: pack.run("MCSJD_LoadDiffusion", model="GLM-Image", dtype="int3"),
    }
    words = {
        "codec": "Decode GLM-Image",
        "foreign": "MC-SJD Decode",
        "absent": "GLM-Image-decoder",
        "dtype": "auto, bf16",
    }
    with pytest.raises(pack.core.InputError) as error:
        faults[kind]()
    assert words[kind] in sentence(error)


def test_the_menu_lists_whole_pipelines_alone(pack, repository, model_folder):
    node = pack.nodes["MCSJD_LoadDiffusion"]
    assert node.GET_SCHEMA().inputs[0].options == ["GLM-Image"]
    before = node.fingerprint_inputs("GLM-Image", "auto")
    (repository / "vae" / "config.json").touch()
    assert before and node.fingerprint_inputs("GLM-Image", "auto") != before
    (repository / "scheduler").rename(model_folder / "scheduler")
    assert pack.folders.diffusion_models() == {}
