"""A model over two processes, with gloo on the CPU, against the same model in one."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings, decode, load
from mcsjd_core.checkpoints.checkpoint import fill
from mcsjd_core.cli import FAILED, main
from mcsjd_core.decoding.interface import Prompt
from mcsjd_core.families.token_model import TransformerTokenModel
from mcsjd_core.nn.transformer import Transformer, TransformerConfig
from mcsjd_core.nn.weights import stored_bytes
from mcsjd_core.scale.tensor_parallel import check_size, joined, shared
from test_cli import checkpoint  # noqa: F401 - a fixture
from tiny_checkpoint import randomise

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="no gloo"
    ),
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are forked: Linux"),
]

SIZE, LIMIT = 2, 900  # seconds, after which a process is said to hang
BODY = TransformerConfig(dim=32, layers=3, heads=4, kv_heads=4, head_dim=8, ffn_dim=48)
BODIES = {
    "plain": BODY,
    "two key heads": replace(BODY, kv_heads=2, qk_norm="rms"),
    "a key head for all": replace(BODY, kv_heads=1, qkv_bias=True),
    "norms by head": replace(BODY, kv_heads=2, qk_norm="layer", qk_norm_groups=4, norm_after=True),
    "context": replace(
        BODY, kv_heads=1, qk_norm="layer", qk_norm_groups=2, context_dim=12, norm_both=True, rope_interleaved=True
    ),
}
CODES, GRID = 27, Grid(2, 3)  # no even number of codes


def in_two_processes(work, *arguments) -> list:
    """What work(*arguments) gives in each of two processes, or the exit code of one that gave nothing."""

    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers, processes = [], []
    for rank in range(SIZE):
        reader, writer = context.Pipe(duplex=False)
        processes.append(context.Process(target=_in_process, args=(rank, port, writer, work, arguments), daemon=True))
        processes[-1].start()
        writer.close()
        answers.append(reader)
    found = []
    for process, reader in zip(processes, answers, strict=True):
        process.join(LIMIT)
        hangs = process.is_alive()
        if hangs:
            process.kill()
        assert not hangs, "a process hangs"
        try:
            found.append(reader.recv())
        except EOFError:
            found.append(process.exitcode)
    for answer in found:
        assert not (isinstance(answer, tuple) and answer[:1] == ("raised",)), answer[1]
    return found


def _in_process(rank: int, port: int, writer, work, arguments) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        writer.send(work(*arguments))
    except BaseException:
        writer.send(("raised", traceback.format_exc()))


def token_model(config: TransformerConfig, dtype: torch.dtype, device="cpu") -> TransformerTokenModel:
    factory = {"dtype": dtype, "device": device}
    return TransformerTokenModel(Transformer(config, **factory), 40, CODES, 9, **factory)


def whole_model(config: TransformerConfig, dtype: torch.dtype) -> TransformerTokenModel:
    return randomise(token_model(config, dtype)).requires_grad_(False)


def prompt_of(model: TransformerTokenModel, config: TransformerConfig) -> Prompt:
    prompt = Prompt.of_ids([[1, 2, 3, 4], [5, 4], [3, 1, 6], [1]], model.embed_ids, True, "cpu")
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(4, 5, config.context_dim or 1, generator=generator, dtype=torch.float64).to(prompt.embeddings)
    return replace(prompt, context=states if config.context_dim else None)


def logits_of(model: TransformerTokenModel, config: TransformerConfig) -> torch.Tensor:
    prompt = prompt_of(model, config)
    slots = torch.arange(4).expand(4, -1)
    hidden = model.hidden(prompt.embeddings, slots, model.new_cache(prompt, 6), 4)
    return model.logits(hidden, slots)


SETTINGS = DecodeSettings("gumbel_exact", 4, LawSettings(cfg_scale=2.0, top_k=9), seed=5)


def tokens_of(model: TransformerTokenModel, config: TransformerConfig) -> torch.Tensor:
    return decode(model, prompt_of(model, config), GRID, SETTINGS).tokens


def compare_all() -> dict[str, dict]:
    """What `compare` finds for every body. One group serves all: to begin one costs a process seconds."""
    with joined(SIZE, "cpu") as group, shared(group):
        return {name: compare(config) for name, config in BODIES.items()}


@torch.no_grad()
def compare(config: TransformerConfig) -> dict:
    """How far logits are from the whole model's, relative; tokens; bytes held and the cache's; collectives of a forward."""
    from torch.distributed.tensor.debug import CommDebugMode

    whole, part = whole_model(config, torch.float32), token_model(config, torch.float32, "meta")
    fill(part, whole.state_dict().items(), dtype=torch.float32, device="cpu", source=Path("x"))
    wanted, logits = logits_of(whole, config), logits_of(part, config)
    wide, wide_part = whole_model(config, torch.float64), token_model(config, torch.float64, "meta")
    fill(wide_part, wide.state_dict().items(), dtype=torch.float64, device="cpu", source=Path("x"))
    prompt = prompt_of(part, config)
    found = {
        "error": float((logits - wanted).abs().max() / wanted.abs().max()),
        "tokens": tokens_of(wide_part, config).tolist(),
        "wanted": tokens_of(wide, config).tolist(),
        "share": stored_bytes(part) / stored_bytes(whole),
        "cache": part.new_cache(prompt, 6).nbytes / whole.new_cache(prompt, 6).nbytes,
        "told": part.cache_bytes(prompt, 6) / whole.cache_bytes(prompt, 6),
    }
    with CommDebugMode() as counted:  # at the end: it leaves hooks in the model's modules
        logits_of(part, config)
    counts = counted.get_comm_counts().items()
    return found | {"collectives": {str(kind).rpartition(".")[2]: n for kind, n in counts}}


@pytest.fixture(scope="module")
def found_by_two() -> list[dict[str, dict]]:
    """Of each of two processes."""
    return in_two_processes(compare_all)


@pytest.fixture(params=BODIES)
def compared(request, found_by_two) -> tuple[str, list[dict]]:
    """The name of a body, and what its two processes found."""
    return request.param, [found[request.param] for found in found_by_two]


def test_two_processes_give_one_process_s_logits_and_tokens(compared):
    first, second = compared[1]
    assert max(first["error"], second["error"]) < 1e-5
    assert first["tokens"] == second["tokens"] == first["wanted"]


def test_a_process_holds_its_half(compared):
    name, answers = compared
    for found in answers:
        assert found["share"] < 0.7  # tiny norms weigh much here; of a checkpoint see below
        assert found["cache"] == found["told"] == (0.5 if BODIES[name].kv_heads > 1 else 1)


def test_a_forward_has_two_all_reduces_a_layer(compared):
    name, answers = compared
    config, counts = BODIES[name], answers[0]["collectives"]
    assert counts.pop("all_reduce") == config.layers * (3 if config.context_dim else 2)
    assert sum(counts.values()) == 2  # embedding and head are gathered


def draw_from_checkpoint(path: Path) -> tuple[float, list]:
    whole = load(path, dtype=torch.float64)
    with joined(SIZE, "cpu") as group, shared(group):
        model = load(path, dtype=torch.float64)
        share = stored_bytes(model.token_model) / stored_bytes(whole.token_model)
        prompts = [each.prompt(["red apple"], None, True) for each in (whole, model)]
        tokens = [
            decode(each.token_model, prompt, each.grid(), SETTINGS).tokens.tolist()
            for each, prompt in zip((whole, model), prompts, strict=True)
        ]
    return share, tokens


def test_a_checkpoint_is_read_by_slices(checkpoint):  # noqa: F811
    for share, (wanted, tokens) in in_two_processes(draw_from_checkpoint, checkpoint):
        assert share <= 0.55 and tokens == wanted


def draw_until_one_is_killed(path: Path, folder: Path) -> tuple[int, str]:
    from mcsjd_core.pipeline.sampling import Drawing

    run, rank = Drawing.run, os.environ["RANK"]

    def mortal(self, on_step=None):
        def step(step):
            if rank == "1" and step.iteration == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        return run(self, step)

    Drawing.run = mortal
    os.chdir(folder)
    with open("said.txt", "w") as said:
        os.dup2(said.fileno(), 2)
        code = main(
            [
                "generate",
                "x",
                "--model",
                str(path),
                "--quiet",
                "--tensor-parallel",
                "2",
                "--window",
                "4",
                "--device",
                "cpu",
            ]
        )
    return code, Path("said.txt").read_text()


def test_a_process_that_is_killed_ends_the_other_one_with_a_sentence(checkpoint, tmp_path, capfd):  # noqa: F811
    with capfd.disabled():
        (code, said), killed = in_two_processes(draw_until_one_is_killed, checkpoint, tmp_path)
    assert killed == -signal.SIGKILL and code == FAILED
    assert re.search(
        r"Process 1 of 2 ends, since .* \(.*(Connection|Broken pipe|closed|reset).*\); where another", said
    )
    assert not list(tmp_path.glob("*.png"))


def draw_on_the_command_line(path: Path, folder: Path) -> int:
    os.chdir(folder)
    return main(["generate", "x", "--model", str(path), "--quiet", "--tensor-parallel", "2", "--window", "4", "--device", "cpu",
                 "--save-tokens", f"{os.environ['RANK']}.json"])  # fmt: skip


def test_one_process_writes(checkpoint, tmp_path):  # noqa: F811
    assert in_two_processes(draw_on_the_command_line, checkpoint, tmp_path) == [0, 0]
    assert {file.name for file in tmp_path.iterdir()} == {"picture.png", "0.json"}


def started_by_torchrun(monkeypatch, rank: int = 0) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("device", "sentence"), [("foo", "There is no device foo"), ("mps", "not on mps")])
def test_a_device_that_processes_cannot_share_is_one_sentence(monkeypatch, device, sentence):
    started_by_torchrun(monkeypatch)
    with pytest.raises(InputError, match=sentence), joined(SIZE, device):
        pass


def test_a_rank_without_a_place_to_meet_is_one_sentence(monkeypatch):
    """As job schedulers leave them, and shells in which torchrun was tried by hand."""
    started_by_torchrun(monkeypatch)
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(InputError, match="start it as `torchrun"), joined(SIZE, "cpu"):
        pass


def test_more_processes_than_gpus_is_one_sentence(monkeypatch):
    started_by_torchrun(monkeypatch, rank=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    sentence = "Process 2 of this machine has no GPU of its own: torch finds 1"
    with pytest.raises(InputError, match=sentence), joined(2, "cuda"):
        pass


def test_a_group_that_cannot_be_made_says_why(monkeypatch):
    """The port is taken, say: no other process is at fault then."""
    started_by_torchrun(monkeypatch)

    def taken(*_, **__):
        raise torch.distributed.DistNetworkError("EADDRINUSE, port 29500 is taken.\nC++ stack")

    monkeypatch.setattr(torch.distributed, "init_process_group", taken)
    with pytest.raises(InputError, match=r"\(EADDRINUSE, port 29500 is taken\); where another"), joined(2, "cpu"):
        pass


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "start it as `torchrun --nproc-per-node 2"),
        (("--window", "auto"), "--window auto follows the clock"),
        (("--window", "0"), "--window auto follows the clock"),
        (("--compile",), "leave out --compile"),
        (("--device", "cuda:1"), "--device cuda:1 is a single device"),
        (("--weights", "fp8"), "--weights fp8 is for one GPU"),
    ],
)
def test_what_several_processes_cannot_do_is_told(capsys, monkeypatch, more, sentence):
    monkeypatch.delenv("RANK", raising=False)
    assert main(["generate", "x", "--tensor-parallel", "2", *more]) == FAILED
    assert sentence in capsys.readouterr().err


def test_numbers_of_processes_that_fit_are_named():
    with pytest.raises(InputError, match=r"3 processes cannot share 4 heads.*use one of 1, 2, 4\."):
        check_size(replace(BODY, kv_heads=2), 3)
