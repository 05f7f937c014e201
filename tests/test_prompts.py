"""What becomes of a prompt before any model reads it."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import mcsjd_core
from mcsjd_core import DecodeSettings, InputError
from mcsjd_core.pipeline.sampling import Drawing
from mcsjd_core.text.text_tokenizer import read_tokenizer
from mcsjd_core.text.words import Words


@pytest.fixture(scope="module")
def model():
    return mcsjd_core.load(mcsjd_core.EMBEDDED_MODEL)


@pytest.mark.parametrize("typed", ["red  apple", " red\tapple\n", "red\r\n\napple", "red\u00a0apple", "red\u3000apple"])
def test_white_space_does_not_change_what_is_drawn(model, typed):
    guided = DecodeSettings()
    plain = Drawing.of(model, ["red apple"], guided, negatives=["blue car"]).prompt
    same = Drawing.of(model, [typed], guided, negatives=[typed.replace("red", "blue").replace("apple", "car")]).prompt
    assert torch.equal(plain.embeddings, same.embeddings) and torch.equal(plain.padding, same.padding)


@pytest.mark.parametrize(("texts", "negatives"), [(["a \ud83d cat"], None), (["a cat"], ["\udcff"])])
def test_half_a_character_is_refused_in_a_sentence(model, texts, negatives):
    with pytest.raises(InputError, match=r"half a character \(U\+D[8C][3F][DF]\) at character [13]"):
        mcsjd_core.sample(model, texts, DecodeSettings(), negatives=negatives)


def test_texts_that_a_host_encoded_are_found_by_what_they_say():
    video = mcsjd_core.load(mcsjd_core.EMBEDDED_VIDEO_MODEL)
    grid, width = video.grid(), video.token_model.model.config.context_dim
    first = torch.zeros(1, 1, grid.rows, grid.columns, dtype=torch.int64)
    encoded = {"a\n cat": torch.ones(2, width), "": torch.zeros(1, width)}
    drawing = Drawing.of(video, [" a cat"], DecodeSettings(), encoded=encoded, first_codes=first)
    assert (drawing.prompt.context[0, :2] == 1).all()


# -- tokenizers, and words that a model does not know --------------------------------------------------------------------


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1, "apple": 2, "o": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def test_what_a_tokenizer_s_file_cuts_and_pads_is_not_obeyed(tmp_path):
    """Whoever saved it after an encoding with `truncation=True, padding="max_length"` has both in the file."""
    made = tokenizer()
    made.enable_truncation(2)
    made.enable_padding(length=8, pad_id=3)
    made.save(str(tmp_path / "tokenizer.json"))
    for text, ids in (("red apple red apple apple", [1, 2, 1, 2, 2]), ("red", [1])):
        assert read_tokenizer(tmp_path / "tokenizer.json").encode(text, add_special_tokens=False).ids == ids


def test_unknown_words_are_those_that_the_tokenizer_cannot_spell(tmp_path):
    words = Words(tokenizer(), tmp_path)
    assert words.unknown(["red car, apple", "Löwe; car o"]) == ["car", "Löwe"]
    assert words.note(["red apple!"]) is None
    assert words.note(["a car"]) == "This model does not know a, car: what it draws for that is left to chance."


def test_a_list_of_words_beside_the_tokenizer_counts_more_than_its_pieces(tmp_path):
    (tmp_path / "words.txt").write_text("red\nApple\nöl\n", encoding="utf-8")
    words = Words(tokenizer(), tmp_path)
    assert words.unknown(["Red apple with o, Öl"]) == ["with", "o"]
    assert words.note(["o"]).endswith(f"the words it knows are in {tmp_path / 'words.txt'}.")


@pytest.mark.parametrize("content", ["\ufeffred apple".encode(), "red apple caf\xe9".encode("latin-1")])
def test_a_list_of_words_as_editors_write_it_is_read(tmp_path, content):
    (tmp_path / "words.txt").write_bytes(content)
    assert Words(tokenizer(), tmp_path).unknown(["red apple car"]) == ["car"]


def test_a_tokenizer_of_bytes_spells_every_word(model):
    assert Words(model.tokenizer, model.words.directory / "none").unknown(["zzyzx 中文"]) == []


def test_prompts_are_told_whose_end_the_tokenizer_cuts_off(tmp_path):
    cutting = tokenizer()
    cutting.enable_truncation(3)
    words = Words(cutting, tmp_path)
    assert words.note(["red apple red", "", "red apple"]) is None
    sentence = "This model reads 3 tokens of a prompt at the most: the end of {} is left out."
    assert words.note(["red red red apple", "red"]) == sentence.format('"red red red apple"')
    long = "apple " * 9
    assert words.note([long, "red o red o", long]) == sentence.format(f'"{long[:40]}...", "red o red o"')
    unknown, cut = words.note(["a red red red"]).splitlines()
    assert unknown.startswith("This model does not know a:") and cut == sentence.format('"a red red red"')


def test_cleaning_shortens_a_prompt_before_it_is_cut(tmp_path):
    """One that is short enough after cleaning is read whole, unless the cleaning itself stops before its end."""
    cutting = tokenizer()
    cutting.enable_truncation(3)
    words = Words(cutting, tmp_path, cleaned=lambda text: text[:20].replace("o", ""), longest=20)
    assert words.note(["red o o o apple"]) is None
    limit = "This model reads 3 tokens and 20 characters of a prompt at the most: the end of "
    for text in ("red red o o red red", "red o o o o o o o apple"):
        assert words.note([text]).startswith(limit + f'"{text}" is')
