"""Saving and loading, what is refused on the way, and the Hub behind a double."""

import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from siammae.checkpoints import hub, tensors
from siammae.config import PropagationConfig
from siammae.errors import CheckpointError
from siammae.network.model import SiamMAE
from tests.helpers import ramp_weights, tiny_model


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_model().save_pretrained(tmp_path / "checkpoint")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "fields", [{}, {"position": "learned"}, {"encoder": "joint", "decoder": "joint"}, {"pixel_std": (0.1, 0.2, 0.3)}]
)
def test_from_pretrained_of_a_saved_model_is_bit_equal(tmp_path, fields):
    model = ramp_weights(tiny_model(**fields)).train()
    model.propagation = PropagationConfig.preset("siammae")
    folder = model.save_pretrained(tmp_path / "new" / "checkpoint")
    loaded = SiamMAE.from_pretrained(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (loaded.config, loaded.propagation, loaded.name) == (model.config, model.propagation, str(folder))
    assert not loaded.training
    wanted, got = model.state_dict(), loaded.state_dict()
    assert list(wanted) == list(got)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_save_pretrained_in_half_precision_halves_the_file(tmp_path, checkpoint, dtype):
    model = tiny_model()
    folder = model.save_pretrained(tmp_path / "half", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, checkpoint)]
    assert 1.8 < sizes[1] / sizes[0] < 2.1
    loaded = SiamMAE.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(dtype).float())
    assert model.dtype == torch.float32  # saving changes nothing
    assert SiamMAE.from_pretrained(folder, dtype=dtype).dtype == dtype


def test_save_pretrained_writes_the_card_it_is_given(tmp_path, checkpoint):
    assert "| embed_dim | 32 |" in (checkpoint / "README.md").read_text(encoding="utf-8")
    folder = tiny_model().save_pretrained(tmp_path / "own", card="# Größe\n")
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Größe\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_saved_files_may_be_read_by_whoever_may_read_the_users_files(tmp_path, checkpoint):
    before = os.umask(0o027)
    try:
        SiamMAE.from_pretrained(checkpoint).save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640, "README.md": 0o640}


def test_save_pretrained_interrupted_leaves_no_half_checkpoint(tmp_path, checkpoint, monkeypatch):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}

    def half(tensors, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(tensors, "save_file", half)
    for folder in (checkpoint, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            tiny_model(seed=1).save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert list((tmp_path / "new").iterdir()) == []


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder.cls_token"), r"missing tensors \['encoder\.cls_token'\]"),
        (put("head.weight", torch.zeros(2)), r"unexpected tensors \['head\.weight'\]"),
        (put("decoder.norm.bias", torch.zeros(31)), r"decoder\.norm\.bias is \(31,\) instead of \(32,\)"),
        (put("decoder.norm.bias", torch.full((32,), float("nan"))), r"decoder\.norm\.bias has NaN or infinite values"),
        (put("decoder.norm.bias", torch.full((32,), float("inf"))), r"decoder\.norm\.bias has NaN or infinite values"),
        (
            put("encoder.pos_embed", torch.zeros(1, 17, 32)),
            r"pos_embed differs from the sine-cosine table by up to 1\.",
        ),
        (put("encoder.pos_embed", torch.full((1, 17, 32), 0.5)), r'Set position to "learned" in config\.json'),
    ],
)
def test_from_pretrained_of_weights_that_do_not_fit_names_the_tensor(checkpoint, change, message):
    edit_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        SiamMAE.from_pretrained(checkpoint)


