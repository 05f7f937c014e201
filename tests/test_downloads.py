"""Downloads: only what was asked for, after size and licence were shown; every failure is one sentence. No network is used."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import mcsjd_core
from mcsjd_core import InputError
from mcsjd_core.checkpoints import transfer
from mcsjd_core.checkpoints.catalogue import DOWNLOADS, describe
from mcsjd_core.checkpoints.transfer import fetch, listing
from mcsjd_core.cli import FAILED, main
from tiny_checkpoint import split_into_shards, write_tiny_checkpoint

hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")
file_download = pytest.importorskip("huggingface_hub.file_download")

UNWANTED = {
    "README.md": b"hello",
    "pytorch_model.bin": b"pickle",
    "sub/model.safetensors": b"",
    "../tokenizer.json": b"up",
    "..\\model.safetensors": b"up, where Windows is",
    "C:model.safetensors": b"of the drive's folder",
}


class FakeHub:
    """Repositories as dicts of files; what was asked of it is kept."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        self.repositories, self.asked, self.error = repositories, [], None
        self.commit = "c0ffee"
        self.broken_off = 0  # bytes that every file lacks at its end

    def model_info(self, repository: str, files_metadata: bool):
        if self.error:
            raise self.error
        files = self.repositories[repository]
        siblings = [
            SimpleNamespace(rfilename=name, size=len(content), blob_id=hashlib.sha1(content).hexdigest())
            for name, content in files.items()
        ]
        return SimpleNamespace(sha=self.commit, siblings=siblings)

    def http_get(self, url, temp_file, *, resume_size, headers, expected_size, tqdm_class=None):
        repository, name = re.fullmatch(r"https://huggingface.co/(.+)/resolve/c0ffee/(.+)", url).groups()
        self.asked.append((repository, name))
        if tqdm_class:
            tqdm_class(total=1).update(1)
        content = self.repositories[repository][name]
        assert expected_size == len(content)
        temp_file.write(content[resume_size : len(content) - self.broken_off])
        if self.broken_off:
            raise ConnectionError("the peer is gone")


@pytest.fixture
def lumina(tmp_path) -> dict[str, dict[str, bytes]]:
    """The three repositories that Lumina-mGPT 512 is spread over."""
    path = write_tiny_checkpoint(tmp_path / "published")
    split_into_shards(path)
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "vqgan.safetensors"}
    tokenizer = {"tokenizer.json": files.pop("tokenizer.json")}
    codec = {"model.safetensors": (path / "vqgan.safetensors").read_bytes(), "config.json": b"{}"}
    shutil.rmtree(path)
    return {
        "Alpha-VLLM/Lumina-mGPT-7B-512": files | UNWANTED,
        "Alpha-VLLM/Lumina-mGPT-7B-768": tokenizer
        | {"model-00001-of-00002.safetensors": b"large", "config.json": b"{}"},
        "leloy/Anole-7b-v0.1-vqvae-hf": codec,
    }


@pytest.fixture
def fake(lumina, monkeypatch) -> FakeHub:
    fake = FakeHub(lumina)
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(file_download, "http_get", fake.http_get)
    return fake


NAME = "Lumina-mGPT-7B-512"


