"""Prompt files: every kind says the same, and what is wrong with a row or a file is one sentence."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from mcsjd_core import InputError
from mcsjd_core.scale.prompt_file import Row, digest, read_rows, survey

ROWS = [
    {"prompt": "red apple, shiny", "negative": "blue", "seed": 2**64 - 1, "size": "24x16", "id": "apple-1"},
    {"prompt": 'say "hi"\nthere', "negative": None, "seed": None, "size": None, "id": None},
]
CSV = (
    "Prompt,negative,seed,size,id,note\n"
    '"red apple, shiny",blue,18446744073709551615,24x16,apple-1,x\n\n'
    '"say ""hi""\nthere",,,,,\n'
)
WANTED = [Row(1, "red apple, shiny", "blue", 2**64 - 1, "24x16", "apple-1"), Row(2, 'say "hi"\nthere')]


def write(tmp_path, name: str, text: str):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def written(tmp_path, kind: str):
    if kind == "csv":
        return write(tmp_path, "a.csv", CSV)
    if kind == "jsonl":
        return write(tmp_path, "a.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, ROWS)))
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file, columns = tmp_path / "a.parquet", {name: [row[name] for row in ROWS] for name in ROWS[0]}
    columns["seed"] = arrow.array(columns["seed"], arrow.uint64())
    parquet.write_table(arrow.table(columns | {"note": [[1], [2]]}), file)
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    file = written(tmp_path, kind)
    assert list(read_rows(file)) == WANTED and survey(file)[0] == 2


def test_a_text_file_has_a_prompt_on_every_line_that_is_not_blank(tmp_path):
    assert list(read_rows(write(tmp_path, "a.txt", "\ufeffred apple\r\n\n  fox \n"))) == [
        Row(1, "red apple"),
        Row(2, "fox"),
    ]


def test_columns_that_are_not_read_are_told(tmp_path):
    assert survey(written(tmp_path, "csv")) == (2, ["note"])
    assert survey(write(tmp_path, "a.txt", "x")) == (1, [])
    later = '{"prompt": "fox"}\n{\n{"prompt": "owl", "seeds": 3}\n{"prompt": "cat", "seeds": 4, "note": ""}'
    assert survey(write(tmp_path, "a.jsonl", later)) == (4, ["seeds", "note"])
    assert survey(write(tmp_path, "a.csv", "prompt,\nfox,\n")) == (1, [])


def test_a_table_with_gaps_may_have_made_floats_of_seeds(tmp_path):
    assert list(read_rows(write(tmp_path, "a.csv", "prompt,seed\nx,5.0\ny,\n"))) == [Row(1, "x", seed=5), Row(2, "y")]
    assert list(read_rows(write(tmp_path, "a.jsonl", '{"prompt": "x", "seed": 5.0}'))) == [Row(1, "x", seed=5)]


def test_a_class_is_a_prompt(tmp_path):
    assert list(read_rows(write(tmp_path, "a.jsonl", '{"class": 207}\n{"class": "fox"}'))) == [
        Row(1, "207"),
        Row(2, "fox"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"prompt": "x", "class": "y"}', "got both"),
        ('{"negative": "x"}', "got neither"),
        ('{"prompt": ["x"]}', "has to be a text"),
        ('{"prompt": "x", "seed": -1}', "whole number between 0"),
        ('{"prompt": "x", "seed": 18446744073709551616}', "whole number between 0"),
        ('{"prompt": "x", "seed": true}', "whole number between 0"),
        (f'{{"prompt": "x", "seed": "{"9" * 5000}"}}', "whole number between 0"),
        ('{"prompt": "x", "seed": 1.5}', "whole number between 0 and 2^64 - 1, got 1.5"),
        ("[" * 100_000, "not valid JSON"),
        ('{"prompt": "x", "id": "../x"}', "file name"),
        ('{"prompt": "x", "id": ".x"}', "file name"),
        ('{"prompt": "x", "id": "NUL.2"}', "is a device on Windows"),
        (r'{"prompt": "a \ud83d cat"}', "`prompt` holds half a character (U+D83D) at character 3"),
        (r'{"prompt": "x", "negative": "\udcff"}', "`negative` holds half a character"),
        (r'{"prompt": "x", "size": "\ud83d"}', "`size` holds half a character"),
        ('{"prompt": "x", "id": "' + 67 * "字" + '"}', "at most 200 bytes"),
    ],
)
def test_a_bad_row_says_why_and_the_next_one_is_read(tmp_path, line, sentence):
    bad, good = read_rows(write(tmp_path, "a.jsonl", f'{line}\n{{"prompt": "fox"}}'))
    assert sentence in bad.error and good == Row(2, "fox")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.doc", "x", "ends in .txt"),
        ("a.txt", " \n", "holds no prompts"),
        ("a.csv", "caption\nx\n", "no column `prompt`"),
        ("a.csv", 'prompt\n"x', "not a complete table"),
        ("a.parquet", "x", "not a whole parquet file"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, text, sentence):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=sentence):
        survey(write(tmp_path, name, text))


def test_a_file_that_is_not_there_or_no_text_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        survey(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not text in UTF-8"):
        survey(tmp_path / "b.txt")


def test_a_table_row_with_too_many_values_is_its_own_fault(tmp_path):
    bad, good = read_rows(write(tmp_path, "a.csv", "prompt\na, b\nfox\n"))
    assert "2 values for 1 columns" in bad.error and good == Row(2, "fox")


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    line = {"txt": "red apple", "csv": "red apple", "jsonl": '{"prompt": "red apple"}'}[kind]
    peaks = []
    for count in (2000, 20_000):
        file = write(tmp_path, f"{count}.{kind}", "\n".join([*(["prompt"] if kind == "csv" else []), *[line] * count]))
        tracemalloc.start()
        assert survey(file)[0] == sum(1 for _ in read_rows(file)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**16


def test_a_digest_tells_whether_a_file_is_the_same(tmp_path):
    file = write(tmp_path, "a.txt", "x")
    before = digest(file)
    assert digest(write(tmp_path, "b.txt", "x")) == before != digest(write(tmp_path, "a.txt", "y"))
