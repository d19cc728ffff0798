"""Self-attention in C++: what ``attention.cpp`` does, reached through ctypes."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from siammae.kernels.native import library as native_library


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "heads", "width", "queries", "tokens")),
        *((name, ctypes.c_int64) for name in ("query_step", "token_step")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out", "keys", "values")),
    )


def attends(dtype: torch.dtype, width: int = 2) -> bool:
    """Tell whether attention of a dtype, with heads of so many channels, can be computed here.

    float32 needs AVX2, bfloat16 AVX512-BF16 and an even number of channels.
    """
    known = dtype == torch.float32 or (dtype == torch.bfloat16 and width % 2 == 0)
    if not known or width < 1 or native_library.status() != "available":
        return False
    return bool(native_library.load().siammae_native_level_attends(native_library.level(), dtype == torch.bfloat16))


def attend(qkv: Tensor) -> Tensor:
    """Attend within each image: ``softmax(q @ k.T / sqrt(D)) @ v``, summed in float32.

    Args:
        qkv: queries, keys and values, ``(B, N, 3, heads, D)`` float32 or bfloat16 on a CPU; see :func:`attends`.

    Returns:
        ``(B, N, heads, D)``, like ``qkv``; the same for any number of threads and whatever else is in the batch. In
        bfloat16 the weights are rounded before they meet the values.

    Raises:
        RuntimeError: :func:`attends` says no.
        MemoryError: there is too little.
    """
    qkv = qkv.detach().contiguous()
    part = qkv.shape[3] * qkv.shape[4]
    return _attend(qkv, qkv, (0, part, 2 * part))


def attend_to(queries: Tensor, pairs: Tensor) -> Tensor:
    """Attend from the tokens of each image to others, as :func:`attend` does.

    Args:
        queries: ``(B, N, 1, heads, D)`` float32 or bfloat16 on a CPU.
        pairs: keys and values ``(B, M, 2, heads, D)``, of the same type; M is at least 1.

    Returns:
        ``(B, N, heads, D)``.

    Raises:
        RuntimeError: :func:`attends` says no.
        MemoryError: there is too little.
    """
    queries, pairs = queries.detach().contiguous(), pairs.detach().contiguous()
    return _attend(queries, pairs, (0, 0, pairs.shape[3] * pairs.shape[4]))


def _attend(queries: Tensor, pairs: Tensor, places: tuple[int, int, int]) -> Tensor:
    """Attend between ``(B, N, any, heads, D)`` and ``(B, M, any, heads, D)``.

    Args:
        queries: holds the queries.
        pairs: holds keys and values.
        places: of queries, keys and values: the number of the first channel in their token.
    """
    batch, count, _, heads, width = queries.shape
    if not attends(queries.dtype, width):
        raise RuntimeError(f"no native attention in {queries.dtype} with heads of {width} channels here.")
    out = queries.new_empty(batch, count, heads, width)
    if out.numel() == 0:
        return out
    query, key, value = (
        native_library.address(tensor, queries.dtype) + place * tensor.element_size()
        for tensor, place in zip((queries, pairs, pairs), places, strict=True)
    )
    # weights are powers of 2, which a processor computes more easily than those of e
    exponent = math.log2(math.e) / math.sqrt(width)
    steps = (tensor.stride(1) for tensor in (queries, pairs))
    target = native_library.address(out, queries.dtype)
    call = _Attention(batch, heads, width, count, pairs.shape[1], *steps, exponent, query, key, value, target)
    bfloat16, level = queries.dtype == torch.bfloat16, native_library.level()
    if native_library.load().siammae_native_attend(ctypes.byref(call), bfloat16, level, torch.get_num_threads()):
        raise MemoryError("no memory for the native attention kernel: a smaller batch and fewer threads need less.")
    return out
