"""Self-attention in C++: what ``attention.cpp`` does, reached through ctypes."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from siammae.kernels.native import library as native_library


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "tokens", "heads", "width")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "keys", "values")),
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
    batch, tokens, _, heads, width = qkv.shape
    if not attends(qkv.dtype, width):
        raise RuntimeError(f"no native attention in {qkv.dtype} with heads of {width} channels here.")
    out = qkv.new_empty(batch, tokens, heads, width)
    if out.numel() == 0:
        return out
    # weights are powers of 2, which a processor computes more easily than those of e
    exponent = math.log2(math.e) / math.sqrt(width)
    places = (native_library.address(part, qkv.dtype) for part in (qkv, out))
    call = _Attention(batch, tokens, heads, width, exponent, *places)
    bfloat16, level = qkv.dtype == torch.bfloat16, native_library.level()
    if native_library.load().siammae_native_attend(ctypes.byref(call), bfloat16, level, torch.get_num_threads()):
        raise MemoryError("no memory for the native attention kernel: a smaller batch and fewer threads need less.")
    return out
