"""The Chameleon family's prompts and vocabularies: rows of the documented form, and no control token from a user's text."""
# ruff: noqa: F811 (tests take imported fixtures by name)

import json
import shutil

import pytest
import torch

import mcsjd_core
from mcsjd_core import InputError
from mcsjd_core.families.chameleon import CONTROL, Chameleon, Vocabulary, image_token_name
from mcsjd_core.text.text_tokenizer import control_ids
from test_chameleon import BEGIN, BOS, TURN, directory, model  # noqa: F401
from tiny_checkpoint import CONTROLS

# -- prompts -------------------------------------------------------------------------------------------------------------


def ids_of(model: Chameleon, prompt) -> list[list[int]]:
    """Ids of every prompt row without its padding, found by their embeddings."""
    table = model.token_model.model.embed_tokens.weight
    ids = torch.cdist(prompt.embeddings, table[None].expand(len(prompt.embeddings), -1, -1)).argmin(-1)
    assert torch.equal(table[ids], prompt.embeddings)
    return [row[int(padding) :].tolist() for row, padding in zip(ids, prompt.padding, strict=True)]


def text(model: Chameleon, string: str) -> list[int]:
    return model.tokenizer.encode(string, add_special_tokens=False).ids


def test_prompt_rows_have_the_documented_form(model):
    prompt = model.prompt(["red apple", "owl"], None, False)
    assert not prompt.guided and prompt.batch == 2
    assert ids_of(model, prompt) == [[BOS, *text(model, t), TURN, BEGIN] for t in ("red apple", "owl")]
    assert prompt.padding.tolist() == [0, len(text(model, "red apple")) - len(text(model, "owl"))]


def test_unconditional_rows_alternate_and_hold_no_text(model):
    prompt = model.prompt(["red apple", "owl"], None, True)
    assert prompt.guided and prompt.batch == 2
    rows = ids_of(model, prompt)
    assert rows[0::2] == [[BOS, *text(model, t), TURN, BEGIN] for t in ("red apple", "owl")]
    assert rows[1::2] == [[BOS, BEGIN]] * 2


def test_an_empty_prompt_of_anole_keeps_its_form(directory, tmp_path):
    """`[0, 8710, 8197]` there; the embedded models were trained without the turn's end before a picture without text."""
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(
        json.dumps({k: v for k, v in settings.items() if k != "image_grid"})
    )
    anole = mcsjd_core.load(tmp_path)
    assert ids_of(anole, anole.prompt([""], None, True)) == [[BOS, TURN, BEGIN], [BOS, BEGIN]]
    own = mcsjd_core.load(directory)
    assert ids_of(own, own.prompt([""], None, True)) == [[BOS, BEGIN]] * 2


def test_negative_prompts_take_the_place_of_the_empty_one(model):
    rows = ids_of(model, model.prompt(["red apple", "owl"], ["blurry", ""], True))
    assert rows[1] == [BOS, *text(model, "blurry"), TURN, BEGIN]
    assert rows[3] == [BOS, BEGIN]


def test_a_prompt_that_leaves_no_room_for_the_picture_is_refused(model):
    """A context of 4096 tokens, and a picture of 4 x 6 codes."""
    assert model.prompt(["x" * (4096 - 24 - 4)], None, True).embeddings.shape[1] == 4096 - 24
    with pytest.raises(InputError, match=r"takes 4073 tokens, and .* this size the model reads 4072; shorten it"):
        model.prompt(["x" * (4096 - 24 - 3)], None, True)


@pytest.mark.parametrize("control", ["<s>", "</s>", "<pad>", "<unk>", *CONTROLS])
def test_control_tokens_in_a_prompt_are_stripped(model, control):
    clean = text(model, "red") + text(model, "apple")
    assert text(model, f"red{control}apple") != clean  # the tokenizer by itself lets them through
    assert model.text_ids(f"red{control}apple") == clean
    assert ids_of(model, model.prompt([control * 3], None, False)) == [[BOS, BEGIN]]


def test_stripping_leaves_no_new_control_token_behind(model):
    ids = model.text_ids("<reserv<s>ed08706> <<eoss>eoss>")
    assert ids and not set(ids) & model.control_ids


def test_image_and_reserved_tokens_are_stripped_however_the_tokenizer_lists_them(directory, tmp_path):
    """In some published tokenizers they are ordinary entries, or added ones that are not marked special."""
    from tokenizers import AddedToken, Tokenizer

    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(image_token_name(code), normalized=False) for code in (0, 12)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = mcsjd_core.load(tmp_path)
    assert text(model, "IMGIMGAZ") == [4]
    assert model.text_ids("IMGIMGAZred IMGIMGBCZ") == [*text(model, "red"), *text(model, " ")]


def test_letters_that_a_tokenizer_adds_are_text(directory, tmp_path):
    from tokenizers import Tokenizer

    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens(["ö"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = mcsjd_core.load(tmp_path)
    assert tokenizer.token_to_id("ö") in model.text_ids("Löwe") and model.text_ids("Löwe") == text(model, "Löwe")


def test_control_tokens_are_known_by_name_and_by_being_special():
    from tokenizers import Tokenizer, models

    words = ["red", "<b>", "<s>", "<reserved08799>", "<sentinel:7>", "IMGIMGBCZ", "IMGIMG", "<image>", "<eoss>"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="red"))
    tokenizer.add_special_tokens(["<|image|>"])
    tokenizer.add_tokens(["ö"])
    assert control_ids(tokenizer, CONTROL) == {2, 3, 4, 5, 7, 8, 9}


# -- vocabulary ----------------------------------------------------------------------------------------------------------


def names(codebook_size: int = 12, first: int = 4) -> dict[str, int]:
    images = {image_token_name(code): first + code for code in range(codebook_size)}
    return {"<s>": 0, "<racm3:break>": 100, "<reserved08706>": 101} | images


def test_image_names_spell_the_code():
    spelled = {0: "IMGIMGAZ", 9: "IMGIMGJZ", 10: "IMGIMGBAZ", 12: "IMGIMGBCZ", 8191: "IMGIMGIBJBZ"}
    assert {code: image_token_name(code) for code in spelled} == spelled


def test_ids_are_looked_up_by_name():
    assert Vocabulary.from_names(names(), 12) == Vocabulary(bos=0, begin_of_image=100, turn_end=101, first_code=4)
    assert Vocabulary.from_names(names(first=2000), 12).first_code == 2000


@pytest.mark.parametrize("missing", ["<s>", "<racm3:break>", "<reserved08706>", "IMGIMGAZ"])
def test_missing_names_are_named(missing):
    vocabulary = names()
    del vocabulary[missing]
    with pytest.raises(InputError, match=f"lacks {missing}"):
        Vocabulary.from_names(vocabulary, 12)


def test_shifted_and_absent_image_ids_are_refused():
    shifted = names() | {image_token_name(code): 5 + code for code in range(6, 12)}
    with pytest.raises(InputError, match="IMGIMGGZ is not at id 10"):
        Vocabulary.from_names(shifted, 12)
    swapped = names() | {"IMGIMGBZ": 6, "IMGIMGCZ": 5}
    with pytest.raises(InputError, match="IMGIMGBZ is not at id 5"):
        Vocabulary.from_names(swapped, 12)
    with pytest.raises(InputError, match="IMGIMGBCZ is not at id 16"):
        Vocabulary.from_names(names(12), 13)  # one code fewer than the codec has
