"""Faults of a checkpoint directory: each is one clear sentence, and none spoils a later load."""

import json
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from mcsjd_core import InputError
from mcsjd_core.checkpoints.checkpoint import Checkpoint, Fields, fill
from tiny_checkpoint import CODEC, build_tokenizer, split_into_shards, write_tiny_checkpoint

REMOVED = object()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("good"))


@pytest.fixture
def directory(good, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(good, tmp_path / "checkpoint")


def refusal(path, **options) -> str:
    """The sentence with which loading `path` is refused."""
    with pytest.raises(InputError) as caught:
        mcsjd_core.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 1500
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no second traceback above it
    return message


def edit(path, *place: str, value) -> None:
    """Set, or remove, the entry of a JSON file at `place`."""
    data = json.loads(path.read_text())
    *outer, last = place
    inner = data
    for name in outer:
        inner = inner[name]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(data))


def change_tensors(path, change) -> None:
    tensors = load_file(path)
    save_file(change({name: tensor.clone() for name, tensor in tensors.items()}), path)


# -- the path ------------------------------------------------------------------------------------------------------------


def test_no_such_path(tmp_path):
    assert str(tmp_path / "nothing") in refusal(tmp_path / "nothing")


def test_file_in_place_of_a_directory(directory):
    assert "is a file; give the directory" in refusal(directory / "config.json")


def test_empty_directory(tmp_path):
    assert f"{tmp_path / 'config.json'} is missing" in refusal(tmp_path)


def test_unknown_model_type_is_named(directory):
    edit(directory / "config.json", "model_type", value="gpt2")
    assert mcsjd_core.detect(directory) is None
    assert re.search(r"model_type 'gpt2'; the supported families are .*chameleon", refusal(directory))


def test_model_type_is_needed(directory):
    edit(directory / "config.json", "model_type", value=REMOVED)
    assert "model_type None" in refusal(directory)


@pytest.mark.parametrize("dtype", [torch.int8, torch.long, torch.bool, torch.complex64])
def test_dtype_has_to_be_floating_point(good, dtype):
    assert str(dtype) in refusal(good, dtype=dtype)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_device_has_to_be_there(good, device):
    assert device in refusal(good, device=device)


# -- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vqgan.safetensors", "model.safetensors"])
def test_missing_files_are_named(directory, name):
    (directory / name).unlink()
    assert re.search(rf"{name} (is missing|nor its index)", refusal(directory))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vqgan.safetensors", "model.safetensors"])
def test_directories_in_place_of_files_are_named(directory, name):
    (directory / name).unlink()
    (directory / name).mkdir()
    assert name in refusal(directory)


BROKEN_JSON = [
    b"",
    b'{"model_type": "chamel',
    b"\xff\xfe\x00",
    b"[1, 2]",
    b"<html>",
    b"[" * 10**5,
    b"[%s]" % (b"9" * 5000),
]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", BROKEN_JSON, ids=range(len(BROKEN_JSON)))
def test_broken_json_is_named(directory, name, content):
    (directory / name).write_bytes(content)
    assert name in refusal(directory)
    assert mcsjd_core.detect(directory) == (None if name == "config.json" else "chameleon")


@pytest.mark.parametrize("name", ["vqgan.safetensors", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 4, 100, 2000, -1])
def test_truncated_tensor_files_are_named(directory, name, kept):
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[:kept])
    assert re.search(rf"{name} is (not a whole safetensors file|empty)", refusal(directory))


@pytest.mark.parametrize("name", ["vqgan.safetensors", "model.safetensors"])
def test_pickle_in_place_of_safetensors_is_never_run(directory, name, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (directory / name).write_bytes(pickle.dumps(Trap()))
    assert re.search(rf"{name} is not a whole safetensors file", refusal(directory))
    torch.save({"weight": torch.zeros(3)}, directory / name)
    assert re.search(rf"{name} is not a whole safetensors file", refusal(directory))
    assert not (tmp_path / "sprung").exists()


# -- shards --------------------------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


def test_sharded_checkpoint_loads_the_same(good, directory):
    split_into_shards(directory)
    single, sharded = (mcsjd_core.load(path).token_model.state_dict() for path in (good, directory))
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[name], sharded[name]) for name in single)


def test_missing_shards_are_named(directory):
    split_into_shards(directory)
    for i in (1, 3):
        (directory / f"model-0000{i}-of-00003.safetensors").unlink()
    assert "lacks model-00001-of-00003.safetensors, model-00003-of-00003.safetensors" in refusal(directory)


def test_truncated_shard_is_named(directory):
    split_into_shards(directory)
    shard = directory / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    assert "model-00002-of-00003.safetensors is not a whole" in refusal(directory)