def test_from_pretrained_refuses_a_value_in_the_class_tokens_fixed_position(checkpoint):
    edit_weights(checkpoint, lambda tensors: tensors["encoder.pos_embed"][0, 0].fill_(0.1))
    with pytest.raises(CheckpointError, match=r"pos_embed differs from the sine-cosine table by up to 0\.1\."):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format_version 2, this siammae reads up to 1. Upgrade siammae"),
        ({"format_version": "1"}, "has no format_version and model"),
        ({"model": None}, "has no format_version and model"),
        ({"model": []}, "has no format_version and model"),
        ({"model": {"pixel_mean": [[[[[[[[[[0]]]]]]]]]]}}, r"config\.json: lists lie in lists deeper than 8"),
        ({"model": {"depth": "x" * 100_000}}, r"depth is 'x+\.\.\.x+': it must be a whole number"),
        ({"model": {"whitened": "false"}}, r"config\.json: whitened is 'false': it must be True or False"),
        ({"model": {"pixel_mean": [0, float("nan"), 0]}}, r"pixel_mean is \(0, nan, 0\): it must be three numbers"),
        ({"author": "me"}, r"has unknown fields \['author'\]: known are format_version, model, propagation"),
        ({"model": {"width": 3}}, r"config\.json: unknown ModelConfig fields \['width'\]"),
        ({"model": {"depth": "two"}}, r"config\.json: depth is 'two': it must be a whole number"),
        ({"model": {"mlp_ratio": "two"}}, r"config\.json: ModelConfig cannot be built from"),
        ({"model": {"depth": 0}}, r"config\.json: depth is 0: it must be at least 1"),
        ({"propagation": {"topk": 3}}, r"config\.json: unknown PropagationConfig fields \['topk'\]"),
        ({"propagation": 3}, r"config\.json: "),
    ],
)
def test_from_pretrained_of_wrong_config_names_the_field(checkpoint, changes, message):
    edit_config(checkpoint, **changes)
    with pytest.raises(CheckpointError, match=message):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "content",
    [b'{"model": ', b"", b"\xff\xfe\xff", b"[" * 200_000, b'{"":' * 200_000, b"1" * 5000],
    ids=["cut", "empty", "utf-16", "lists", "dictionaries", "digits"],
)
def test_from_pretrained_of_broken_json_is_refused(checkpoint, content):
    (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON.*Get it again\.$") as refusal:
        SiamMAE.from_pretrained(checkpoint)
    assert len(str(refusal.value)) < 600
    assert "\n" not in str(refusal.value)


def test_from_pretrained_of_a_config_of_many_megabytes_is_refused_unread(checkpoint):
    with (checkpoint / "config.json").open("r+") as file:
        file.truncate(200 << 20)
    with pytest.raises(CheckpointError, match=r"config\.json has 209,715,200 bytes: a config has at most 1,048,576"):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_from_pretrained_with_a_file_missing_names_it(checkpoint, file):
    (checkpoint / file).unlink()
    with pytest.raises(CheckpointError, match=rf"checkpoint has no {file}.*Pass a folder that save_pretrained wrote"):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_from_pretrained_of_cut_safetensors_is_refused(checkpoint, keep):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or no safetensors file"):
        SiamMAE.from_pretrained(checkpoint)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.pt", "last.ckpt", "weights.pkl"])
def test_from_pretrained_never_opens_a_pickle(checkpoint, tmp_path, name):
    (checkpoint / "model.safetensors").unlink()
    trap = tmp_path / "opened"
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(trap)))
    with pytest.raises(CheckpointError, match=rf"no model\.safetensors\. \['{name}'\] are pickles.* never loaded"):
        SiamMAE.from_pretrained(checkpoint)
    assert not trap.exists()


def test_bundled_names_lists_only_folders_with_a_config(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_BUNDLED", tmp_path)
    assert hub.bundled_names() == ()
    tiny_model().save_pretrained(tmp_path / "siammae-b")
    tiny_model().save_pretrained(tmp_path / "siammae-a")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "notes.txt").touch()
    assert hub.bundled_names() == ("siammae-a", "siammae-b")
    assert SiamMAE.from_pretrained("siammae-b").name == "siammae-b"
    assert hub.find_checkpoint("siammae-b") == tmp_path / "siammae-b"