def test_only_the_needed_files_come_and_the_model_loads(fake, tmp_path):
    root = tmp_path / "models"
    fetch(listing(NAME), root)
    found = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    shards = {f"{NAME}/model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    texts = {f"{NAME}/{name}" for name in ("config.json", "generation_config.json", "tokenizer.json")}
    hashes = {f"{folder}/{transfer.HASHES}" for folder in (NAME, "chameleon-vqgan")}
    weights = {f"{NAME}/model.safetensors.index.json", "chameleon-vqgan/model.safetensors"}
    assert found == shards | texts | weights | hashes
    # The tiny stand-in has a raster layout; under the published name it would be taken for a real Lumina-mGPT.
    (root / NAME).rename(root / "stand-in")
    assert mcsjd_core.load(root / "stand-in").sizes == ("12x8",)


def test_a_hub_that_might_hand_on_to_hf_transfer_is_told_of_proxies(fake, tmp_path, monkeypatch):
    """None that differ from the environment's; but where some are named, versions before 1.0 bring the file themselves."""
    told = []

    def http_get(url, temp_file, *, proxies=None, **options):
        told.append(proxies)
        fake.http_get(url, temp_file, **options)

    monkeypatch.setattr(file_download, "http_get", http_get)
    fetch(listing(NAME), tmp_path)
    assert told and all(proxies == {} for proxies in told)


def test_what_is_there_is_not_fetched_again(fake, tmp_path):
    fetch(listing(NAME), tmp_path)
    (tmp_path / NAME / "config.json").write_bytes(b"half")
    (tmp_path / NAME / "model-00002-of-00003.safetensors").unlink()
    fake.asked.clear()
    fetch(listing(NAME), tmp_path)
    repository = f"Alpha-VLLM/{NAME}"
    assert sorted(fake.asked) == [(repository, "config.json"), (repository, "model-00002-of-00003.safetensors")]


def test_a_file_of_which_the_hub_has_another_by_now_is_fetched_again(fake, tmp_path):
    """Also if both have one size, as weights of one shape do."""
    fetch(listing(NAME), tmp_path)
    repository = f"Alpha-VLLM/{NAME}"
    new = b"#" * len(fake.repositories[repository]["config.json"])
    fake.repositories[repository]["config.json"] = new
    fake.asked.clear()
    fetch(listing(NAME), tmp_path)
    assert fake.asked == [(repository, "config.json")] and (tmp_path / NAME / "config.json").read_bytes() == new
    (tmp_path / NAME / transfer.HASHES).write_text("[1")  # damaged: then what is there is as good as its size
    fake.repositories[repository]["config.json"] = new.upper()
    fetch(listing(NAME), tmp_path)
    assert len(fake.asked) == 1


def test_a_download_that_broke_off_says_so_and_goes_on(fake, tmp_path):
    fake.broken_off = 3
    with pytest.raises(InputError, match=r"the peer is gone\); go online and start .* it resumes where it stopped"):
        fetch(listing(NAME), tmp_path)
    (partial,) = tmp_path.rglob("*.part")
    name = partial.name.rsplit(".", 2)[0]
    assert not partial.with_name(name).exists()
    assert partial.read_bytes() == fake.repositories[f"Alpha-VLLM/{NAME}"][name][:-3]
    fake.broken_off = 0
    fetch(listing(NAME), tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / NAME / name).read_bytes() == fake.repositories[f"Alpha-VLLM/{NAME}"][name]


def response_error(kind: type, status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Name or service not known"), r"cannot be reached \(Name or service not known\); go online"),
        (RuntimeError(""), r"cannot be reached \(RuntimeError\)"),
        (response_error(errors.GatedRepoError, 403), r"asks for consent first: sign in at https://\S+, accept"),
        (response_error(errors.RepositoryNotFoundError, 404), "does not exist or is not public"),
    ],
)
def test_failures_are_one_sentence(fake, error, words):
    fake.error = error
    with pytest.raises(InputError, match=words) as refused:
        listing(NAME)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    assert refused.value.__suppress_context__


