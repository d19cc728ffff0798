"""Attention of the native library against a plain softmax in float64, on every instruction set of the machine."""

import pytest
import torch

from siammae.kernels.native import attention as native_attention
from siammae.kernels.native import library as native_library

built = native_library.status() == "available"
pytestmark = [
    pytest.mark.skipif(not built, reason=f"native kernels: {native_library.status()}"),
    pytest.mark.usefixtures("nan_in_new_memory", "threads_as_before"),
]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # of the result's norm; 2**-8 is what rounding the result costs


def having():
    """Each instruction set of the machine with the dtypes it has attention for."""
    with pytest.MonkeyPatch.context() as patch:
        for isa in native_library.instruction_sets() if built else ():
            patch.setenv(native_library.ENVIRONMENT, isa)
            yield from ((isa, dtype) for dtype in TOLERANCE if native_attention.attends(dtype))


@pytest.fixture(params=list(having()), ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}")
def dtype(request, monkeypatch):
    isa, dtype = request.param
    monkeypatch.setenv(native_library.ENVIRONMENT, isa)
    return dtype


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def plain(qkv):
    queries, keys, values = qkv.double().permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.transpose(-2, -1) / qkv.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ values).transpose(1, 2)


def check(qkv):
    got, expected = native_attention.attend(qkv), plain(qkv)
    assert got.dtype == qkv.dtype
    assert got.shape == expected.shape
    assert (got.double() - expected).norm() <= TOLERANCE[qkv.dtype] * expected.norm()


@pytest.mark.parametrize("tokens", [1, 5, 24, 25, 63, 64, 65, 256, 257, 330, 601])
def test_attend_over_any_number_of_tokens_equals_the_plain_softmax(dtype, tokens):
    check(normal(2, tokens, 3, 3, 64).to(dtype))


@pytest.mark.parametrize("width", [2, 8, 16, 24, 30, 48, 80, 128, 130])
def test_attend_with_heads_of_any_even_width_equals_the_plain_softmax(dtype, width):
    check(normal(1, 77, 3, 2, width).to(dtype))


@pytest.mark.parametrize("width", [1, 7, 33])
def test_attend_with_heads_of_odd_width_is_for_float32(dtype, width):
    qkv = normal(1, 77, 3, 2, width).to(dtype)
    if dtype == torch.float32:
        check(qkv)
        return
    assert not native_attention.attends(dtype, width)
    with pytest.raises(RuntimeError, match=f"no native attention in torch.bfloat16 with heads of {width} channels"):
        native_attention.attend(qkv)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_attend_where_scores_grow_or_shrink_from_key_to_key_equals_the_plain_softmax(dtype, order):
    qkv = normal(1, 600, 3, 1, 16)
    steps = torch.linspace(-40, 40, 600)  # times a query of 4 over the root of 16
    qkv[:, :, :2] = 0
    qkv[:, :, 0, 0, 0] = 4
    qkv[:, :, 1, 0, 0] = steps if order == "rising" else steps.flip(0)
    check(qkv.to(dtype))


@pytest.mark.parametrize("size", [1e-20, 30.0, 1e4, 1e15])
def test_attend_with_scores_of_any_size_equals_the_plain_softmax(dtype, size):
    qkv = normal(1, 70, 3, 2, 32).to(dtype)
    qkv[:, :, :2] *= size
    check(qkv)


def test_attend_to_equal_keys_takes_the_mean(dtype):
    qkv = normal(1, 300, 3, 1, 16).to(dtype)
    qkv[:, :, 1] = qkv[:, :1, 1]
    check(qkv)


def test_attend_keeps_what_is_not_a_number_in_its_head_and_image(dtype):
    qkv = normal(2, 300, 3, 2, 16).to(dtype)
    clean = native_attention.attend(qkv)
    qkv[1, 290, 1, 0, 3] = torch.nan  # a key
    spoilt = native_attention.attend(qkv)
    assert spoilt[1, :, 0].isnan().all()
    assert torch.equal(spoilt[0], clean[0])
    assert torch.equal(spoilt[1, :, 1], clean[1, :, 1])
    qkv[1, 290, 1, 0, 3] = 0
    qkv[1, 7, 0, 0, 3] = torch.nan  # a query
    spoilt = native_attention.attend(qkv)
    assert spoilt[1, 7, 0].isnan().all()
    assert not spoilt[1, 8:, 0].isnan().any()


def test_attend_gives_the_same_for_any_threads_batch_and_layout(dtype):
    qkv = normal(3, 100, 3, 2, 16).to(dtype)
    torch.set_num_threads(1)
    expected = native_attention.attend(qkv)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(native_attention.attend(qkv), expected)
    assert torch.equal(native_attention.attend(qkv[1:2]), expected[1:2])
    gaps = torch.stack([qkv, qkv], dim=-1)[..., 0]
    assert not gaps.is_contiguous()
    assert torch.equal(native_attention.attend(gaps), expected)


def test_attend_to_nothing_is_nothing(dtype):
    assert native_attention.attend(torch.empty(0, 5, 3, 2, 16, dtype=dtype)).shape == (0, 5, 2, 16)
    assert native_attention.attend(torch.empty(2, 0, 3, 2, 16, dtype=dtype)).shape == (2, 0, 2, 16)


def test_attends_says_no_to_other_dtypes_and_where_there_is_no_library(monkeypatch, tmp_path):
    assert not native_attention.attends(torch.float16)
    assert not native_attention.attends(torch.float64)
    assert not native_attention.attends(torch.float32, 0)
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "lib.so")
    assert not native_attention.attends(torch.float32)


def test_attends_says_no_on_the_portable_level(monkeypatch):
    monkeypatch.setenv(native_library.ENVIRONMENT, "portable")
    assert not native_attention.attends(torch.float32)


def test_attend_without_memory_raises(monkeypatch):
    class Poor:
        siammae_native_attend = staticmethod(lambda *_: 1)

    monkeypatch.setattr(native_library, "load", Poor)
    monkeypatch.setattr(native_attention, "attends", lambda *_: True)
    monkeypatch.setattr(native_library, "level", lambda: 0)
    with pytest.raises(MemoryError, match="a smaller batch and fewer threads need less"):
        native_attention.attend(normal(1, 5, 3, 2, 16))