def test_find_checkpoint_of_a_folder_is_the_folder(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    assert hub.find_checkpoint(checkpoint) == hub.find_checkpoint(str(checkpoint)) == checkpoint
    assert hub.find_checkpoint(f"local-dir:{checkpoint}") == checkpoint
    assert hub.find_checkpoint("checkpoint") == Path("checkpoint")
    assert hub.find_checkpoint("../" + checkpoint.parent.name + "/checkpoint").samefile(checkpoint)


@pytest.mark.parametrize("name", ["local-dir:nowhere", "./nowhere", "/nowhere/at/all", "~/nowhere", Path("no/where")])
def test_find_checkpoint_of_a_missing_folder_says_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*where.*: a checkpoint is a folder with config\.json"):
        hub.find_checkpoint(name)


def test_find_checkpoint_of_another_name_shows_both_spellings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_BUNDLED", tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint 'vits': .*\(local-dir:vits\) .*\(hf-hub:owner/vits\)"):
        hub.find_checkpoint("vits")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloads(checkpoint, tmp_path, monkeypatch):
    """Hub downloads come from a local folder, as of one commit; what was asked for is returned."""
    asked = []
    checkpoint = checkpoint.rename(tmp_path / COMMIT)

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        return str(checkpoint / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize("name", ["some-one/vits16_k.400", "hf-hub:some-one/vits16_k.400"])
def test_from_pretrained_of_a_hub_name_downloads_config_and_weights(downloads, tmp_path, name):
    model = SiamMAE.from_pretrained(
        name, revision="v1", cache_dir=str(tmp_path), token="secret", local_files_only=True, dtype=torch.bfloat16
    )
    options = {"cache_dir": tmp_path, "token": "secret", "local_files_only": True, "force_download": False}
    asked = {"config.json": "v1", "model.safetensors": COMMIT}  # a push in between changes nothing
    assert downloads == [("some-one/vits16_k.400", file, options | {"revision": rev}) for file, rev in asked.items()]
    assert (model.name, model.dtype) == (name, torch.bfloat16)


def test_find_checkpoint_prefers_a_folder_of_the_same_name(downloads, tmp_path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub.find_checkpoint("owner/name") == Path("owner/name")
    assert downloads == []
    hub.find_checkpoint("hf-hub:owner/name")
    assert len(downloads) == 2
    plain = {"cache_dir": None, "token": None, "local_files_only": False, "force_download": False}
    assert downloads[0][2] == plain | {"revision": None}


def test_from_pretrained_with_force_download_asks_for_both_files_anew(downloads):
    SiamMAE.from_pretrained("hf-hub:owner/name", force_download=True)
    assert [options["force_download"] for _, _, options in downloads] == [True, True]
    with pytest.raises(ValueError, match="force_download and local_files_only are both set"):
        hub.find_checkpoint("owner/name", force_download=True, local_files_only=True)


def test_download_whose_files_come_from_two_commits_is_refused(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, file, **__: f"/commit-of-{file}/{file}")
    match = r"'owner/name' came in parts of two commits, commit-of-config\.json and .*with the commit as the revision"
    with pytest.raises(CheckpointError, match=match):
        hub.find_checkpoint("hf-hub:owner/name")


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_damaged_file_in_the_hubs_cache_is_refused_with_the_way_to_get_it_again(damage, checkpoint, tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    checkpoint.rename(folder)
    (folder / damage).write_bytes(b"\0" * 100)
    with pytest.raises(
        CheckpointError, match="force_download=True, or the command hf download owner/name --force-down"
    ):
        SiamMAE.from_pretrained(folder)


@pytest.mark.parametrize(
    ("variable", "proxy"),
    [
        ("HTTPS_PROXY", "socks5://127.0.0.1:9"),  # ImportError without socksio
        ("HTTPS_PROXY", "foo://bar:1"),  # ValueError
        ("HTTPS_PROXY", "http://[::1"),  # the HTTP client's InvalidURL
    ],
)
def test_an_unusable_proxy_is_a_checkpoint_error(variable, proxy, tmp_path):
    code = (
        "from siammae.checkpoints import hub\nfrom siammae.errors import CheckpointError\n"
        f"try: hub.find_checkpoint('hf-hub:owner/name', cache_dir={str(tmp_path)!r})\n"
        "except CheckpointError as error: print(error)"
    )
    environment = {**os.environ, variable: proxy, variable.lower(): proxy}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "cannot be had from the Hugging Face Hub" in run.stdout, run.stderr
    assert "the network and its proxy" in run.stdout


HUB_ERRORS = [
    LocalEntryNotFoundError("not in the cache"),
    HFValidationError("no such name"),
    ConnectionError("no network"),
    huggingface_hub.errors.HfHubHTTPError.__bases__[0]("no connection"),  # the HTTP client's own class
    ImportError("no SOCKS"),
    ValueError("no such proxy"),
]


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", HUB_ERRORS, ids=lambda error: type(error).__name__)
def test_download_that_fails_is_a_checkpoint_error(monkeypatch, error):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
    message = rf"'owner/name' cannot be had .*{type(error).__name__}: {error}.*revision='v2'.*local_files_only=False"
    with pytest.raises(CheckpointError, match=message):
        hub.find_checkpoint("hf-hub:owner/name", revision="v2")


@pytest.mark.parametrize("error", HUB_ERRORS[1:], ids=lambda error: type(error).__name__)
def test_push_to_hub_that_fails_is_a_checkpoint_error(monkeypatch, error):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: SimpleNamespace(create_repo=failing(error)))
    with pytest.raises(CheckpointError, match=rf"'owner/name' cannot be written .*{error}.*`hf auth login`"):
        tiny_model().push_to_hub("owner/name")
