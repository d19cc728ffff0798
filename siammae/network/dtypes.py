"""Which dtype a network computes in where nobody chose one."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from siammae.network.cpu_layers import bfloat16_is_faster

Dtype: TypeAlias = torch.dtype | Literal["auto"]

_CUDA_CAPABILITY = (8, 0)  # the first with bfloat16 products


def choose_dtype(dtype: Dtype, device: torch.device | str | None) -> torch.dtype:
    """Turn ``"auto"`` into the faster of float32 and bfloat16; a dtype that was asked for is never replaced.

    Args:
        dtype: ``"auto"`` is bfloat16 on a CPU that multiplies it faster than float32, see
            :func:`siammae.network.cpu_layers.bfloat16_is_faster`, and on CUDA devices of compute capability 8.0 and
            more; float32 elsewhere.
        device: where the network will be; None = the CPU.

    Raises:
        ValueError: ``dtype`` is another word.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        raise ValueError(f"dtype is {dtype!r}: it must be 'auto' or a torch.dtype such as torch.float32.")
    where = torch.device(device or "cpu")
    if where.type == "cpu":
        return torch.bfloat16 if bfloat16_is_faster() else torch.float32
    fast = where.type == "cuda" and torch.cuda.get_device_capability(where) >= _CUDA_CAPABILITY
    return torch.bfloat16 if fast else torch.float32
