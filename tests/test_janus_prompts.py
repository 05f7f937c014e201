"""Janus: the form of its prompts, what is cut out of them, how long they may be, and tokenizers that do not fit."""

import json
import shutil

import pytest
import torch

import mcsjd_core
from mcsjd_core import InputError
from mcsjd_core.families.janus import CONTROL
from mcsjd_core.text.text_tokenizer import without_controls
from tiny_janus import (
    ASSISTANT,
    BEGIN,
    BOS,
    END,
    EOS,
    LETTERS,
    PAD,
    PLACEHOLDER,
    USER,
    build_tokenizer,
    prompt_ids,
    rows_of,
    unconditional,
    write_native,
    write_original,
)

pytest.importorskip("transformers", reason="transformers writes the checkpoint of these tests")

TEXTS = ["red apple", "a much longer one, with commas"]


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return write_native(tmp_path_factory.mktemp("janus") / "Janus-Pro-1B")


@pytest.fixture(scope="module")
def original(native, tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("janus") / "original", native)


@pytest.fixture(scope="module")
def model(native):
    return mcsjd_core.load(native)


def ids_of(model, prompt) -> list[list[int]]:
    """Ids of every prompt row without its padding, found by their embeddings."""
    table = model.token_model.model.embed_tokens.weight
    ids = torch.cdist(prompt.embeddings, table[None].expand(len(prompt.embeddings), -1, -1)).argmin(-1)
    return [row[int(padding) :].tolist() for row, padding in zip(ids, prompt.padding, strict=True)]


def test_prompts_have_the_published_form(model):
    rows = ids_of(model, model.prompt(["  red apple\n", TEXTS[1]], None, True))
    assert rows == rows_of(model, ["red apple", TEXTS[1]])
    assert rows[1][0] == rows[0][0] and rows[1][-1] == rows[0][-1] and set(rows[1][1:-1]) == {256 + 2 + 2}
    assert len(rows[0]) == len(rows[1])


def test_an_empty_text_leaves_out_message_and_separator(model):
    (row,) = ids_of(model, model.prompt([" "], None, False))
    assert model.tokenizer.decode(row, skip_special_tokens=False).replace(" ", "") == f"{BOS}{USER}:{ASSISTANT}:{BEGIN}"


def test_negative_prompts_take_the_place_of_the_pads(model):
    rows = ids_of(model, model.prompt(TEXTS, ["blurry", ""], True))
    assert rows[1] == prompt_ids(model.tokenizer, "blurry")
    assert rows[3] == unconditional(model.tokenizer, rows[2])


def test_a_prompt_that_leaves_no_room_for_the_picture_is_refused(model):
    """A context of 1024 tokens in config.json, and a picture of 576."""
    around = len(prompt_ids(model.tokenizer, ""))
    assert model.prompt(["x" * (448 - around)], None, True).embeddings.shape[1] == 448
    with pytest.raises(InputError, match=r"takes 449 tokens, and .* this size the model reads 448; shorten it"):
        model.prompt(["x" * (449 - around)], None, True)


@pytest.mark.parametrize(("written", "room"), [(700, 124), (None, 1472)])
def test_the_original_layout_has_its_context_in_language_config(original, tmp_path, written, room):
    """Where it leaves it out, it is that of LlamaConfig, 2048, like all that it leaves out."""
    path = shutil.copytree(original, tmp_path / "original")
    config = json.loads((path / "config.json").read_text())
    config["language_config"] |= {} if written is None else {"max_position_embeddings": written}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"the model reads {room}; shorten it"):
        mcsjd_core.load(path).prompt(["x" * 2000], None, True)


@pytest.mark.parametrize("control", [BOS, EOS, PAD, BEGIN, END, PLACEHOLDER, USER, ASSISTANT, "<|ref|>"])
def test_control_tokens_in_a_prompt_are_cut_out(model, control):
    assert CONTROL.fullmatch(control)
    if control == "<|ref|>":  # not in the tiny vocabulary: harmless letters there
        return
    whole = prompt_ids(model.tokenizer, "red apple")
    for text in (
        f"red {control}apple",
        f"{control}{control}red apple{control}",
        f"red <｜end▁of{control}▁sentence｜>apple",
    ):
        (row,) = ids_of(model, model.prompt([text], None, False))
        assert row == whole


def test_cutting_leaves_no_new_control_token_behind(model):
    text = without_controls(model.tokenizer, f"<begin_of{PAD}_image>ä{END}ö", model.control_ids)
    assert text == "äö"


def test_letters_that_the_vocabulary_adds_stay(model):
    text = f"Zwei Löwen in Köln, {LETTERS}"
    (row,) = ids_of(model, model.prompt([text], None, False))
    assert row == prompt_ids(model.tokenizer, text)
    assert set(map(model.tokenizer.token_to_id, LETTERS)) <= set(row)


def test_roles_of_janus_1_3b_are_plain_words(native, tmp_path):
    for name, options in (("Janus-1.3B", {}), ("old", {"roles": False})):
        path = shutil.copytree(native, tmp_path / name)
        build_tokenizer(**options).save(str(path / "tokenizer.json"))
        assert mcsjd_core.load(path).request("red") == "User: red\n\nAssistant:"
    assert mcsjd_core.load(native).request("red") == f"{USER}: red\n\n{ASSISTANT}:"


@pytest.mark.parametrize("missing", [BOS, PAD, BEGIN])
def test_missing_names_are_named(native, tmp_path, missing):
    path = shutil.copytree(native, tmp_path / "copy")
    text = (path / "tokenizer.json").read_text(encoding="utf-8")
    (path / "tokenizer.json").write_text(text.replace(missing, "<other>"), encoding="utf-8")
    with pytest.raises(InputError, match="this is not a Janus tokenizer") as refused:
        mcsjd_core.load(path)
    assert missing in str(refused.value)


def test_tokenizer_of_a_larger_model_is_refused(native, tmp_path):
    path = shutil.copytree(native, tmp_path / "copy")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"word{n}" for n in range(3)])
    vocabulary = json.loads(tokenizer.to_str())
    vocabulary["model"]["vocab"] |= {"more": 1000}
    (path / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match=r"ids up to 1000, the model embeds"):
        mcsjd_core.load(path)
