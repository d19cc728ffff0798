"""Uploading and downloading through the Hub's real client, against a server on the loopback."""

import os
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download

from siammae.checkpoints import hub
from siammae.cli import main
from siammae.errors import CheckpointError
from siammae.network.model import SiamMAE
from tests.checkpoints.toy_hub import COMMIT, serve
from tests.helpers import tiny_model

NAME = "owner/tiny"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serve() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.address)
        template = f"{one.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for place in (constants, file_download):  # older ones have it by name
            monkeypatch.setattr(place, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # older ones have no Xet
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        yield one
        huggingface_hub.close_session() if hasattr(huggingface_hub, "close_session") else None


@pytest.fixture
def folder(tmp_path):
    return tiny_model().save_pretrained(tmp_path / "checkpoint")


def put(server, folder):
    server.files[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}


def test_upload_sends_a_checkpoint_that_is_loaded_again(server, folder, capsys):
    assert main(["upload", str(folder), NAME, "--license", "mit", "--private"]) == 0
    assert f"{server.address}/{NAME}/commit/" in capsys.readouterr().out
    assert server.private == [NAME]
    sent = server.files[NAME]
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]
    assert sent["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    head = sent["README.md"].decode().split("---")[1]
    assert "license: mit" in head
    assert "license" not in (folder / "README.md").read_text()  # the folder is left as it was
    loaded, wanted = SiamMAE.from_pretrained(NAME).state_dict(), SiamMAE.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def test_push_to_hub_uploads_what_save_pretrained_writes(server, tmp_path):
    model = tiny_model(seed=3)
    assert model.push_to_hub(NAME, private=True).startswith(f"{server.address}/{NAME}/commit/")
    assert server.private == [NAME]
    wanted = model.save_pretrained(tmp_path / "saved")
    assert server.files[NAME] == {path.name: path.read_bytes() for path in wanted.iterdir()}


def test_upload_tried_sends_nothing(server, folder, capsys):
    assert main(["upload", str(folder), NAME, "--license", "mit", "--dry-run"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert server.calls == []


@pytest.mark.parametrize(
    ("argv", "card", "message"),
    [
        ([NAME], None, "says no licence"),
        (["no-owner", "--license", "mit"], None, "it must be owner/name"),
        ([NAME, "--license", "mit"], "---\nlicense: apache-2.0\n---\n", "says 'apache-2.0' and you 'mit'"),
        ([NAME, "--license", "mit"], "---\na: [\n---\n", "a head that is no YAML"),
    ],
)
def test_upload_refuses_before_anything_is_sent(server, folder, argv, card, message, capsys):
    if card is not None:
        (folder / "README.md").write_text(card)
    assert main(["upload", str(folder), *argv]) == 1
    assert message in capsys.readouterr().err
    assert server.calls == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/commit/"])
def test_upload_that_is_refused_ends_in_one_line(server, folder, status, part, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it asks again
    server.answer[part] = status
    if part == "/repos/create":
        server.answer["/api/models/"] = status  # it asks whether the repository is there
    assert main(["upload", str(folder), NAME, "--license", "mit"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]  # above it is the client's own bar
    assert "cannot be written on the Hugging Face Hub" in line


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_download_that_is_refused_names_the_checkpoint(server, folder, status, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    put(server, folder)
    server.answer["/resolve/"] = status
    with pytest.raises(CheckpointError, match=f"'{NAME}' cannot be had from the Hugging Face Hub"):
        hub.find_checkpoint(NAME)


@pytest.mark.skipif(
    not hasattr(huggingface_hub, "close_session"), reason="clients before 1.0 give up where a download breaks off"
)
def test_download_that_breaks_off_is_asked_for_again(server, folder):
    put(server, folder)
    server.cut = 1000
    found = hub.find_checkpoint(NAME)
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    path = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    assert server.calls.count(("GET", path)) == 2


def test_damaged_file_is_found_and_downloaded_again_when_asked_for(server, folder):
    put(server, folder)
    server.spoil = True
    with pytest.raises(CheckpointError, match="NaN"):
        SiamMAE.from_pretrained(NAME)
    server.spoil = False
    SiamMAE.from_pretrained(NAME, force_download=True)


def test_checkpoint_that_was_downloaded_is_there_without_the_network(server, folder):
    put(server, folder)
    first = hub.find_checkpoint(NAME)
    calls = len(server.calls)
    assert hub.find_checkpoint(NAME, local_files_only=True) == first
    assert len(server.calls) == calls


def run_info(server, home, **settings):
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(home), **settings}
    command = [sys.executable, "-m", "siammae", "info", NAME]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_mirror_is_named_by_the_environment(server, folder, tmp_path):
    put(server, folder)
    done = run_info(server, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert any("/resolve/" in path for _, path in server.calls)


def test_hub_that_takes_too_long_is_given_up(server, folder, tmp_path):
    put(server, folder)
    server.delay = 3
    done = run_info(server, tmp_path / "home", HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert done.returncode == 1
    assert "cannot be had from the Hugging Face Hub" in done.stderr.splitlines()[-1]
