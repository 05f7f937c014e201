"""Faults: each is answered by one sentence in the node, and the next run works."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfy_host import draw, sentence


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


@pytest.mark.parametrize("changes", [{"top_p": 0.0}, {"temperature": float("inf")}, {"batch_size": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_named(pack, model, changes):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, **changes)
    sentence(error)


@pytest.mark.parametrize("changes", [{"coupling": "plain AR"}, {"record_details": True}])
def test_where_several_trajectories_cannot_be_is_told_in_the_words_of_the_node(pack, model, changes):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, **{"coupling": "seed-exact (Gumbel)", "trajectories": 2} | changes)
    assert ("record_details" if "record_details" in changes else "plain AR") in sentence(error)


@pytest.mark.parametrize("execution", ["fast", "captured"])
def test_iterations_that_cannot_be_run_so_are_told_before_anything_is_read(pack, model_folder, execution):
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model="tiny", dtype="auto", execution=execution)
    assert "set execution to eager" in sentence(error) or "'fast'" in sentence(error)


@pytest.mark.parametrize(("dtype", "advice"), [("bf16", "eager, or dtype to fp8 weights."), ("fp8 weights", "eager.")])
def test_captured_runs_name_what_makes_weights_fit(pack, model, monkeypatch, dtype, advice):
    monkeypatch.setattr(pack.runtime.mm, "load_models_gpu", lambda models, **options: None)
    monkeypatch.setattr(pack.runtime, "follow_weights", lambda patcher: None)
    monkeypatch.setattr(model.token_patcher, "load_device", torch.device("cuda"))
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, replace(model, execution="captured", dtype=dtype))
    assert "do not all fit on cuda" in sentence(error) and sentence(error).endswith(f"set execution to {advice}")


def test_what_a_compiler_raises_is_one_sentence(pack, model_folder, monkeypatch):
    def fail(*_):
        raise RuntimeError("no compiler\nwith a long story")

    runners = pack.part("mcsjd_core.decoding.runners")
    monkeypatch.setattr(runners, "_compiled", lambda: runners.Compiled(fail))
    (model,) = pack.run("MCSJD_LoadModel", model="tiny", dtype="auto", execution="compiled")
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model)
    assert "no compiler" in sentence(error)
    draw(pack, pack.run("MCSJD_LoadModel", model="tiny", dtype="auto")[0])


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


def damage_shape(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["intermediate_size"] += 8
    (directory / "config.json").write_text(json.dumps(config))


def damage_pickle(directory: Path) -> None:
    torch.save({"model.norm.weight": torch.ones(1)}, directory / "model.safetensors")


def damage_config(directory: Path) -> None:
    (directory / "config.json").write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        damage_json,
        damage_config,
        damage_family,
        damage_field,
        damage_shape,
        damage_weights,
        damage_pickle,
        damage_codec,
        damage_tokenizer,
    ],
    ids=lambda f: f.__name__,
)
def test_damaged_checkpoint_is_offered_and_says_what_is_wrong(pack, model_folder, tiny_checkpoint, damage):
    shutil.copytree(tiny_checkpoint, model_folder / "damaged")
    damage(model_folder / "damaged")
    assert "damaged" in pack.folders.checkpoints()
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model="damaged", dtype="auto")
    sentence(error)


class Bomb:
    """What a pickle could do: leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_under_a_safetensors_name_is_not_opened(pack, model_folder, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, model_folder / "pickled")
    torch.save({"model.norm.weight": Bomb(tmp_path / "mark")}, model_folder / "pickled" / "model.safetensors")
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_LoadModel", model="pickled", dtype="auto")
    assert "model.safetensors" in sentence(error) and not (tmp_path / "mark").exists()


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


