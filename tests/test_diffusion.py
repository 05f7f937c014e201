"""GLM-Image's pictures by diffusers' own pipeline, at tiny size with random weights."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is what makes these pictures")
pytest.importorskip("accelerate", reason="diffusers reads weights with it")

from mcsjd_core import InputError
from mcsjd_core.families.glm_image import prior_token_ids
from mcsjd_core.pipeline.diffusion import DiffusionSettings, is_diffusion_directory, load_diffusion
from oracle import relative
from tiny_diffusion import CODES, components, write_diffusion

SIZE, ROWS, COLUMNS = "96x64", 2, 3
TEXTS = ['a sign with "first snow"', "a red owl"]
FEW = DiffusionSettings(steps=3, seed=5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_diffusion(tmp_path_factory.mktemp("glm") / "GLM-Image")


@pytest.fixture(scope="module")
def decoder(directory):
    return load_diffusion(directory, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return prior_token_ids(torch.randint(CODES, (2, ROWS, COLUMNS), generator=torch.Generator().manual_seed(1)))


def test_tokens_are_enlarged_as_the_pipeline_enlarges_its_own():
    from diffusers import GlmImagePipeline

    codes = torch.randint(16384, (2, 3, 5), generator=torch.Generator().manual_seed(2))
    theirs = torch.cat([GlmImagePipeline._upsample_token_ids(row, 3, 5) for row in codes])
    assert torch.equal(prior_token_ids(codes), theirs)


def test_pictures_are_those_of_the_whole_pipeline_with_given_tokens(decoder, tokens):
    """Loaded from files in parts, against the pipeline built of the same parts in memory."""
    from diffusers import GlmImagePipeline

    whole = GlmImagePipeline(**components(), vision_language_encoder=None, processor=None)
    whole.set_progress_bar_config(disable=True)
    ours = list(decoder.pictures(tokens, TEXTS, SIZE, FEW))
    for row, (picture, text) in enumerate(zip(ours, TEXTS, strict=True)):
        theirs = whole(
            text, height=64, width=96, prior_token_ids=tokens[row : row + 1], num_inference_steps=3, output_type="pt",
            generator=torch.Generator().manual_seed(5 + row),
        ).images  # fmt: skip
        assert picture.shape == (1, 3, 64, 96) and relative(picture, theirs) < 1e-5
    assert not torch.equal(ours[0], ours[1])


def test_tokens_texts_guidance_and_seeds_all_count(decoder, tokens):
    def first(ids=tokens[:1], text=TEXTS[0], **settings) -> torch.Tensor:
        return next(decoder.pictures(ids, [text], SIZE, DiffusionSettings(steps=2, **settings)))

    plain = first()
    others = (
        first(tokens[1:]),
        first(text="a sign"),
        first(guidance_scale=4.0),
        first(guidance_scale=1.0),
        first(seed=1),
    )
    assert plain.min() >= 0 and plain.max() <= 1 and plain.std() > 0
    assert all(not torch.equal(plain, other) for other in others)
    assert torch.equal(plain, first(text='other words with "first snow"'))  # only what is quoted is read


def test_steps_are_told_and_can_cancel(decoder, tokens):
    steps: list[int] = []
    for _ in decoder.pictures(tokens, TEXTS, SIZE, FEW, steps.append):
        pass
    assert steps == [1, 2, 3, 4, 5, 6]

    def cancel(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(decoder.pictures(tokens, TEXTS, SIZE, FEW, cancel))
    assert next(decoder.pictures(tokens, TEXTS, SIZE, FEW)).shape == (1, 3, 64, 96)


def test_fp8_weights_are_held_small_and_give_about_the_same(directory, decoder, tokens):
    small = load_diffusion(directory, dtype=torch.float32, fp8=True)
    held = [p.dtype for p in small.parts["transformer"].transformer_blocks.parameters()]
    assert held.count(torch.float8_e4m3fn) > len(held) / 2
    a, b = (next(each.pictures(tokens, TEXTS, SIZE, FEW)) for each in (decoder, small))
    assert 0 < (a - b).abs().max() < 0.5


def test_parts_that_are_missing_or_broken_are_named(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "glm")
    assert is_diffusion_directory(path)
    (path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>login</html>")
    with pytest.raises(InputError, match="is a web page"):
        load_diffusion(path, dtype=torch.float32)
    (path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="diffusers cannot read"):
        load_diffusion(path, dtype=torch.float32)
    shutil.copyfile(
        directory / "vae" / "diffusion_pytorch_model.safetensors", path / "vae" / "diffusion_pytorch_model.safetensors"
    )
    (texts,) = (path / "text_encoder").glob("*.safetensors")
    texts.write_bytes(texts.read_bytes()[:-100])
    with pytest.raises(InputError, match="diffusers cannot read"):
        load_diffusion(path, dtype=torch.float32)
    shutil.rmtree(path / "vae")
    assert not is_diffusion_directory(path)
    with pytest.raises(InputError, match="lacks vae"):
        load_diffusion(path, dtype=torch.float32)


def test_weights_that_are_no_safetensors_are_refused(directory, tmp_path):
    """diffusers would read a pickle in their place."""
    path = shutil.copytree(directory, tmp_path / "glm")
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, path / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="diffusers cannot read"):
        load_diffusion(path, dtype=torch.float32)


def test_a_missing_package_is_one_sentence(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match="pip install"):
        load_diffusion(directory, dtype=torch.float32)


@pytest.mark.parametrize("fault", [{"steps": 0}, {"guidance_scale": 0.5}, {"guidance_scale": float("nan")}])
def test_settings_that_mean_nothing_are_refused(fault):
    with pytest.raises(InputError):
        DiffusionSettings(**fault)
