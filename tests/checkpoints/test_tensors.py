"""Safetensors are judged by their header, and loaded strictly."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from siammae.checkpoints import tensors
from siammae.config import ModelConfig
from siammae.errors import CheckpointError
from siammae.network.model import SiamMAE
from siammae.network.shapes import tensor_shapes
from tests.helpers import tiny_model


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_model().save_pretrained(tmp_path / "checkpoint")


def put(folder, **changed):
    held = load_file(folder / "model.safetensors")
    save_file(held | changed, folder / "model.safetensors")


def test_load_strictly_reports_all_problems_at_once_and_loads_nothing():
    module = torch.nn.Linear(2, 2)
    before = module.weight.clone()
    held = {"weight": torch.zeros(2, 2), "scale": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"^here does not fit .*missing tensors \['bias'\]; unexpected .*scale"):
        tensors.load_strictly(module, held, source="here")
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decoder": "cropmae", "decoder_depth": 3},
        {"decoder": "joint", "encoder": "joint", "depth": 4},
        {"decoder": "none", "position": "learned", "registers": 3, "layer_scale": True},
        {"decoder": "none", "adapter": True},
        {"decoder": "cross", "whitened": True, "image_size": 96},
    ],
    ids=str,
)
def test_tensor_shapes_are_those_of_the_network(fields):
    model = tiny_model(**fields)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert tensor_shapes(SiamMAE, model.config) == wanted


def test_tensor_shapes_of_the_largest_network_take_no_memory():
    config = ModelConfig(
        depth=512, embed_dim=16384, num_heads=16, image_size=1024, patch_size=1, decoder_dim=16384, decoder_depth=512
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shapes = tensor_shapes(SiamMAE, config)
    assert shapes["encoder.pos_embed"] == (1, 1 + 1024**2, 16384)
    assert shapes["encoder.blocks.511.mlp.fc1.weight"] == (65536, 16384)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "dtype",
    [
        torch.int32,
        torch.int64,
        torch.bool,
        torch.complex64,
        torch.uint16,
        torch.uint8,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
)
def test_weights_of_other_types_are_refused(checkpoint, dtype):
    try:
        put(checkpoint, **{"decoder.norm.bias": torch.zeros(32).to(dtype)})
    except KeyError:
        pytest.skip(f"this safetensors writes no {dtype}")
    with pytest.raises(
        CheckpointError, match=r"decoder\.norm\.bias is \w+, but weights are float32, float16, bfloat16"
    ):
        SiamMAE.from_pretrained(checkpoint)
    module = torch.nn.Linear(1, 32)
    held = {"weight": torch.zeros(32, 1), "bias": torch.zeros(32).to(dtype)}
    with pytest.raises(CheckpointError, match=r"bias is \w+, but weights are"):
        tensors.load_strictly(module, held, source="here")


def test_weights_of_wrong_shapes_are_refused_before_the_network_is_built(checkpoint, monkeypatch):
    config = json.loads((checkpoint / "config.json").read_text())
    config["model"] |= {"depth": 500, "embed_dim": 8192, "decoder_dim": 8192, "decoder_depth": 500}
    (checkpoint / "config.json").write_text(json.dumps(config))
    built = []
    monkeypatch.setattr(SiamMAE, "to", lambda self, **_: built.append(self))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    match = (
        r"does not fit its config: missing tensors \['decoder\.blocks\.10\..* and \d+ more; "
        r"decoder\.blocks\.0\.attn\.proj\.bias is \(32,\) instead of \(8192,\);.*; and \d+ more\.$"
    )
    with pytest.raises(CheckpointError, match=match) as refusal:
        SiamMAE.from_pretrained(checkpoint)
    assert len(str(refusal.value)) < 3000
    assert not built
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_many_and_long_names_are_cut_in_messages(checkpoint):
    put(checkpoint, **{f"{i}.{'x' * 200}": torch.zeros(1) for i in range(20_000)})
    with pytest.raises(CheckpointError, match=r"unexpected tensors \['0\.x+\.\.\.', .* and 19990 more") as refusal:
        SiamMAE.from_pretrained(checkpoint)
    assert len(str(refusal.value)) < 2000


@pytest.mark.parametrize("size", [17 << 20, 1 << 40, 2**64 - 1])
def test_a_header_that_would_be_huge_is_refused_unread(checkpoint, size):
    (checkpoint / "model.safetensors").write_bytes(size.to_bytes(8, "little") + b"{" * 1000)
    with pytest.raises(
        CheckpointError,
        match=r"its header would be [\d,]+ bytes, and SIAMMAE_MAX_HEADER_BYTES, 16,777,216, are read\. Get it again",
    ):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}},
        {"a": [[[[0]]]]},
        [],
    ],
    ids=["too large", "backwards", "no such type", "twice", "four bits", "lists", "a list"],
)
def test_a_lying_header_is_refused(checkpoint, header):
    text = json.dumps(header).encode()
    (checkpoint / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match=r"model\.safetensors (is damaged or no safetensors file|does not fit)"):
        SiamMAE.from_pretrained(checkpoint)


@pytest.mark.parametrize("setting", ["set_default_device('meta')", "set_default_dtype(torch.bfloat16)"])
def test_from_pretrained_under_other_defaults_gives_the_same_weights(checkpoint, setting):
    code = (
        f"import torch\nfrom siammae.network.model import SiamMAE\na = SiamMAE.from_pretrained({str(checkpoint)!r})\n"
        f"torch.{setting}\nb = SiamMAE.from_pretrained({str(checkpoint)!r})\n"
        "assert b.device.type == 'cpu' and b.dtype == a.dtype\n"
        "assert all(torch.equal(one, two) for one, two in zip(a.state_dict().values(), b.state_dict().values()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_equal_tensors_are_equal_files_whose_metadata_survive(tmp_path):
    saved = {"b": torch.arange(6.0), "a": torch.ones(2, 3, dtype=torch.bfloat16)}
    metadata = {"model": 'a "name" \\ of\n\x1b\x7f two\tlines, 走 \U0001f600', **{str(i): f"{i}" for i in range(9)}}
    files = []
    for _ in range(5):  # safetensors draws an order each time
        tensors.save_tensors(saved, tmp_path / "x.safetensors", metadata)
        files.append((tmp_path / "x.safetensors").read_bytes())
    assert set(files) == {files[0]}
    assert {name: one.tolist() for name, one in tensors.read_tensors(tmp_path / "x.safetensors").items()} == {
        name: one.tolist() for name, one in saved.items()
    }
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == metadata


def test_save_tensors_onto_a_full_disk_is_an_os_error_that_names_the_file(tmp_path):
    file = tmp_path / "m.safetensors"
    code = (
        "import resource, torch\nfrom pathlib import Path\nfrom siammae.checkpoints.tensors import save_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: save_tensors({{'a': torch.zeros(9999)}}, Path({str(file)!r}), {{}})\n"
        "except OSError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"[Errno 27] File too large: '{file}'\n"
