"""The loader node: what its menu lists, dtypes, what it tells, whose layers and devices it uses."""

from __future__ import annotations

import os
import re
import shutil
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from comfy_host import draw


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16", "fp32", "fp8 weights", "fp32 from bf16 weights"])
def test_every_dtype_draws(pack, model_folder, dtype):
    (model,) = pack.run("MCSJD_LoadModel", model="tiny", dtype=dtype)
    tokens, _ = draw(pack, model)
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    assert image.isfinite().all()


def test_menu_lists_models_of_subfolders_once(pack, model_folder, tiny_checkpoint, tmp_path, monkeypatch):
    import folder_paths

    other = tmp_path / "other"
    (other / "org").mkdir(parents=True)
    (other / "org" / "drawer").symlink_to(tiny_checkpoint)
    (other / "tiny").mkdir()
    (other / "tiny" / "config.json").write_text("{}")
    (other / "org" / "circle").symlink_to(other)
    (other / "empty").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mcsjd", ([str(model_folder), str(other)], set()))
    found = pack.folders.checkpoints()
    assert [name for name in found if "circle" not in name] == [*pack.embedded, "org/drawer", "tiny"]
    assert found["tiny"] == model_folder / "tiny"  # the first folder wins


def test_menu_lists_files_and_directories_that_a_family_recognises(pack, model_folder, monkeypatch):
    (model_folder / "loose").mkdir()
    for name in ("one.safetensors", "other.safetensors", "loose/two.pt", "loose/notes.txt"):
        (model_folder / name).write_bytes(b"")
    recognised = {"one.safetensors", "two.pt"}
    monkeypatch.setattr(pack.core, "detect", lambda path: "family" if path.name in recognised else None)
    assert list(pack.folders.checkpoints()) == [*pack.embedded, "loose/two.pt", "one.safetensors", "tiny"]


def test_parts_of_a_pipeline_are_not_listed(pack, model_folder):
    before = pack.folders.checkpoints()
    for part in ("transformer", "text_encoder"):
        (model_folder / "pipeline" / part).mkdir(parents=True)
        (model_folder / "pipeline" / part / "config.json").write_text("{}")
    assert pack.folders.checkpoints().keys() - before.keys() == {"pipeline/text_encoder", "pipeline/transformer"}
    (model_folder / "pipeline" / "model_index.json").write_text("{}")
    assert pack.folders.checkpoints() == before


def test_a_checkpoint_that_lies_flat_is_listed_and_hides_nothing(pack, model_folder, tiny_checkpoint, monkeypatch):
    (model_folder / "one.safetensors").write_bytes(b"")
    for file in tiny_checkpoint.iterdir():
        (model_folder / file.name).symlink_to(file)
    detect = pack.core.detect
    monkeypatch.setattr(pack.core, "detect", lambda path: "x" if path.name == "one.safetensors" else detect(path))
    found = pack.folders.checkpoints()
    assert list(found) == [*pack.embedded, "mcsjd/", "one.safetensors", "tiny"] and found["mcsjd/"] == model_folder
    monkeypatch.undo()


def test_a_folder_that_may_not_be_entered_hides_no_other(pack, model_folder, monkeypatch):
    """Root may enter everything, so the refusal is made up."""
    (model_folder / "locked").mkdir()
    stat = os.stat

    def refusing(path, *args, **kwargs):
        if "locked/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refusing)
    monkeypatch.setattr(Path, "stat", lambda self, **kwargs: refusing(self, **kwargs))
    assert list(pack.folders.checkpoints()) == [*pack.embedded, "tiny"]
    with pytest.raises(pack.core.InputError, match="locked"):
        pack.core.load(model_folder / "locked")


