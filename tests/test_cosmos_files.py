"""Cosmos: files as they are published and as people have them, and what is wrong with them."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import mcsjd_core
from mcsjd_core import InputError, LawSettings
from mcsjd_core.codecs.torchscript_video import load_program, run_program
from mcsjd_core.families.cosmos import CosmosModel
from mcsjd_core.families.cosmos_shapes import core_name
from mcsjd_core.families.interface import Clip
from mcsjd_core.nn.grid_positions import GridPositions
from mcsjd_core.nn.transformer import TransformerConfig
from test_cosmos import KINDS, TEXTS, TOKENS, clip, directories, families, some_tokens, texts_for, tiny  # noqa: F401 - fixtures among them
from tiny_cosmos import (
    CODES,
    COLUMNS,
    CONTEXT_TOKENS,
    ROWS,
    TOKENIZER,
    plain_codec,
    published_shapes,
    write_checkpoint,
)

# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_torchscript(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("jit") / "model", reads_text=False, codec="jit")


def test_torchscript_files_serve_as_the_codec_s_plain_weights_do(families, with_torchscript):
    family = mcsjd_core.load(with_torchscript)
    plain = families["base, model.pt"]
    for frames in (1, 9, 17):  # what is missing is repeated, and the codec is causal
        pixels = clip(frames).movedim(1, 0)[None]
        codes = family.codec.encode(pixels)
        assert torch.equal(codes, plain.codec.encode(pixels))
        assert torch.allclose(family.codec.decode(codes), plain.codec.decode(codes), atol=1e-5)
    with pytest.raises(InputError, match="got 5 frames"):
        family.codec.encode(clip(5).movedim(1, 0)[None])
    with pytest.raises(InputError, match=f"codes 0 to {CODES - 1}"):
        family.codec.decode(torch.full((1, 1, ROWS, COLUMNS), CODES))


@pytest.mark.parametrize(
    ("model", "codec"),
    [
        ("Cosmos-Predict1-4B", "Cosmos-Tokenize1-DV8x16x16-720p"),
        ("Cosmos-1.0-Autoregressive-4B", "Cosmos-1.0-Tokenizer-DV8x16x16"),
    ],
)
def test_torchscript_files_may_lie_beside_the_model(model, codec, with_torchscript, tmp_path):
    directory = write_checkpoint(tmp_path / model, reads_text=False, codec="none")
    shutil.copytree(with_torchscript / TOKENIZER, tmp_path / codec)
    assert mcsjd_core.load(directory).codec.encode(clip(1)[:, None].movedim(1, 2)).shape == (1, 1, ROWS, COLUMNS)


def test_the_tokenizer_beside_a_model_of_another_name_is_found(with_torchscript, tmp_path):
    directory = write_checkpoint(tmp_path / "my world model", reads_text=False, codec="none")
    shutil.copytree(with_torchscript / TOKENIZER, tmp_path / "Cosmos-Tokenize1-DV8x16x16-720p")
    assert mcsjd_core.load(directory).codec.encode(clip(1)[:, None].movedim(1, 2)).shape == (1, 1, ROWS, COLUMNS)
    first = write_checkpoint(tmp_path / "Cosmos-1.0-Autoregressive-4B", reads_text=False, codec="none")
    with pytest.raises(InputError, match=r"nvidia/Cosmos-1\.0-Tokenizer"):  # the other generation has other codes
        mcsjd_core.load(first)


def test_a_post_trained_directory_without_config_is_known_by_its_name_or_tokenizer(tmp_path):
    for name, codec, found in (("post-trained cosmos", False, True), ("mine", True, True), ("other", False, False)):
        directory = tmp_path / name / "model cosmos" if "cosmos" in name else tmp_path / name / "model"
        directory.mkdir(parents=True)
        (directory / "model.pt").write_bytes(b"")
        if codec:
            (directory / "Cosmos-Tokenize1-DV8x16x16-720p").mkdir()
        assert (mcsjd_core.detect(directory) == "cosmos") == found


class Program(nn.Module):
    """Holds a codec's parts under the names that the published programs have; running it is not what it is for."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return x + sum(parameter.sum() for parameter in self.parameters())


def test_the_tensors_of_published_programs_run_on_any_device_and_for_any_length(tmp_path):
    """The archives are in bfloat16 and for CUDA: their tensors serve the plain codec, in float32."""
    directory = write_checkpoint(tmp_path / "model", reads_text=False, codec="none")
    (directory / TOKENIZER).mkdir()
    codec = plain_codec().bfloat16().requires_grad_(False)
    programs = {
        "encoder": Program(encoder=codec.encoder, quant_conv=codec.quant_conv),
        "decoder": Program(decoder=codec.decoder, post_quant_conv=codec.post_quant_conv),
    }
    programs["encoder"].encoder.patcher3d = nn.Module()
    programs["encoder"].encoder.patcher3d.register_buffer("wavelets", torch.ones(2, dtype=torch.bfloat16))
    for name, program in programs.items():
        torch.jit.trace(program, torch.ones(1, dtype=torch.bfloat16), check_trace=False).save(
            str(directory / TOKENIZER / f"{name}.jit")
        )
    ours, exact = mcsjd_core.load(directory).codec, plain_codec().bfloat16().float()
    for frames in (1, 9, 25):
        pixels = clip(frames).movedim(1, 0)[None]
        codes = ours.encode(pixels)
        assert torch.equal(codes, exact.encode(pixels))
        assert ours.decode(codes).shape[2] == frames
        torch.testing.assert_close(ours.decode(codes), exact.decode(codes))


