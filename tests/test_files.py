"""What lies on people's disks: names and folders of all kinds, files that are no weights, weights that training saved."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import mcsjd_core
from mcsjd_core import InputError
from mcsjd_core.checkpoints import checkpoint
from mcsjd_core.checkpoints.checkpoint import Checkpoint, Fields, read_json
from mcsjd_core.checkpoints.naming import own_names
from mcsjd_core.families.chameleon import trained_side
from mcsjd_core.families.hf_config import transformer_config
from mcsjd_core.families.janus import ROLES
from mcsjd_core.families.janus import _roles as roles_of
from mcsjd_core.text.text_tokenizer import read_tokenizer

# -- names ---------------------------------------------------------------------------------------------------------------


def test_folders_above_a_checkpoint_say_nothing_of_it(tmp_path):
    path = tmp_path / "ssd-1024" / "Janus-1.3B and Pro" / "Lumina-mGPT-7B-768"
    path.mkdir(parents=True)
    assert own_names(path) == "lumina-mgpt-7b-768" and trained_side(path, Fields({}, "")) == 768
    with pytest.raises(InputError, match="does not tell its picture size"):
        trained_side(path.parent, Fields({}, ""))

    class Tokenizer:
        def token_to_id(self, name):
            return 1

    pro = path.parent / "Janus-Pro-1B"
    assert roles_of(pro, Tokenizer()) != ROLES and roles_of(Path("x/Janus-1.3B"), Tokenizer()) == ROLES


def test_files_speak_before_names(tmp_path):
    assert trained_side(tmp_path / "Lumina-mGPT-7B-768", Fields({"image_side": 512}, "")) == 512


def test_links_and_the_cache_of_the_hub_keep_a_published_name(tmp_path):
    snapshot = tmp_path / "models--Alpha-VLLM--Lumina-mGPT-7B-1024" / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    (tmp_path / "mine").symlink_to(snapshot)
    assert trained_side(snapshot, Fields({}, "")) == trained_side(tmp_path / "mine", Fields({}, "")) == 1024


# -- files that are something else ---------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4180000000\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>503</title></head><body>Service unavailable</body></html>"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "c2i_B_256.pt", "vqgan.ckpt", "x.json"])
@pytest.mark.parametrize(
    ("content", "told"),
    [(POINTER, "is a Git LFS pointer"), (PAGE, "is a web page"), (b"", "is empty")],
    ids=["pointer", "page", "empty"],
)
def test_what_came_instead_of_a_file_is_called_by_its_name(tmp_path, name, content, told):
    file = tmp_path / name
    file.write_bytes(content)
    readers = (read_json, read_tokenizer) if file.suffix == ".json" else (lambda file: Checkpoint([file]),)
    for read in readers:
        with pytest.raises(InputError, match=f"{name} {told}"):
            read(file)


# -- what training saves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["model", "ema"])
def test_checkpoints_of_a_training_are_read_with_their_settings_beside(tmp_path, prefix, wrapper):
    state = {f"{prefix}layers.0.weight": torch.ones(2), f"{prefix}norm.weight": torch.zeros(3)}
    settings = argparse.Namespace(lr=0.1, data_path="/data", image_size=256)
    torch.save({wrapper: state, "optimizer": {"state": {}}, "args": settings, "steps": 7}, tmp_path / "0050000.pt")
    checkpoint = Checkpoint([tmp_path / "0050000.pt"])
    assert checkpoint.files.keys() == {"layers.0.weight", "norm.weight"}


def test_a_name_that_only_some_tensors_bear_is_kept(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.pt")
    assert Checkpoint([tmp_path / "x.pt"]).files.keys() == {"module.a", "b"}


# -- rotary settings -----------------------------------------------------------------------------------------------------

BODY = {"num_attention_heads": 2, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 4}


def theta_of(**fields) -> float:
    return transformer_config(Fields(BODY | fields, "config.json"), 1e-6).rope_theta


@pytest.mark.parametrize(
    ("fields", "theta"),
    [
        ({}, 10_000),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}}, 5e5),
        ({"rope_parameters": {k: {"rope_theta": 5e5} for k in ("full_attention", "sliding_attention")}}, 5e5),
    ],
)
def test_rotary_bases_are_read_wherever_they_stand(fields, theta):
    assert theta_of(**fields) == theta


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled rotary embedding .linear"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "scaled rotary embedding .yarn"),
        ({"rope_parameters": {"type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled rotary embedding .linear"),
        ({"rope_parameters": {"full_attention": {"rope_type": "llama3"}}}, "scaled rotary embedding .llama3"),
        ({"rope_parameters": {"a": {"rope_theta": 1e4}, "b": {"rope_theta": 1e6}}}, "layers of several rotary bases"),
    ],
)
def test_rotary_settings_that_scale_are_refused(fields, told):
    with pytest.raises(InputError, match=told):
        theta_of(**fields)


# -- dtypes --------------------------------------------------------------------------------------------------------------

STORED = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("weights", ["full", "fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_every_stored_dtype_loads_as_every_other(tiny_checkpoint, tmp_path, stored, dtype, weights):
    """The weights that are computed with are those of the file, as exact as the dtype that they are held in."""
    if weights == "int8":
        pytest.importorskip("torchao")
    from safetensors.torch import load_file

    for file in tiny_checkpoint.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.safetensors").unlink()
    tensors = {name: t.to(stored) for name, t in load_file(tiny_checkpoint / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model = mcsjd_core.load(tmp_path, dtype=dtype, weights=weights).token_model
    layer = model.model.layers[0].mlp.down_proj
    exact = tensors["model.layers.0.mlp.down_proj.weight"].float()
    ours = layer(torch.eye(exact.shape[1], dtype=dtype)).T.float()
    spread = {"full": 2**-7, "fp8": 2**-4, "int8": 2**-6}[weights]
    assert (ours - exact).abs().max() <= spread * exact.abs().max()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shapes_of_a_file_take_one_opening(tmp_path, monkeypatch, suffix):
    """Families ask for a dozen, and a torch file of 20 GB takes its time to open."""
    tensors, file, opened = (
        {name: torch.zeros(2, size) for size, name in enumerate("abc")},
        tmp_path / f"x.{suffix}",
        [],
    )
    save_file(tensors, file) if suffix == "safetensors" else torch.save(tensors, file)
    found = Checkpoint([file])
    open_tensors = checkpoint.open_tensors
    monkeypatch.setattr(checkpoint, "open_tensors", lambda file: opened.append(file) or open_tensors(file))
    assert [found.shape(name) for name in "cab"] == [[2, 2], [2, 0], [2, 1]] and opened == [file]


def test_null_is_absent_where_there_are_defaults():
    config = Fields({"rope_theta": None, "hidden_size": 8}, "config.json").over({"rope_theta": 1e6, "hidden_size": 4})
    assert config.number("rope_theta") == 1e6 and config.count("hidden_size") == 8


@pytest.mark.parametrize("content", [b'{"error": "expired"}', bytes(5000), b"text", b"\x80", b"P"])
def test_what_is_no_torch_file_is_neither_called_dangerous_nor_to_be_read_unsafely(tmp_path, content):
    file = tmp_path / "vq_ds16_c2i.pt"
    file.write_bytes(content)
    with pytest.raises(
        InputError, match=r"vq_ds16_c2i\.pt is not a torch file, or a damaged one; download it again\.$"
    ):
        Checkpoint([file])


def test_torch_files_of_all_ages_are_read(tmp_path):
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        file = tmp_path / f"{number}.pt"
        torch.save({"a": torch.ones(1)}, file, **options)
        assert Checkpoint([file]).files.keys() == {"a"}


def test_a_checkpoint_is_found_from_within_its_folder(tmp_path, monkeypatch):
    """What lies beside it, too: `.` has no parent of another name."""
    from mcsjd_core.families import loading

    seen = []
    family = SimpleNamespace(
        detect=lambda path: True,
        load=lambda path, **_: seen.append(path),
        companions=lambda path: seen.append(path) or [],
    )
    monkeypatch.setattr(loading, "FAMILIES", {"any": family})
    monkeypatch.chdir(tmp_path)
    loading.load(".")
    loading.checkpoint_paths(Path())
    assert seen == [tmp_path, tmp_path]
