"""Every backend goes through the same tests."""

import pytest
import torch

from siammae.propagation.affinity import available_kernels


@pytest.fixture(params=["triton", "native", "cpu", "reference"])
def backend(request):
    """Name of a backend; skips those that cannot run on this machine. New memory is full of NaN meanwhile."""
    if (status := available_kernels()[request.param]) != "available":
        pytest.skip(f"{request.param}: {status}")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param != "triton")
    yield request.param
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def device(backend):
    """Where the backend computes."""
    return "cuda" if backend == "triton" else "cpu"


@pytest.fixture
def nan_in_new_memory():
    """New tensors of PyTorch hold NaN, so that what is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def threads_as_before():
    """Puts the number of threads back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