@pytest.mark.parametrize("weight_map", [REMOVED, None, [], "model.safetensors"])
def test_index_without_a_map_is_named(directory, weight_map):
    split_into_shards(directory)
    edit(directory / INDEX, "weight_map", value=weight_map)
    message = refusal(directory)
    assert INDEX in message and "weight_map" in message


def test_index_with_an_empty_map(directory):
    split_into_shards(directory)
    edit(directory / INDEX, "weight_map", value={})
    assert "lacks every shard" in refusal(directory)


OUTSIDE = ["../outside.safetensors", "sub/outside.safetensors", "..\\outside.safetensors", "C:outside.safetensors"]


@pytest.mark.parametrize("shard", [*OUTSIDE, "absolute", "..", ".", "", "config.json", 7, None, ["a.safetensors"]])
def test_shard_names_cannot_lead_out_of_the_directory(directory, tmp_path, monkeypatch, shard):
    split_into_shards(directory)
    tensors = {"model.norm.weight": torch.ones(32)}
    (directory / "sub").mkdir()
    for place in (tmp_path, directory / "sub", directory):  # what is meant is there: only the rule keeps it out
        save_file(tensors, place / "outside.safetensors")
    shard = str(tmp_path / "outside.safetensors") if shard == "absolute" else shard
    edit(directory / INDEX, "weight_map", "model.norm.weight", value=shard)
    opened = []
    monkeypatch.setattr("mcsjd_core.checkpoints.checkpoint.open_tensors", lambda file: opened.append(file))
    with pytest.raises(InputError, match="which is no safetensors file beside it"):
        Checkpoint.of_directory(directory)
    assert opened == []


def test_links_to_shards_are_followed(good, directory, tmp_path):
    """Download caches keep the files elsewhere and link to them."""
    for file in directory.glob("*.safetensors"):
        file.rename(tmp_path / f"blob-{file.name}")
        file.symlink_to(tmp_path / f"blob-{file.name}")
    mcsjd_core.load(directory)


# -- tensors -------------------------------------------------------------------------------------------------------------


def test_missing_tensors_are_counted_and_listed_up_to_ten(directory):
    path = directory / "model.safetensors"
    change_tensors(path, lambda tensors: {n: t for n, t in tensors.items() if "mlp.up_proj" not in n})
    assert "2 missing: model.layers.0.mlp.up_proj.weight, model.layers.1.mlp.up_proj.weight" in refusal(directory)
    change_tensors(path, lambda tensors: {n: t for n, t in tensors.items() if "q_norm.weight" in n})
    message = refusal(directory)
    count = re.search(r"(\d+) missing: (.*?)\);", message)
    assert int(count[1]) == 2 * 13 + 3 - 2  # thirteen a layer and three, less the two that stayed
    assert count[2].endswith(" ...") and len(count[2].removesuffix(" ...").split(", ")) == 10


def test_unexpected_tensors_are_counted_and_listed_up_to_ten(directory):
    extra = {f"model.extra.{i:02d}": torch.zeros(1) for i in range(12)}
    change_tensors(directory / "model.safetensors", lambda tensors: tensors | extra)
    message = refusal(directory)
    assert "12 unexpected: model.extra.00, " in message and "model.extra.09 ..." in message
    assert "model.extra.10" not in message


@pytest.mark.parametrize(
    ("file", "name", "shape"),
    [
        ("model", "model.layers.1.mlp.down_proj.weight", [32, 47]),
        ("model", "model.embed_tokens.weight", [200, 32]),
        ("model", "model.layers.1.self_attn.k_norm.bias", [1, 8]),
        ("model", "lm_head.weight", [20, 32]),
        ("vqgan", "quantize.embedding.weight", [25, 4]),
        ("vqgan", "decoder.conv_out.bias", [1]),
    ],
)
def test_wrong_shapes_are_named_with_both_shapes(directory, file, name, shape):
    change_tensors(directory / f"{file}.safetensors", lambda tensors: tensors | {name: torch.zeros(shape)})
    message = refusal(directory)
    assert f"1 of wrong shape: {name} [" in message and " instead of [" in message


@pytest.mark.parametrize("rows", [(3, 8), (8, 8), (8,), ()])
def test_impossible_norm_rows_are_named(directory, rows):
    name = "model.layers.0.self_attn.q_norm.weight"
    change_tensors(directory / "model.safetensors", lambda tensors: tensors | {name: torch.zeros(rows)})
    assert "norm" in refusal(directory)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_quantised_tensors_are_refused(directory, dtype):
    """Converting them to numbers as they stand would give a model of noise."""
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensors(directory / "model.safetensors", lambda tensors: tensors | {name: tensors[name].to(dtype)})
    assert f"1 not floating-point: {name} {dtype}" in refusal(directory)


