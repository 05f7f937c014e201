"""The command line, run in this process on a tiny random checkpoint; the files it writes are read back."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcsjd_core import COUPLINGS, METHODS, LawSettings, load
from mcsjd_core.cli import FAILED, INTERRUPTED, files, generate, main
from mcsjd_core.cli.compare import _summary_row
from mcsjd_core.reporting.report import describe_law
from tiny_checkpoint import CODEC, write_tiny_checkpoint

ROWS, COLUMNS = 6, 4
WIDTH, HEIGHT = COLUMNS * CODEC.downsampling, ROWS * CODEC.downsampling  # pixels of a picture
DEFAULTS = {"image_grid": [ROWS, COLUMNS], "guidance_scale": 2.0, "temperature": 0.9, "top_k": 12, "top_p": 1.0}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random model in the format of the real ones, with defaults of its own."""
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")
    (path / "generation_config.json").write_text(json.dumps(DEFAULTS))
    return path


@pytest.fixture
def cli(checkpoint, tmp_path, monkeypatch):
    """Runs a command line in tmp_path with the tiny model; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *argv: main([*map(str, argv), "--model", str(checkpoint), "--quiet"])


@pytest.mark.parametrize("command", [("generate",), ("compare", "--windows", 4)])
def test_words_that_the_model_does_not_know_are_told(cli, checkpoint, tmp_path, capsys, command):
    words = checkpoint / "words.txt"
    words.write_text("red\napple\n")
    try:
        assert cli(*command, "red  apple") == 0
        assert capsys.readouterr().err == ""
        assert cli(*command, "red car") == 0
    finally:
        words.unlink()
    assert capsys.readouterr().err == (
        f"This model does not know car: what it draws for that is left to chance; the words it knows are in {words}.\n"
    )


def tokens_of(path: Path) -> torch.Tensor:
    return files.read_tokens(path)


def test_generate_writes_a_picture_of_the_models_size(cli, tmp_path):
    assert cli("generate", "red apple") == 0
    with Image.open(tmp_path / "picture.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (WIDTH, HEIGHT))


def test_a_codec_that_gives_no_numbers_is_told_and_nothing_is_written(cli, tmp_path, monkeypatch, capsys):
    from mcsjd_core.codecs.vqgan import VQGAN

    decode = VQGAN.decode_clips
    monkeypatch.setattr(VQGAN, "decode_clips", lambda self, codes: decode(self, codes) * float("nan"))
    assert cli("generate", "red apple") == FAILED
    assert "pixels that are not numbers (NaN)" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_generate_numbers_the_pictures_of_several_prompts_and_a_batch(cli, tmp_path):
    assert cli("generate", "red apple", "rocket", "--batch", 2, "--out", "new/out.png") == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"out-{n}.png" for n in (1, 2, 3, 4)]


def test_generate_draws_row_k_as_a_single_run_with_seed_plus_k_would(cli, tmp_path):
    cli("generate", "rocket", "--batch", 3, "--seed", 5, "--save-tokens", "batch.json", "--coupling", "gumbel_exact")
    cli("generate", "rocket", "--seed", 7, "--save-tokens", "single.json", "--coupling", "gumbel_exact")
    assert torch.equal(tokens_of(tmp_path / "batch.json")[2:], tokens_of(tmp_path / "single.json"))


@pytest.mark.parametrize("coupling", METHODS)
def test_generate_takes_every_sampler_setting(cli, tmp_path, coupling):
    settings = (
        "--window",
        5,
        "--cfg",
        1.5,
        "--temperature",
        0.8,
        "--top-k",
        9,
        "--top-p",
        0.95,
        "--min-p",
        0.02,
        "--seed",
        3,
    )
    assert cli("generate", "x", "--coupling", coupling, *settings, "--initialiser", "left", "--trace", "t.json") == 0
    recorded = json.loads((tmp_path / "t.json").read_text())["settings"]
    assert recorded.pop("law") == {"cfg_scale": 1.5, "temperature": 0.8, "top_k": 9, "top_p": 0.95, "min_p": 0.02}
    given = {"coupling": coupling, "window": 5, "initialiser": "left", "seed": 3}
    assert recorded == given | {
        "trace_detail": False,
        "trajectories": 1,
        "execution": "eager",
        "part": 0,
        "row_seeds": "counted",
    }


def test_settings_left_out_are_the_checkpoints_own(cli, tmp_path):
    cli("generate", "x", "--trace", "t.json")
    law = json.loads((tmp_path / "t.json").read_text())["settings"]["law"]
    assert law == {"cfg_scale": 2.0, "temperature": 0.9, "top_k": 12, "top_p": 1.0, "min_p": 0.0}


def test_the_negative_prompt_changes_the_law(cli, tmp_path):
    for name, more in (("a", ()), ("b", ("--negative", "blue"))):
        cli("generate", "x", "--coupling", "gumbel_exact", "--save-tokens", f"{name}.json", *more)
    assert not torch.equal(tokens_of(tmp_path / "a.json"), tokens_of(tmp_path / "b.json"))


def test_the_trace_adds_up_to_the_grid_and_has_details_on_request(cli, tmp_path):
    assert cli("generate", "x", "--batch", 2, "--window", 8, "--trace", "t.json", "--trace-detail") == 0
    trace = json.loads((tmp_path / "t.json").read_text())
    assert trace["grid"] == {"frames": 1, "rows": ROWS, "columns": COLUMNS} and trace["size"] == f"{WIDTH}x{HEIGHT}"
    for picture in trace["pictures"]:
        assert sum(picture["committed"]) == picture["num_tokens"] == ROWS * COLUMNS
        assert len(picture["committed"]) == len(picture["starts"]) == len(picture["seconds"]) == picture["nfe"]
        assert all(len(picture[detail]) == picture["nfe"] for detail in ("acceptance", "tv", "collision", "entropy"))


@pytest.mark.parametrize("keep", [1, 4, ROWS - 1])
def test_continuing_a_picture_keeps_the_tokens_of_its_upper_rows(cli, checkpoint, tmp_path, keep):
    Image.effect_mandelbrot((50, 70), (-2, -1.5, 1, 1.5), 20).save(tmp_path / "start.png")
    assert (
        cli("generate", "x", "--continue-from", "start.png", "--keep-rows", keep, "--save-tokens", "t.safetensors") == 0
    )
    encoded = files.read_codes(tmp_path / "start.png", load(checkpoint)).flatten(1)
    given = keep * COLUMNS
    assert torch.equal(tokens_of(tmp_path / "t.safetensors")[:, :given], encoded[:, :given])


def test_half_of_a_picture_is_kept_if_nothing_else_is_said(cli, tmp_path):
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    assert cli("generate", "x", "--continue-from", "clear.png", "--trace", "t.json") == 0
    assert json.loads((tmp_path / "t.json").read_text())["pictures"][0]["num_tokens"] == (ROWS - ROWS // 2) * COLUMNS


def test_transparency_is_white(checkpoint, tmp_path):
    model = load(checkpoint)
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    assert torch.equal(files.read_codes(tmp_path / "clear.png", model), files.read_codes(tmp_path / "white.png", model))


@pytest.mark.parametrize("name", ["tokens.json", "tokens.safetensors"])
def test_a_warm_start_from_its_own_tokens_is_accepted_in_whole_windows(cli, tmp_path, name):
    cli("generate", "x", "--coupling", "autoregressive", "--save-tokens", name)
    again = ("--coupling", "gumbel_exact", "--window", 8, "--warm-tokens", name, "--save-tokens", "again.json")
    assert cli("generate", "x", *again, "--trace", "t.json") == 0
    assert torch.equal(tokens_of(tmp_path / name), tokens_of(tmp_path / "again.json"))
    assert json.loads((tmp_path / "t.json").read_text())["nfe"] == ROWS * COLUMNS // 8


def test_the_progress_bar_counts_every_token_once(checkpoint, tmp_path, monkeypatch):
    bars = []
    make_bar = generate.token_bar
    monkeypatch.setattr(generate, "token_bar", lambda total, quiet: bars.append(make_bar(total, quiet)) or bars[-1])
    main(["generate", "x", "--batch", "2", "--out", str(tmp_path / "x.png"), "--model", str(checkpoint)])
    assert bars[0].n == bars[0].total == 2 * ROWS * COLUMNS


RECORD_KEYS = {
    "coupling", "window", "seed", "prompt", "num_tokens", "nfe", "step_compression", "seconds", "tokens_sha256", "device", "dtype"
}  # fmt: skip


@pytest.fixture(scope="module")
def records(checkpoint, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("records")
    files = ("--model", checkpoint, "--json", folder / "records.json", "--out", folder / "sheet.png")
    more = ("--seeds", "0,1", "--windows", "4,8", "--entropy", "--quiet")
    assert main(["compare", "red apple", "rocket", *map(str, files), *more]) == 0
    return json.loads((folder / "records.json").read_text())


def test_compare_writes_a_record_for_every_method_window_prompt_and_seed(records):
    found = [(r["prompt"], r["seed"], r["coupling"], r["window"]) for r in records]
    methods = [("autoregressive", 1), *((name, window) for window in (4, 8) for name in COUPLINGS)]
    assert found == [
        (prompt, seed, *method) for prompt in ("red apple", "rocket") for seed in (0, 1) for method in methods
    ]
    for record in records:
        assert record.keys() >= RECORD_KEYS
        assert {"min_p", "size", "execution"} <= record.keys()
        assert record["num_tokens"] == ROWS * COLUMNS and record["seconds"] > 0
        assert record["step_compression"] == record["num_tokens"] / record["nfe"]


def test_the_exact_coupling_draws_the_tokens_of_plain_ar(records):
    for prompt, seed in {(r["prompt"], r["seed"]) for r in records}:
        case = [r for r in records if (r["prompt"], r["seed"]) == (prompt, seed)]
        exact = {r["tokens_sha256"] for r in case if r["coupling"] in ("autoregressive", "gumbel_exact")}
        assert len(exact) == 1
    # The comparison is worth something only because other couplings and seeds draw other pictures.
    assert len({r["tokens_sha256"] for r in records}) > 4


def test_the_hash_of_a_record_is_that_of_the_tokens(cli, records, tmp_path):
    record = next(r for r in records if r["coupling"] == "maximal" and r["window"] == 8 and r["seed"] == 1)
    cli("generate", record["prompt"], "--seed", 1, "--window", 8, "--save-tokens", "t.json")
    data = b"".join(token.to_bytes(8, "little") for token in tokens_of(tmp_path / "t.json")[0].tolist())
    assert hashlib.sha256(data).hexdigest() == record["tokens_sha256"]


def test_entropy_is_measured_on_the_ar_runs_and_lies_below_that_of_top_k(records):
    for record in records:
        assert ("entropy_nats" in record) == (record["coupling"] == "autoregressive")
    entropies = [r["entropy_nats"] for r in records if "entropy_nats" in r]
    assert all(0 < entropy < torch.tensor(12.0).log() for entropy in entropies)


def test_entropy_of_a_greedy_law_is_zero(cli, tmp_path):
    cli("compare", "x", "--windows", 4, "--temperature", 0, "--entropy", "--json", "r.json")
    records = json.loads((tmp_path / "r.json").read_text())
    assert records[0]["entropy_nats"] == 0
    assert len({record["tokens_sha256"] for record in records}) == 1


def test_the_sheet_has_a_column_for_every_method_and_a_row_for_every_case(cli, tmp_path):
    sizes = []
    for seeds, windows in (("0", "4"), ("0,1", "4"), ("0", "4,8")):
        cli("compare", "x", "--seeds", seeds, "--windows", windows, "--out", "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            sizes.append(sheet.size)
            assert sheet.getpixel((0, 0)) == (255, 255, 255)
    (width, height), taller, wider = sizes
    assert taller[0] == width and taller[1] > height
    assert wider[1] == height and wider[0] > width


def test_the_table_says_whether_the_exact_picture_is_ars(cli, capsys):
    cli("compare", "x", "--windows", 4, "--entropy")
    out = capsys.readouterr().out
    exact = next(line for line in out.splitlines() if line.startswith(COUPLINGS["gumbel_exact"].label))
    assert exact.endswith("1 of 1")
    assert "nats per token" in out and "wrote compare.png" in out


def test_the_table_admits_pictures_that_differ():
    record = {"coupling": "gumbel_exact", "window": 4, "step_compression": 2.0, "nfe": 2, "seconds": 1.0}
    rows = [record | {"same_tokens_as_autoregressive": same} for same in (True, False)]
    assert _summary_row(rows, list(rows))[-1] == "1 of 2"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_table_has_intervals_from_three_pictures_on(count):
    record = {"coupling": "maximal", "window": 4, "nfe": 2, "same_tokens_as_autoregressive": False}
    rows = [record | {"step_compression": 2.0 + i, "seconds": 1.0 + i / 9} for i in range(count)]
    row = _summary_row(rows, [row | {"seconds": 9.0 + i} for i, row in enumerate(rows)])
    compression, factor, verdict = row[2], row[5], row[6]
    shown = ["to" in compression, "to" in factor, verdict == "faster here"]
    assert shown == [count >= 3] * 3 and (verdict == "too few pictures") == (count < 3)


def test_the_law_is_described_by_what_is_switched_on():
    assert describe_law(LawSettings(cfg_scale=3.0, top_k=100)) == "guidance 3, temperature 1, top-k 100"
    assert describe_law(LawSettings(temperature=0.5, top_p=0.9)) == "no guidance, temperature 0.5, top-p 0.9"
    assert describe_law(LawSettings(min_p=0.1)) == "no guidance, temperature 1, min-p 0.1"


EXACT = ("--coupling", "gumbel_exact")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "x", "--window", "-1"), "window must be at least 1"),
        (("generate", "x", "--top-k", "-1"), "top_k must be 0"),
        (("generate", "x", "--temperature", "nan"), "temperature must be"),
        (("generate", "x", "--batch", "0"), "--batch must be at least 1"),
        (("generate", "x", "--out", "x.jpg"), "must end in .png"),
        (("generate", "x", "--trace-detail"), "--trace"),
        (("generate", "x", "--keep-rows", "2"), "--continue-from"),
        (("generate", "x", "--continue-from", "none.png"), "cannot be read as a picture"),
        (("generate", "x", "--continue-from", "half.png"), "cannot be read as a picture"),
        (("generate", "x", "--continue-from", "whole.png", "--keep-rows", str(ROWS)), f"between 1 and {ROWS - 1}"),
        (("generate", "x", "--initialiser", "warm"), "--warm-tokens"),
        (("generate", "x", "--warm-tokens", "short.json"), "--coupling gumbel_exact"),
        (("generate", "x", *EXACT, "--warm-tokens", "none.json"), "does not exist"),
        (("generate", "x", *EXACT, "--warm-tokens", "half.png.json"), "does not hold tokens"),
        (("generate", "x", *EXACT, "--warm-tokens", "null.json"), "does not hold tokens"),
        (("generate", "x", *EXACT, "--warm-tokens", "short.json"), f"must fill the grid of {ROWS * COLUMNS}, got 2"),
        (("generate", "x", "--warm-tokens", "short.json", "--initialiser", "left"), "warm initialiser"),
        (("generate", "x", "--trace", "t.json", "--save-tokens", "./t.json"), "--trace and --save-tokens name the same file"),
        (("generate", "x", *EXACT, "--warm-tokens", "short.json", "--trace", "short.json"), "name the same file"),
        (("generate", "x", "--device", "nowhere"), "nowhere"),
        (("generate", "x", "--size", "9x9"), f"its sizes are {WIDTH}x{HEIGHT}"),
        (("compare", "x", "--windows", "4,-1"), "window must be at least 1"),
        (("compare", "x", "--seeds", "-1"), "seed must be between 0"),
        (("compare", "x", "--size", "9x9"), f"its sizes are {WIDTH}x{HEIGHT}"),
        (("compare", "x", "--json", "records.txt"), "must end in .json"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(cli, capsys, tmp_path, arguments, words):
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:40]
    (tmp_path / "half.png").write_bytes(half)
    (tmp_path / "half.png.json").write_bytes(half)
    (tmp_path / "null.json").write_text('{"tokens": null}')
    (tmp_path / "short.json").write_text('{"tokens": [[1, 2]]}')
    assert cli(*arguments) == FAILED
    captured = capsys.readouterr()
    assert words in captured.err and len(captured.err.strip().splitlines()) == 1
    assert not captured.out and not list(tmp_path.glob("picture*.png"))


@pytest.mark.parametrize("command", ["bench", "gpu"])
@pytest.mark.parametrize("option", [("--size", "8x8"), ("--compile",), ("--capture",)], ids=" ".join)
def test_options_that_would_be_ignored_are_refused(cli, capsys, command, option):
    with pytest.raises(SystemExit) as ended:
        cli(command, *option)
    assert ended.value.code == FAILED and "unrecognized arguments" in capsys.readouterr().err


def test_a_video_file_for_a_picture_is_refused_before_weights_are_read(cli, monkeypatch, capsys):
    monkeypatch.setattr("mcsjd_core.cli.generate.open_model", lambda *_: pytest.fail("the model was loaded"))
    assert cli("generate", "x", "--out", "x.webp") == FAILED
    assert "must end in .png" in capsys.readouterr().err


def test_a_missing_checkpoint_is_one_sentence_and_exit_code_2(capsys, tmp_path):
    assert main(["generate", "x", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "x.png")]) == FAILED
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_words_where_numbers_are_expected_are_refused(cli, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli("compare", "x", "--windows", "4,many")
    assert stopped.value.code == FAILED
    assert "whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_interruption_is_one_sentence_and_nothing_is_written(cli, capsys, tmp_path, monkeypatch, command):
    def interrupted(*args, **kwargs):
        def on_step(step):
            raise KeyboardInterrupt

        return on_step

    monkeypatch.setattr(f"mcsjd_core.cli.{command}.advance", interrupted)
    assert cli(command, "x", "--out", "x.png") == INTERRUPTED
    captured = capsys.readouterr()
    assert captured.err.startswith("Interrupted") and len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert cli(command, "x", "--out", str(tmp_path / "x.png")) == 0


def test_help_names_every_method(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METHODS)


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "mcsjd_core", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "generate" in done.stdout and "compare" in done.stdout