def test_a_program_that_does_not_run_here_is_one_sentence():
    def fail(x):
        raise NotImplementedError("Could not run 'aten::conv3d' with arguments from the 'CPU' backend")

    with pytest.raises(InputError, match=r"TorchScript program does not run on cpu .Could not run"):
        run_program(fail, torch.ones(1))


@pytest.mark.parametrize("load", [False, True])
def test_too_little_memory_for_a_program_is_called_that(with_torchscript, monkeypatch, load):
    """A host frees memory and tries again, where another error would end the run."""

    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(torch.jit, "load", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_program(with_torchscript / TOKENIZER / "encoder.jit", "cpu") if load else run_program(fail, torch.ones(1))


def test_nvidia_s_folder_of_the_text_encoder_is_found(tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=True)
    (tmp_path / "google-t5").mkdir()
    (directory / "t5").rename(tmp_path / "google-t5" / "t5-11b")
    assert mcsjd_core.load(directory).prompt(["ball"], None, False).context.shape[1] == CONTEXT_TOKENS


def test_a_missing_codec_is_named_with_its_address(tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=False, codec="none")
    with pytest.raises(InputError, match=r"lacks encoder\.jit and decoder.jit.*nvidia/Cosmos-1.0-Tokenizer-DV8x16x16;"):
        mcsjd_core.load(directory)


def test_a_broken_torchscript_file_is_named(with_torchscript, tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=False, codec="none")
    shutil.copytree(with_torchscript / TOKENIZER, directory / TOKENIZER)
    file = directory / TOKENIZER / "decoder.jit"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"decoder\.jit is not a whole TorchScript file"):
        mcsjd_core.load(directory)


def test_a_codec_of_other_codes_is_refused(tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=False)
    state = torch.load(directory / "model.pt")
    state["model.output.weight"] = state["model.output.weight"][:-1]
    torch.save(state, directory / "model.pt")
    with pytest.raises(InputError, match=f"draws {CODES - 1} codes, its video tokenizer has {CODES}"):
        mcsjd_core.load(directory)


def test_unneeded_state_is_passed_over_and_what_is_missing_is_named(tmp_path):
    directory = write_checkpoint(tmp_path / "model", reads_text=False)
    state = torch.load(directory / "model.pt")
    torch.save({"model": state | {"model.layers.0.attention._extra_state": torch.zeros(1)}}, directory / "model.pt")
    mcsjd_core.load(directory)
    del state["model.layers.1.ffn_norm.weight"]
    torch.save(state, directory / "model.pt")
    with pytest.raises(InputError, match=r"1 missing: model\.layers\.1\.post_attention_layernorm.weight"):
        mcsjd_core.load(directory)


@pytest.mark.parametrize(
    ("dim", "layers", "reads_text", "parameters", "tensors"),
    [
        (4096, 16, False, 4_014_088_192, 179),
        (5120, 40, False, 11_560_975_360, 443),
        (4096, 16, True, 4_584_845_312, 291),
        (5120, 40, True, 13_323_125_760, 723),
    ],
    ids=["4B", "12B", "5B", "13B"],
)
def test_full_size_models_have_the_published_tensors(dim, layers, reads_text, parameters, tensors):
    sizes = {"dim": dim, "layers": layers, "heads": 32, "kv_heads": 8, "head_dim": 128}
    context_dim = 1024 if reads_text else None
    config = TransformerConfig(**sizes, ffn_dim=14336, qk_norm="rms", context_dim=context_dim)
    vocab_size = 64064 if reads_text else 64000
    positions = GridPositions(40, 64, int(reads_text), 128, dim)
    model = CosmosModel(config, vocab_size, 64000, positions, reads_text, dtype=torch.bfloat16, device="meta")
    published = published_shapes(reads_text, **sizes, ffn=14336, codes=64000, extra=64, context_dim=1024)
    expected = {core_name(name): shape for name, shape in published.items()}
    found = {name: [n for n in t.shape if n > 1]
             for name, t in model.state_dict().items()}  # fmt: skip
    assert found == expected and len(found) == tensors
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters


def test_defaults_are_the_published_ones(families, tmp_path):
    family = families["base, model.pt"]
    assert family.sizes == (f"{COLUMNS * 16}x{ROWS * 16}",)
    assert family.clip == Clip(17, 25.0, 8, (1, 9), reads_text=False)
    directory = write_checkpoint(tmp_path / "model", reads_text=True, start_frames=[1], frame_rate=12.5)
    (directory / "generation_config.json").write_text('{"top_p": 0.7, "temperature": 0.8, "guidance_scale": 2.0}')
    family = mcsjd_core.load(directory)
    assert family.clip == Clip(17, 12.5, 8, (1,), reads_text=True)
    assert family.defaults.law == LawSettings(2.0, 0.8, 0, 0.7)
