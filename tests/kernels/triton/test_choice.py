"""When the Triton kernels are taken and what they refuse: all of it is decided without a device."""

import re
import sys
import types

import pytest
import torch

from siammae import kernels
from siammae.errors import KernelUnavailableError
from siammae.kernels.triton import ops as triton_ops
from siammae.propagation.affinity import topk_affinity

OPTIONS = {"radius": 2, "neighborhood": "disk", "free_frames": 0}


@pytest.fixture
def device(monkeypatch):
    """Pretend that there is a CUDA device; only its properties are asked for."""
    properties = types.SimpleNamespace(name="a GPU", major=9, minor=0, shared_memory_per_block_optin=227 << 10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: properties.name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (properties.major, properties.minor))
    return properties


def features(channels=16, dtype=torch.float32, grid=(3, 4), kind="cuda"):
    """Describe a query on a device that need not be there."""
    made = torch.empty(channels, *grid, dtype=dtype, device="meta")
    return types.SimpleNamespace(
        device=torch.device(kind), shape=made.shape, dtype=dtype, element_size=made.element_size
    )


@pytest.fixture
def triton(monkeypatch, tmp_path):
    """Pretend that Triton is installed; the folder of its package can be changed before it is asked for."""
    package = tmp_path / "triton"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('asking must not import it')")
    (package / "knobs.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    triton_ops._no_triton.cache_clear()
    yield package
    triton_ops._no_triton.cache_clear()


def test_status_without_a_device_says_so(triton, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_ops.status() == "no CUDA device"


def test_status_without_triton_says_so(triton, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "the package triton is missing" in triton_ops.status()


def test_triton_that_is_too_old_is_not_taken(triton, device):
    (triton / "knobs.py").unlink()
    assert triton_ops.status().startswith("this triton is too old and has no triton.knobs; PyTorch 2.8")
    assert not triton_ops.serves(torch.zeros(1))
    with pytest.raises(KernelUnavailableError, match=r"no triton kernels here: this triton is too old"):
        kernels.choose_kernels("triton")


def test_status_and_detail_with_a_device(triton, device):
    assert triton_ops.status() == "available"
    assert triton_ops.detail() == "a GPU"
    assert triton_ops.serves(torch.zeros(1))
    device.major = 7
    assert triton_ops.status() == "no NVIDIA device of compute capability 8.0 or higher (a GPU)"
    assert not triton_ops.serves(torch.zeros(1))


@pytest.mark.parametrize(
    ("query", "changes", "reason"),
    [
        ({}, {}, None),
        ({"dtype": torch.float16}, {}, None),
        ({"kind": "cpu"}, {}, "the features are on cpu, it needs a CUDA device"),
        ({"dtype": torch.float64}, {}, "the features are torch.float64, it needs"),
        ({"grid": (9000, 1)}, {}, r"the grid is \(9000, 1\), it takes at most 8192"),
        ({"channels": 5000}, {}, "5000 channels of torch.float32 do not fit into the shared memory of a GPU"),
        ({}, {"keep_ties": True}, "keep_ties has no bound"),
        ({}, {"top_k": 33}, "top_k is 33, it keeps at most 32"),
    ],
)
def test_refusal_names_what_cannot_be_served(device, query, changes, reason):
    given = triton_ops.refusal(features(**query), **{"top_k": 5, "keep_ties": False, **OPTIONS, **changes})
    if reason is None:
        assert given is None
    else:
        assert re.search(reason, given)


def test_refusal_of_an_old_device_names_it(device):
    device.major, device.minor = 7, 5
    assert triton_ops.refusal(features(), top_k=5, keep_ties=False, **OPTIONS) == (
        "a GPU has compute capability 7.5, it needs 8.0 or higher"
    )


def test_topk_affinity_of_cpu_features_never_falls_back_from_triton(triton, device):
    with pytest.raises(KernelUnavailableError, match="triton kernels cannot serve this call: the features are on cpu"):
        topk_affinity(torch.ones(4, 2, 2), torch.ones(1, 4, 2, 2), top_k=1, temperature=1.0, kernels="triton")


@pytest.mark.parametrize(("wish", "fused"), [(None, True), ("triton", True), ("cpu", False), ("reference", False)])
def test_loss_and_labels_are_fused_on_cuda_unless_another_backend_is_named(triton, device, monkeypatch, wish, fused):
    monkeypatch.delenv("SIAMMAE_KERNELS", raising=False)
    if wish:
        monkeypatch.setenv("SIAMMAE_KERNELS", wish)
    assert kernels._fused(types.SimpleNamespace(is_cuda=True, device=torch.device("cuda"))) is fused
    assert not kernels._fused(torch.zeros(1))


@pytest.mark.parametrize("grid", [(30, 55), (60, 110), (1, 1), (7, 13)])
@pytest.mark.parametrize(("radius", "free"), [(12, 0), (20, 1), (-1, 8)])
@pytest.mark.parametrize("config", triton_ops._CONFIGS)
def test_plan_covers_every_step_once(grid, radius, free, config):
    task = triton_ops.plan(grid, 8, free, radius, "disk", config, 132)
    whole = -(-grid[0] // config.block[0]) * -(-grid[1] // config.block[1])
    assert 1 <= task.parts <= 16
    if free == 8:
        steps = 8 * whole
        assert (task.parts - 1) * task.steps_per_part < steps <= task.parts * task.steps_per_part


@pytest.mark.parametrize(
    ("neighborhood", "radius", "reach", "limit"),
    [("disk", 3, 2, 8), ("closed_disk", 3, 3, 9), ("square", 3, 3, 3), ("disk", 10**9, 7, (1 << 28) - 1)],
)
def test_plan_turns_the_window_into_limits(neighborhood, radius, reach, limit):
    task = triton_ops.plan((5, 7), 2, 0, radius, neighborhood, triton_ops._CONFIGS[0], 108)
    assert (task.reach, task.limit) == (reach, limit)
