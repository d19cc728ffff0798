"""oneDNN's product against PyTorch's, and the settings that would make it coarse."""

import pytest
import torch
import torch.nn.functional as F

from siammae.kernels import onednn

needs_operator = pytest.mark.skipif(not onednn.available(), reason="this PyTorch has no oneDNN operator")


@needs_operator
@pytest.mark.parametrize("shape", [(33,), (1, 33), (7, 33), (3, 1, 33), (3, 5, 33)], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_linear_equals_pytorchs(shape, gelu):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(some, generator=generator) for some in (shape, (13, 33), (13,)))
    for given in (x, torch.stack([x, x], dim=-1)[..., 0]):  # the second one has gaps
        expected = F.linear(given.double(), weight.double(), bias.double())
        expected = F.gelu(expected) if gelu else expected
        got = onednn.linear(given, weight, bias, gelu=gelu)
        torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(onednn.linear(given, weight.T.contiguous().T, bias, gelu=gelu), got)


def test_coarse_precision_names_the_setting_that_is_on():
    assert onednn.coarse_precision() is None
    torch.set_float32_matmul_precision("medium")
    try:
        assert "precision" in onednn.coarse_precision()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert onednn.coarse_precision() is None


def test_coarse_precision_asks_an_older_pytorch_by_its_function(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", None, raising=False)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert onednn.coarse_precision() == "torch.set_float32_matmul_precision('high')"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert onednn.coarse_precision() is None