def test_the_real_hub_is_not_reached_offline(monkeypatch):
    """The installed huggingface_hub, told to stay offline."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"huggingface.co cannot be reached"):
        listing("Janus-Pro-1B")


def test_a_repository_without_the_files_is_named(fake):
    fake.repositories[f"Alpha-VLLM/{NAME}"] = UNWANTED
    with pytest.raises(InputError, match=rf"{NAME} holds none of \*\.safetensors"):
        listing(NAME)


def test_a_full_disk_is_told_before_anything_comes(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="make room first"):
        fetch(listing(NAME), tmp_path)
    assert not fake.asked


def test_room_is_needed_for_what_is_still_to_come(fake, tmp_path, monkeypatch):
    fake.broken_off = 3
    with pytest.raises(InputError, match="it resumes where it stopped"):
        fetch(listing(NAME), tmp_path)
    fake.broken_off, listed = 0, listing(NAME)
    (partial,) = tmp_path.rglob("*.part")
    free = sum(size for one in listed for size in one.missing(tmp_path).values()) - partial.stat().st_size
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: SimpleNamespace(free=free - 1))
    with pytest.raises(InputError, match="make room first"):
        fetch(listed, tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    fetch(listed, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_no_fault_of_the_net(fake, tmp_path):
    (tmp_path / NAME).write_text("a file")
    with pytest.raises(InputError, match=rf"{NAME} cannot be written \(File exists\)"):
        fetch(listing(NAME), tmp_path)
    with pytest.raises(InputError, match=rf"{NAME} cannot be written"):
        fetch(listing(NAME), tmp_path / NAME)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("size", [100, 10**6])
def test_a_disk_that_fills_up_at_a_small_piece_is_told_as_such(size):
    """What stays in the buffer is written once more when the file is closed."""
    with (
        pytest.raises(InputError, match="cannot be written"),
        transfer._Target(Path("/dev/full"), lambda: False) as file,
    ):
        file.write(bytes(size))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_disk_that_fills_up_is_no_is_no_fault_of_the_net(fake, tmp_path):
    listed = listing(NAME)
    part = listed[0].partial(tmp_path, next(iter(listed[0].files)))
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"\.part cannot be written \(No space left on device\); fix that"):
        fetch(listed, tmp_path)


def test_nothing_is_asked_for_once_a_download_is_stopped(fake, tmp_path):
    with pytest.raises(InterruptedError):
        fetch(listing(NAME), tmp_path, is_stopped=lambda: True)
    assert not fake.asked


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_download_tells_size_licence_source_and_place(name, tmp_path):
    text = describe(name, tmp_path)
    assert all(
        word in text for word in ("GB", "licence: ", "https://huggingface.co/", str(tmp_path / DOWNLOADS[name].folder))
    )
    assert not any(".bin" in pattern or ".pth" in pattern for s in DOWNLOADS[name].sources for pattern in s.patterns)
    if "Lumina-mGPT-7B" in name:
        assert "chameleon-vqgan" in text and "ask for access" in text


# -- the command ---------------------------------------------------------------------------------------------------------


def test_the_command_shows_size_and_licence_and_waits_for_consent(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert main(["download", NAME, "--folder", str(tmp_path)]) == FAILED
    captured = capsys.readouterr()
    assert "14.3 GB" in captured.out and "licence" in captured.out and "--yes" in captured.err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer, asked in (("n", False), ("", False), ("y", True)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert main(["download", NAME, "--folder", str(tmp_path)]) == 0
        assert bool(fake.asked) == asked
    fake.asked.clear()
    monkeypatch.setattr("builtins.input", lambda question: (_ for _ in ()).throw(EOFError))  # Ctrl-D
    capsys.readouterr()
    assert main(["download", NAME, "--folder", str(tmp_path)]) == 0
    assert "Nothing was downloaded." in capsys.readouterr().out
    shutil.rmtree(tmp_path / NAME)
    assert main(["download", NAME, "--folder", str(tmp_path), "--yes"]) == 0
    assert fake.asked and json.loads((tmp_path / NAME / "config.json").read_text())["model_type"] == "chameleon"


def test_unknown_names_are_refused_with_those_there_are(capsys):
    assert main(["download", "SDXL"]) == FAILED
    assert "Janus-Pro-1B" in capsys.readouterr().err


def test_a_download_of_which_a_part_is_left_does_not_seem_whole(fake, tmp_path):
    listed = listing(NAME)
    fetch(listed, tmp_path)
    assert transfer.seems_whole(NAME, tmp_path)
    (tmp_path / NAME / "config.json").rename(listed[0].partial(tmp_path, "config.json"))
    assert not transfer.seems_whole(NAME, tmp_path)


def test_parts_of_content_that_is_no_longer_there_go_before_room_is_asked_for(fake, tmp_path, monkeypatch):
    listed = listing(NAME)
    part = tmp_path / NAME / "config.json.0ldc0de0.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: usage._replace(free=0 if part.exists() else usage.free)
    )
    fetch(listed, tmp_path)
    assert transfer.seems_whole(NAME, tmp_path) and not part.exists()


def test_a_new_commit_goes_on_with_the_parts_of_files_that_it_left_as_they_are(fake, tmp_path, monkeypatch):
    listed = listing(NAME)[0]
    part = listed.partial(tmp_path, "config.json")
    monkeypatch.setattr(fake, "commit", "0ther")
    other = listing(NAME)[0]
    assert other.commit != listed.commit and other.partial(tmp_path, "config.json") == part
    fake.repositories[listed.source.repository]["config.json"] += b" "
    assert listing(NAME)[0].partial(tmp_path, "config.json") != part