def test_the_user_s_own_default_folder_stays_the_first(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mcsjd", ([str(tmp_path)], set()))
    pack.folders.register_model_folder()
    first, *others = folder_paths.get_folder_paths("mcsjd")
    assert first == str(tmp_path) and others == [os.path.join(folder_paths.models_dir, "mcsjd")]


def test_loader_tells_family_sizes_and_memory(pack, model_folder):
    result = pack.result("MCSJD_LoadModel", model="tiny", dtype="fp8 weights")
    (text,) = result.ui["mcsjd_text"]
    assert text.startswith("draws 12x8 by default (chameleon family)\n")
    assert "its own settings (-1 in the sampler): cfg 3, temperature" in text
    moved = re.search(r"float32 with fp8 weights, which change its logits by (\d+\.\d)% \(rms\)\n", text)
    assert 0.1 < float(moved[1]) < 15
    (plain,) = pack.result("MCSJD_LoadModel", model="tiny", dtype="fp32").ui["mcsjd_text"]
    assert "logits" not in plain
    assert text.count("MiB") == 4


def test_fp32_from_bf16_weights_takes_two_bytes_a_weight_and_is_seed_exact(pack, model_folder):
    (model,) = pack.run("MCSJD_LoadModel", model="tiny", dtype="fp32 from bf16 weights")
    layers = [module for module in model.family.token_model.modules() if isinstance(module, nn.Linear)]
    assert layers and all(layer.weight.dtype == torch.bfloat16 for layer in layers)
    assert model.dtype == "float32 with bf16 weights"
    plain, exact = (draw(pack, model, coupling=name)[0].tokens for name in ("plain AR", "seed-exact (Gumbel)"))
    assert plain.equal(exact)


def test_fp8_weights_take_a_byte_and_give_nearly_the_same_logits(pack, model_folder):
    """Rounding to 3 bits of mantissa is off by at most 1/16 of a weight, and errors of many weights average out."""
    (plain,) = pack.run("MCSJD_LoadModel", model="tiny", dtype="fp32")
    (small,) = pack.run("MCSJD_LoadModel", model="tiny", dtype="fp8 weights")
    layers = [module for module in small.family.token_model.modules() if isinstance(module, nn.Linear)]
    assert layers and all(layer.weight.element_size() == 1 for layer in layers)
    logits = []
    for model in (plain, small):
        prompt = model.family.prompt(["red apple"], None, False)
        cache = model.family.token_model.new_cache(prompt, 64)
        slots = torch.arange(prompt.embeddings.shape[1])[None]
        hidden = model.family.token_model.hidden(prompt.embeddings, slots, cache, slots.shape[1])
        logits.append(model.family.token_model.logits(hidden, slots))
    error = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 0 < error < 0.1


def test_fp8_weights_are_cast_by_comfyuis_layers(pack, model_folder, monkeypatch):
    """Real ComfyUI has all layers that are asked for; the stand-in lacks some, so they are lent here."""
    import comfy.ops

    class Cast(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

    lent = {name: getattr(nn, name) for name in pack.runtime.LAYERS}
    monkeypatch.setattr(comfy.ops, "disable_weight_init", types.SimpleNamespace(**lent))
    monkeypatch.setattr(comfy.ops, "manual_cast", types.SimpleNamespace(**lent | {"Linear": Cast}))
    for dtype, cast in (("fp8 weights", True), ("fp32", False)):
        (model,) = pack.run("MCSJD_LoadModel", model="tiny", dtype=dtype)
        assert isinstance(model.family.token_model.lm_head, Cast) == cast
        draw(pack, model)


def test_a_device_without_fp8_is_one_sentence(pack, monkeypatch):
    monkeypatch.setattr(torch, "float8_e4m3fn", torch.quint4x2)  # a dtype that nothing converts to
    with pytest.raises(pack.core.InputError, match="fp8 weights"):
        pack.runtime.check_fp8(torch.device("cpu"), torch.float32)


def test_fingerprint_changes_with_the_files(pack, model_folder, tiny_checkpoint):
    fingerprint = pack.nodes["MCSJD_LoadModel"].fingerprint_inputs
    copy = model_folder / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    before = fingerprint(model="copy", dtype="auto")
    assert fingerprint(model="copy", dtype="auto") == before
    (copy / "generation_config.json").write_text('{"image_grid": [2, 2]}')
    assert fingerprint(model="copy", dtype="auto") != before
    assert fingerprint(model="gone", dtype="auto") == ""


def test_files_that_no_loader_reads_change_nothing(pack, model_folder, tiny_checkpoint):
    """Systems and people leave files of their own beside a model, which would be read and drawn with anew."""
    copy = model_folder / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    (copy / "tokenizer").mkdir()
    seen = [pack.folders.identity(copy)]
    for name in ("desktop.ini", "Thumbs.db", "preview.png", "notes.txt", "README.md", "tokenizer/Thumbs.db"):
        (copy / name).write_bytes(b"stray")
        assert pack.folders.identity(copy) == seen[0], name
    for name in ("words.txt", "tokenizer/vocab.json", "more.safetensors"):
        (copy / name).write_bytes(b"read")
        seen.append(pack.folders.identity(copy))
    assert len(set(seen)) == 4


def test_all_files_of_the_download_list_count(pack, tmp_path):
    downloads = pack.part("mcsjd_core.checkpoints.catalogue").DOWNLOADS.values()
    patterns = {pattern for download in downloads for source in download.sources for pattern in source.patterns}
    for number, pattern in enumerate(sorted(patterns)):
        folder = tmp_path / str(number)
        folder.mkdir()
        empty = pack.folders.identity_of([folder])
        (folder / pattern.replace("*", "some")).touch()
        assert pack.folders.identity_of([folder]) != empty, pattern


def test_a_codec_that_models_share_belongs_to_those_that_use_it(pack, model_folder, tiny_checkpoint):
    own, sharing, shared = (model_folder / name for name in ("own", "sharing", "chameleon-vqgan"))
    for directory in (own, sharing):
        shutil.copytree(tiny_checkpoint, directory)
    shared.mkdir()
    (sharing / "vqgan.safetensors").rename(shared / "model.safetensors")
    before = [pack.folders.identity(directory) for directory in (own, sharing)]
    (shared / "model.safetensors").write_bytes(b"another")
    after = [pack.folders.identity(directory) for directory in (own, sharing)]
    assert before[0] == after[0] and before[1] != after[1]


def test_comfyui_can_write_its_device_on_what_it_manages(model):
    """The real ModelPatcher does, at every loading; a property of that name would end the run."""
    for module in (model.family.token_model, model.family.codec):
        module.device = torch.device("cpu")


def test_layers_are_the_hosts_and_have_weights_at_once(pack, tiny_checkpoint, monkeypatch):
    """Newer versions of ComfyUI make layers without weights, unless a subclass has a loader of its own."""
    import comfy.ops

    class Lazy(nn.Linear):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if type(self)._load_from_state_dict is Lazy._load_from_state_dict:
                self.weight = None

        def _load_from_state_dict(self, *args):
            raise NotImplementedError

    layers = {name: type(name, (getattr(nn, name),), {}) for name in pack.runtime.LAYERS} | {"Linear": Lazy}
    monkeypatch.setattr(comfy.ops, "disable_weight_init", types.SimpleNamespace(**layers))
    family = pack.core.load(tiny_checkpoint, operations=pack.runtime.operations())
    used = {type(module) for part in (family.token_model, family.codec) for module in part.modules()}
    pictures = {name: layer for name, layer in layers.items() if name != "Conv3d"}  # which codecs of video have
    assert all(any(issubclass(kind, layer) for kind in used) for layer in pictures.values())


def test_plain_layers_serve_where_the_host_lacks_some(pack, monkeypatch):
    import comfy.ops

    monkeypatch.setattr(comfy.ops, "disable_weight_init", types.SimpleNamespace(Linear=nn.Linear))
    assert pack.runtime.operations().Linear is nn.Linear
