"""The mix of the context's labels on CUDA in Triton: reads the labels of matched patches only, in place.

Imported only when labels on CUDA are mixed: importing siammae must not need Triton. One custom operator, so that
``torch.compile`` sees one node.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128  # patches of a program


@triton.jit
def mix_labels(
    weights,  # (patches, k) float32
    indices,  # (patches, k) int64 into M*patches
    labels,  # (M, L, patches)
    mixed,  # (L, patches) float32
    patches,
    channels,
    k,
    ROWS: tl.constexpr,
):
    """Mix the labels of one channel (axis 1) for ROWS patches (axis 0)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = rows < patches
    channel = tl.program_id(1).to(tl.int64)
    total = tl.zeros((ROWS,), tl.float32)
    for i in range(k):
        at = rows.to(tl.int64) * k + i
        weight = tl.load(weights + at, mask=real, other=0.0)
        index = tl.load(indices + at, mask=real, other=0)
        frame = index // patches
        at = (frame * channels + channel) * patches + (index - frame * patches)
        label = tl.load(labels + at, mask=real & (weight > 0), other=0.0)
        total += weight * label.to(tl.float32)
    tl.store(mixed + channel * patches + rows, total, mask=real)


@torch.library.custom_op("siammae::gather_labels", mutates_args=())
def gather_labels(weights: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
    """Mix as :func:`siammae.kernels.reference.gather_labels` does."""
    _, channels, h, w = labels.shape
    mixed = labels.new_empty(channels, h, w, dtype=torch.float32)
    with torch.cuda.device(labels.device) if labels.is_cuda else contextlib.nullcontext():
        mix_labels[(triton.cdiv(h * w, _ROWS), channels)](
            weights.contiguous(),
            indices.contiguous(),
            labels.contiguous(),
            mixed,
            h * w,
            channels,
            weights.shape[1],
            ROWS=_ROWS,
        )
    return mixed


@gather_labels.register_fake
def _(weights: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
    return labels.new_empty(labels.shape[1:], dtype=torch.float32)