def test_model_that_gives_nan_is_one_sentence(pack, model, monkeypatch):
    token_model = model.family.token_model
    logits = token_model.logits
    monkeypatch.setattr(token_model, "logits", lambda *arguments: logits(*arguments) * float("nan"))
    with pytest.raises(pack.core.DecodingError) as error:
        draw(pack, model)
    assert "NaN" in sentence(error)


@pytest.mark.parametrize("shape", [(1, 0, 8, 3), (1, 8, 0, 3), (0, 8, 8, 3), (8, 8, 3), (1, 8, 8, 2)])
def test_what_is_no_picture_is_not_encoded(pack, model, shape):
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_Encode", model=model, image=torch.zeros(shape))
    sentence(error)
    pack.run("MCSJD_Encode", model=model, image=torch.zeros(1, 8, 12, 3))


@pytest.mark.parametrize("rows", [0, 4, 5, -1])
def test_rows_to_keep_are_fewer_than_the_picture_has(pack, model, rows):
    tokens, _ = draw(pack, model)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_CropTokens", tokens=tokens, rows=rows)
    assert "between 1 and 3" in sentence(error)


def test_cropped_tokens_can_be_cropped_further_and_no_less(pack, model):
    (upper,) = pack.run("MCSJD_CropTokens", tokens=draw(pack, model)[0], rows=2)
    pack.run("MCSJD_CropTokens", tokens=upper, rows=1)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_CropTokens", tokens=upper, rows=3)
    assert "first 2 are left" in sentence(error)


EXACT = "seed-exact (Gumbel)"


def cropped(pack, model):
    return pack.run("MCSJD_CropTokens", tokens=draw(pack, model)[0], rows=2)[0]


def test_cropped_tokens_are_not_decoded(pack, model):
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_Decode", model=model, tokens=cropped(pack, model))
    assert "2 of 4 rows" in sentence(error)


def test_cropped_tokens_do_not_warm(pack, model):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, coupling=EXACT, initialiser="warm", warm_tokens=cropped(pack, model))
    assert "whole pictures" in sentence(error)


def test_whole_first_tokens_leave_nothing_to_draw(pack, model):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, first_tokens=draw(pack, model)[0])
    assert "nothing to draw" in sentence(error)


@pytest.mark.parametrize("place", ["first_tokens", "warm_tokens"])
@pytest.mark.parametrize("field", ["model_identity", "size"])
def test_connected_tokens_of_another_model_or_size_are_refused(pack, model, place, field):
    tokens = draw(pack, model)[0] if place == "warm_tokens" else cropped(pack, model)
    other = replace(tokens, **{field: "16x16" if field == "size" else "other"})
    initialiser = "warm" if place == "warm_tokens" else "random"
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, coupling=EXACT, initialiser=initialiser, size="12x8", **{place: other})
    assert ("16x16" if field == "size" else "drawn by") in sentence(error)


def test_first_tokens_of_a_batch_of_another_size_are_named(pack, model):
    tokens, _ = draw(pack, model, batch_size=3)
    (upper,) = pack.run("MCSJD_CropTokens", tokens=tokens, rows=2)
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, batch_size=2, first_tokens=upper)
    assert "first_tokens is a batch of 3, but this run draws 2; connect a single one" in sentence(error)


def test_warm_tokens_that_are_not_used_stop_nothing(pack, model):
    tokens, _ = draw(pack, model, batch_size=3)
    unused = replace(tokens, size="16x16")
    assert len(draw(pack, model, batch_size=2, initialiser="random", warm_tokens=unused)[0].tokens) == 2


@pytest.mark.parametrize("name", ["warm_tokens", "picture_tokens", "redraw_mask"])
def test_other_batches_that_do_not_fit_are_named_before_the_model_is_moved(pack, model, monkeypatch, name):
    tokens, _ = draw(pack, model, batch_size=3)
    given = {
        "warm_tokens": {"warm_tokens": tokens, "initialiser": "warm", "coupling": EXACT},
        "picture_tokens": {"picture_tokens": tokens, "redraw_mask": torch.ones(1, 8, 8)},
        "redraw_mask": {"picture_tokens": draw(pack, model)[0], "redraw_mask": torch.ones(3, 8, 8)},
    }
    monkeypatch.setattr(pack.part("nodes.runtime"), "follow_weights", lambda *_: pytest.fail("the model was moved"))
    with pytest.raises(pack.core.InputError, match=f"{name} is a batch of 3"):
        draw(pack, model, batch_size=2, **given[name])


