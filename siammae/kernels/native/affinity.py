"""Top-k affinity in C++: what ``library.cpp`` does, reached through ctypes. Absent where no compiler built it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from siammae.kernels.native import library as native_library

_SLACK = 64  # kSlack in library.h
_MOST_COARSE = 32_768  # channels: 32 bits hold the sum of so many products of 8 bits
_LONGEST_LIST = 4096  # the lists are kept sorted by insertion: their cost grows with the square


class _Grid(ctypes.Structure):
    _fields_ = (("words", ctypes.c_void_p), ("scale", ctypes.c_double), ("error", ctypes.c_double))


class _Frame(ctypes.Structure):
    _fields_ = (
        ("fine", _Grid),
        ("coarse", _Grid),
        ("patches", ctypes.c_void_p),
        ("length", ctypes.c_double),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("channels", "height", "width", "frames", "free_frames", "top_k", "reach")
        ),
        *((name, ctypes.c_void_p) for name in ("half", "query", "context", "scores", "indices", "tied")),
    )


class NativeFrame(NamedTuple):
    """One context frame as the C++ code reads it."""

    words: Tensor  # float32 channels or pairs of int16 channels, (h * groups * w + slack) of 4 bytes
    coarse: Tensor | None  # likewise of four uint8 channels; None where nothing is screened in 8 bits
    patches: Tensor | None  # (h, w, C) float32; None where nothing is rescored
    address: _Frame  # of all, and how far rounding can move a patch
    level: int  # the instruction set it was laid out for


def status() -> str:
    """Return ``"available"``, or the reason why this backend cannot run here."""
    return native_library.status()


def detail() -> str:
    """Return the instruction set in use."""
    return native_library.level_name()


def refusal(
    query: Tensor, *, top_k: int, radius: int | None, neighborhood: str, free_frames: int, keep_ties: bool
) -> str | None:
    """Return why this call cannot be served; None if it can."""
    if query.device.type != "cpu":
        return f"it runs on the CPU and the features are on {query.device}"
    if top_k > _LONGEST_LIST:
        return f"top_k is {top_k} and its lists are made for at most {_LONGEST_LIST}"
    return None


def prepare(features: Tensor) -> NativeFrame:
    """Lay out one context frame ``(C, h, w)``; done once, however many queries it meets.

    Features whose channels lie side by side are used where they are, and must stay as they are.
    """
    level = native_library.level()
    channels, h, w = features.shape
    patches = _patches(features)
    screens = bool(native_library.load().siammae_native_level_screens(level))
    words = _room(h * ((channels + 1) // 2 if screens else channels) * w + _SLACK)
    coarse = _room(h * ((channels + 3) // 4) * w + _SLACK) if screens and channels <= _MOST_COARSE else None
    grids = (_Grid(None if part is None else _address(part)) for part in (words, coarse))
    address = _Frame(*grids, _address(patches))
    if native_library.load().siammae_native_layout(channels, h, w, level, ctypes.byref(address)):
        raise MemoryError("no memory to lay out a frame for the native affinity kernel.")
    return NativeFrame(words, coarse, patches if screens else None, address, level)


def _room(count: int) -> Tensor:
    """Return memory for words of 4 bytes."""
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _address(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    return native_library.address(tensor, dtype)


def _patches(features: Tensor) -> Tensor:
    """Turn ``(C, h, w)`` into float32 ``(h, w, C)``, without a copy where it lies so."""
    return features.detach().permute(1, 2, 0).float().contiguous()


def topk_affinity(
    query: Tensor,
    context: Sequence[NativeFrame],
    *,
    top_k: int,
    temperature: float,
    radius: int | None,
    neighborhood: str,
    free_frames: int,
    keep_ties: bool,
) -> tuple[Tensor, Tensor]:
    """Match as :func:`siammae.kernels.reference.topk_affinity` does, with frames laid out by :func:`prepare`.

    A score is the float32 sum of C products in a fixed order, the same for any number of threads: it is within
    ``C * 2**-23`` of the exact cosine, and so are the others' scores.
    """
    query = _patches(query)
    h, w, _ = query.shape
    reach = h + w if radius is None else min(radius, h + w)  # a window of h + w holds the whole frame
    half = _half_widths(reach, neighborhood)
    free = len(context) if reach == h + w else min(free_frames, len(context))
    k = min(top_k, len(context) * h * w)
    scores, indices, tied = _run(query, context, k, half, free)
    if keep_ties and (more := int(tied.max())):
        threshold = scores[:, -1:]
        scores, indices, _ = _run(query, context, k + more, half, free)
        scores.masked_fill_(scores < threshold, -torch.inf)
    return torch.softmax(scores / temperature, dim=1), indices


def _half_widths(radius: int, neighborhood: str) -> Tensor:
    """Return for each row distance how far the window reaches to either side: ``(reach + 1,)`` int64."""
    if neighborhood == "square":
        return torch.full((radius + 1,), radius, dtype=torch.int64, device="cpu")
    squared = radius**2 - (neighborhood == "disk")  # distance < radius: squared distance <= radius**2 - 1
    widths = [math.isqrt(squared - d * d) for d in range(radius + 1) if d * d <= squared]
    return torch.tensor(widths, dtype=torch.int64, device="cpu")


def _run(
    query: Tensor, context: Sequence[NativeFrame], top_k: int, half: Tensor, free: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the library: scores and indices ``(h*w, top_k)``, and how many patches more equal the last ``(h*w,)``."""
    h, w, channels = query.shape
    level = context[0].level
    if any(frame.level != level for frame in context):
        raise ValueError(
            f"context frames are laid out for several instruction sets: keep {native_library.ENVIRONMENT} as it is."
        )
    frames = (_Frame * len(context))(*(frame.address for frame in context))
    scores = torch.empty(h * w, top_k, dtype=torch.float32, device="cpu")
    indices = torch.empty(h * w, top_k, dtype=torch.int64, device="cpu")
    tied = torch.empty(h * w, dtype=torch.int64, device="cpu")
    sizes = (channels, h, w, len(context), free, top_k, len(half) - 1)
    arrays = (_address(half, torch.int64), _address(query), ctypes.addressof(frames))
    results = (_address(scores), _address(indices, torch.int64), _address(tied, torch.int64))
    problem = _Problem(*sizes, *arrays, *results)
    if native_library.load().siammae_native_topk(ctypes.byref(problem), level, torch.get_num_threads()):
        raise MemoryError("no memory for the tiles of the native affinity kernel: fewer threads need less.")
    return scores, indices, tied