def test_several_kinds_of_misfit_are_told_at_once(directory):
    def spoil(tensors):
        tensors["spare"] = tensors.pop("model.norm.weight")
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :8].clone()
        return tensors

    change_tensors(directory / "model.safetensors", spoil)
    message = refusal(directory)
    assert all(
        part in message for part in ("1 missing: model.norm.weight", "1 unexpected: spare", "1 of wrong shape: lm_head")
    )


def test_a_refused_fill_leaves_the_module_empty(good):
    """Nothing half loaded stays behind."""
    module = torch.nn.Linear(2, 3, device="meta")
    with pytest.raises(InputError, match="1 missing: bias"):
        fill(module, [("weight", torch.zeros(3, 2))], dtype=torch.float32, device="cpu", source=good)
    assert module.weight.is_meta


# -- fields of config.json -----------------------------------------------------------------------------------------------

TRANSFORMER_FIELDS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
NEEDED = [(name,) for name in TRANSFORMER_FIELDS]


@pytest.mark.parametrize("value", [REMOVED, None])
@pytest.mark.parametrize("place", NEEDED)
def test_missing_fields_are_named(directory, place, value):
    edit(directory / "config.json", *place, value=value)
    message = refusal(directory)
    assert f"lacks the field `{place[-1]}`" in message and "config.json" in message


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("hidden_size",), "32"),
        (("hidden_size",), 0),
        (("hidden_size",), 31),
        (("num_hidden_layers",), 2.0),
        (("num_hidden_layers",), -1),
        (("num_hidden_layers",), True),
        (("num_attention_heads",), 64),
        (("num_key_value_heads",), 3),
        (("vocab_size",), {}),
        (("vocab_size",), 20),
        (("rms_norm_eps",), "small"),
        (("rope_theta",), [10000]),
        (("rope_theta",), 10**400),
        (("rope_parameters",), 3),
        (("rope_parameters",), {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
        (("rope_scaling",), {"type": "linear", "factor": 2.0}),
        (("swin_norm",), "no"),
        (("vq_config",), []),
        (("vq_config", "base_channels"), 33),
        (("vq_config", "channel_multiplier"), 2),
        (("vq_config", "channel_multiplier"), []),
        (("vq_config", "channel_multiplier"), [1, "1"]),
        (("vq_config", "num_embeddings"), 25),
        (("vq_config", "attn_resolutions"), 16),
    ],
)
def test_fields_that_make_no_sense_are_refused(directory, place, value):
    edit(directory / "config.json", *place, value=value)
    refusal(directory)


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_grid", [4]), ("image_grid", "4x4"), ("image_grid", [4, 0]), ("temperature", "hot"), ("top_k", [1])],
)
def test_generation_fields_that_make_no_sense_are_refused(directory, field, value):
    edit(directory / "generation_config.json", field, value=value)
    assert field in refusal(directory)


def test_tokenizer_of_another_model_is_refused(directory):
    build_tokenizer(CODEC.codebook_size - 1).save(str(directory / "tokenizer.json"))
    assert "the tokenizer belongs to another model" in refusal(directory)
    larger = build_tokenizer()
    larger.add_tokens(["<|image|>"])
    larger.save(str(directory / "tokenizer.json"))
    mcsjd_core.load(directory)  # a placeholder is never fed, so it needs no embedding (Lumina-mGPT has one such)
    edit(directory / "tokenizer.json", "added_tokens", value=[])
    edit(directory / "tokenizer.json", "model", "vocab", "word", value=999)
    assert "ids up to 999" in refusal(directory)


def test_fields_give_what_was_asked_for():
    fields = Fields({"n": 3, "x": 0.5, "on": True, "list": [1, 2], "part": {"n": 4}, "nothing": None}, "here")
    assert (fields.count("n"), fields.number("x"), fields.number("n"), fields.flag("on", False)) == (3, 0.5, 3, True)
    assert fields.counts("list") == (1, 2) and fields.part("part").count("n") == 4
    assert fields.count("nothing", 7) == 7 and fields.counts("absent", ()) == ()
    with pytest.raises(InputError, match="`part` in here lacks the field `m`"):
        fields.part("part").count("m")
    with pytest.raises(InputError, match="`x` in here has to be a number, got nan"):
        Fields({"x": float("nan")}, "here").number("x")
    for ask in (Fields.count, Fields.number):
        with pytest.raises(InputError, match="got True"):  # Python takes it for 1
            ask(Fields({"n": True}, "here"), "n")


# -- afterwards ----------------------------------------------------------------------------------------------------------


def test_a_correct_load_works_after_failures(good, directory):
    before = mcsjd_core.load(good).token_model.state_dict()
    broken = directory / "model.safetensors"
    content = broken.read_bytes()
    for damaged in (content[:-1], b"", content[: len(content) // 2]):
        broken.write_bytes(damaged)
        refusal(directory)
    broken.write_bytes(content)
    after = mcsjd_core.load(directory).token_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
