"""The node Get Model: it asks first, can be stopped, and tells what goes wrong. No network is used."""
# ruff: noqa: F811 (tests take imported fixtures by name)

import shutil
import time
from concurrent.futures import Future
from threading import Event

import pytest

from test_downloads import NAME, FakeHub, fake, lumina  # noqa: F401

file_download = pytest.importorskip("huggingface_hub.file_download")


@pytest.fixture
def node_hub(pack, fake, model_folder):
    """The fake, for the pack's own copy of the core as well: both ask the same huggingface_hub."""
    return fake


def test_the_node_fetches_nothing_before_the_licence_is_accepted(pack, node_hub, model_folder):
    (report,) = pack.run("MCSJD_GetModel", model=NAME, accept_licence=False)
    assert "Nothing was downloaded" in report and "licence: " in report and str(model_folder) in report
    assert not node_hub.asked


def test_without_the_licence_the_node_says_what_is_there_already(pack, node_hub, model_folder):
    """Whoever has the files need not accept anything to hear so, and hears of every change."""
    node, off = pack.nodes["MCSJD_GetModel"], {"model": NAME, "accept_licence": False}
    prints = [node.fingerprint_inputs(**off)]
    pack.run("MCSJD_GetModel", model=NAME, accept_licence=True)
    prints.append(node.fingerprint_inputs(**off))
    asked = len(node_hub.asked)
    (report,) = pack.run("MCSJD_GetModel", **off)
    assert "Nothing was downloaded" not in report and "choose it in Load Model" in report
    shutil.rmtree(model_folder / NAME)  # of two sources, the codec is left
    prints.append(node.fingerprint_inputs(**off))
    (report,) = pack.run("MCSJD_GetModel", **off)
    assert "Only a part of this model" in report and "choose it" not in report
    assert len(set(prints)) == 3 and len(node_hub.asked) == asked


def test_a_linked_name_has_no_files_yet(pack, model_folder):
    assert pack.nodes["MCSJD_GetModel"].fingerprint_inputs(model=None, accept_licence=False) == ""


def test_the_node_downloads_and_the_menu_has_the_model(pack, node_hub, model_folder, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar, "update_absolute", lambda self, value, *_: seen.append((value, self.total))
    )
    (report,) = pack.run("MCSJD_GetModel", model=NAME, accept_licence=True)
    assert "press R" in report and (model_folder / NAME / "config.json").is_file()
    assert seen[-1][0] == seen[-1][1] > 0
    options = {
        entry.id: entry.options for entry in pack.nodes["MCSJD_LoadModel"].GET_SCHEMA().inputs if entry.id == "model"
    }
    assert NAME in options["model"]


def test_what_is_there_serves_offline_and_what_was_removed_is_fetched_again(pack, node_hub, model_folder):
    node = pack.nodes["MCSJD_GetModel"]
    inputs = {"model": NAME, "accept_licence": True}
    node_hub.error, now = OSError("no route to host"), node_hub.error
    with pytest.raises(pack.core.InputError, match=r"huggingface\.co cannot be reached"):
        pack.run("MCSJD_GetModel", **inputs)
    empty, node_hub.error = node.fingerprint_inputs(**inputs), now
    pack.run("MCSJD_GetModel", **inputs)
    whole, node_hub.error = node.fingerprint_inputs(**inputs), OSError("no route to host")
    (report,) = pack.run("MCSJD_GetModel", **inputs)
    assert (
        "cannot be reached (no route to host)" in report and "were not compared with" in report and "Press R" in report
    )
    shutil.rmtree(model_folder / NAME)
    assert len({empty, whole, node.fingerprint_inputs(**inputs)}) == 3  # the codec lies in another folder
    with pytest.raises(pack.core.InputError, match=r"huggingface\.co cannot be reached"):
        pack.run("MCSJD_GetModel", **inputs)


def test_stop_ends_a_download(pack, node_hub, monkeypatch):
    import comfy.model_management as mm

    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    monkeypatch.setattr(mm, "throw_exception_if_processing_interrupted", stop)
    begun, ended, asked = Event(), Event(), []

    def slow(url, temp_file, *, resume_size, headers, expected_size):
        """As huggingface_hub 0.26, which has no bar to stop it by; it would take ten seconds."""
        asked.append(url)
        try:
            for _ in range(1000):
                temp_file.write(b"x")
                begun.set()
                time.sleep(0.01)
        except InterruptedError:
            ended.set()
            raise

    monkeypatch.setattr(file_download, "http_get", slow)
    module = pack.part("nodes.downloads")
    monkeypatch.setattr(module, "_is_done", lambda work: not begun.wait(10))
    with pytest.raises(Stopped):
        pack.run("MCSJD_GetModel", model=NAME, accept_licence=True)
    assert ended.wait(5) and len(asked) == 1


def test_what_the_download_raises_reaches_the_user(pack, node_hub):
    node_hub.broken_off = 1
    with pytest.raises(pack.core.InputError, match="it resumes where it stopped"):
        pack.run("MCSJD_GetModel", model=NAME, accept_licence=True)


def test_waiting_for_a_download_tells_its_own_timeout_from_one_of_the_hub(pack, monkeypatch):
    module = pack.part("nodes.downloads")
    monkeypatch.setattr(module, "LOOK_SECONDS", 0)
    work = Future()
    assert not module._is_done(work)
    work.set_exception(TimeoutError("the hub does not answer"))
    with pytest.raises(TimeoutError, match="the hub does not answer"):
        module._is_done(work)