def test_a_mask_without_a_batch_is_one_mask(pack, model):
    """The host's own nodes take [H, W] and [B, 1, H, W], too."""
    tokens, mask = draw(pack, model)[0], torch.zeros(1, 8, 12)
    mask[:, 4:] = 1
    drawn = [
        draw(pack, model, seed=9, picture_tokens=tokens, redraw_mask=each)[0].tokens
        for each in (mask, mask[0], mask[None])
    ]
    assert drawn[0].equal(drawn[1]) and drawn[0].equal(drawn[2]) and not drawn[0].equal(tokens.tokens)


def encode_at(pack, model, size: str) -> None:
    pack.run("MCSJD_Encode", model=model, image=torch.rand(1, 8, 12, 3), size=size)


def draw_at(pack, model, size: str) -> None:
    draw(pack, model, size=size)


@pytest.mark.parametrize("use", [encode_at, draw_at], ids=lambda f: f.__name__)
def test_a_size_that_the_model_does_not_offer_lists_those_it_does(pack, model, use):
    with pytest.raises(pack.core.InputError) as error:
        use(pack, model, "9x9")
    assert "'9x9'" in sentence(error) and "12x8" in sentence(error)


def test_pictures_of_another_run_are_refused_by_the_map(pack, model):
    _, stats = draw(pack, model)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_Stats", stats=stats, image=torch.rand(2, 8, 12, 3))
    sentence(error)


@pytest.mark.parametrize("chart", ["pie", "acceptance trajectories"])
def test_a_chart_that_cannot_be_drawn_says_why(pack, model, chart):
    _, stats = draw(pack, model)
    with pytest.raises(pack.core.InputError) as error:
        pack.run("MCSJD_Stats", stats=stats, chart=chart)
    assert ("'pie'" if chart == "pie" else "record_details") in sentence(error)


def test_a_batch_of_none_is_one_sentence(pack, model):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, batch_size=0)
    assert "batch_size" in sentence(error)


@pytest.mark.parametrize(("name", "is_there", "installed", "said"), [
    ("GLM-Image", True, True, None),
    (None, False, True, None),  # linked: known when it runs
    ("GLM-Image", False, True, "There is no diffusion model 'GLM-Image'"),
    ("GLM-Image", True, False, "No module named 'accelerate'"),
])  # fmt: skip
def test_a_decoder_that_cannot_be_loaded_is_told_before_anything_is_drawn(
    pack, model_folder, monkeypatch, name, is_there, installed, said
):
    diffusion = pack.part("mcsjd_core.pipeline.diffusion")
    for part in diffusion.PARTS if is_there else ():
        (model_folder / "GLM-Image" / part).mkdir(parents=True)
        (model_folder / "GLM-Image" / diffusion.INDEX).touch()
    absent = set() if installed else {"accelerate"}
    monkeypatch.setattr(diffusion, "find_spec", lambda name: None if name in absent else name, raising=False)
    answer = pack.nodes["MCSJD_LoadDiffusion"].validate_inputs(name)
    if said is None:
        assert answer is True
    else:
        assert said in answer and answer.endswith(".") and "\n" not in answer


@pytest.mark.parametrize("prompts", [7, ["owl", None], torch.zeros(2)])
def test_prompts_that_are_no_texts_are_refused(pack, model, prompts):
    with pytest.raises(pack.core.InputError) as error:
        draw(pack, model, prompts=prompts)
    assert "Prompt List" in sentence(error)
