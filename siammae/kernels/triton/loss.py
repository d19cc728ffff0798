"""The training loss on CUDA in Triton, forward and backward: a patch is read once each way and stays on chip.

Imported only when a loss is computed on CUDA: importing siammae must not need Triton. Each direction is one custom
operator, so that ``torch.compile`` sees one node.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rows(hidden, patches, per_image, ROWS: tl.constexpr):
    """Return this program's patches: their number, image, place in the image, and whether they count."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    counts = tl.load(hidden + rows, mask=rows < patches, other=0) != 0
    return rows, (rows // per_image).to(tl.int64), rows % per_image, counts


@triton.jit
def patch_errors(
    prediction,  # (B, N, P), the last axis contiguous
    target,  # (B, N, P), likewise
    hidden,  # (B*N,) uint8
    errors,  # (B*N,) float32: the mean squared error of a hidden patch, 0 of a visible one
    moments,  # (B*N, 2) float32: mean and 1 / standard deviation of a hidden target patch
    patches,
    per_image,
    prediction_image,  # strides
    prediction_patch,
    target_image,
    target_patch,
    P: tl.constexpr,
    WIDTH: tl.constexpr,  # P rounded up to a power of two
    ROWS: tl.constexpr,
    NORM_PIX: tl.constexpr,
):
    """Compare hidden patches with their normalised targets."""
    rows, image, patch, counts = _rows(hidden, patches, per_image, ROWS)
    values = tl.arange(0, WIDTH)
    used = counts[:, None] & (values < P)[None, :]
    at = (image * target_image + patch * target_patch)[:, None] + values[None, :]
    wanted = tl.load(target + at, mask=used, other=0.0).to(tl.float32)
    if NORM_PIX:
        mean = tl.sum(wanted, 1) / P
        wanted = tl.where(used, wanted - mean[:, None], 0.0)
        scale = 1 / tl.sqrt_rn(tl.sum(wanted * wanted, 1) / (P - 1) + 1e-6)
        wanted *= scale[:, None]
        tl.store(moments + rows * 2, mean, mask=rows < patches)
        tl.store(moments + rows * 2 + 1, scale, mask=rows < patches)
    at = (image * prediction_image + patch * prediction_patch)[:, None] + values[None, :]
    error = tl.load(prediction + at, mask=used, other=0.0).to(tl.float32) - wanted
    tl.store(errors + rows, tl.sum(error * error, 1) / P, mask=rows < patches)


@triton.jit
def patch_gradients(
    factor,  # () float32: 2 / (P * hidden patches), times the gradient of the loss
    prediction,
    target,
    hidden,
    moments,
    gradient,  # (B, N, P) contiguous, the prediction's dtype
    patches,
    per_image,
    prediction_image,
    prediction_patch,
    target_image,
    target_patch,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    NORM_PIX: tl.constexpr,
):
    """Write the gradient of the prediction: 0 for visible patches."""
    rows, image, patch, counts = _rows(hidden, patches, per_image, ROWS)
    values = tl.arange(0, WIDTH)
    used = counts[:, None] & (values < P)[None, :]
    at = (image * target_image + patch * target_patch)[:, None] + values[None, :]
    wanted = tl.load(target + at, mask=used, other=0.0).to(tl.float32)
    if NORM_PIX:
        mean = tl.load(moments + rows * 2, mask=counts, other=0.0)
        scale = tl.load(moments + rows * 2 + 1, mask=counts, other=0.0)
        wanted = (wanted - mean[:, None]) * scale[:, None]
    at = (image * prediction_image + patch * prediction_patch)[:, None] + values[None, :]
    error = tl.load(prediction + at, mask=used, other=0.0).to(tl.float32) - wanted
    slope = tl.where(used, error * tl.load(factor), 0.0)
    at = rows.to(tl.int64)[:, None] * P + values[None, :]
    inside = (rows < patches)[:, None] & (values < P)[None, :]
    tl.store(gradient + at, slope.to(gradient.dtype.element_ty), mask=inside)


def masked_patch_loss(prediction: Tensor, target: Tensor, hidden: Tensor, norm_pix: bool) -> Tensor:
    """Compute :func:`siammae.kernels.reference.masked_patch_loss`; the target gets no gradient."""
    loss: Tensor = _forward(prediction, target, hidden, norm_pix)[0]
    return loss


@torch.library.custom_op("siammae::masked_patch_loss", mutates_args=())
def _forward(prediction: Tensor, target: Tensor, hidden: Tensor, norm_pix: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the number of hidden patches, and the target patches' moments (B*N, 2)."""
    errors = prediction.new_empty(hidden.numel(), dtype=torch.float32)
    moments = prediction.new_empty(hidden.numel(), 2, dtype=torch.float32)
    prediction, target = _rows_contiguous(prediction), _rows_contiguous(target)
    with _on_device(prediction):
        patch_errors[_grid(hidden)](
            prediction, target, _bytes(hidden), errors, moments, **_sizes(prediction, target, norm_pix)
        )
    count = hidden.sum()
    # Summed by PyTorch: atomic additions would give another last digit at every run.
    return errors.sum() / count, count, moments


@_forward.register_fake
def _(prediction: Tensor, target: Tensor, hidden: Tensor, norm_pix: bool) -> tuple[Tensor, Tensor, Tensor]:
    return (
        prediction.new_empty((), dtype=torch.float32),
        prediction.new_empty((), dtype=torch.int64),
        prediction.new_empty(hidden.numel(), 2, dtype=torch.float32),
    )


@torch.library.custom_op("siammae::masked_patch_loss_backward", mutates_args=())
def _backward(
    slope: Tensor, prediction: Tensor, target: Tensor, hidden: Tensor, count: Tensor, moments: Tensor, norm_pix: bool
) -> Tensor:
    """Return the gradient of the prediction; ``slope`` is the loss's."""
    gradient = torch.empty(prediction.shape, dtype=prediction.dtype, device=prediction.device)
    factor = slope.float() * (2 / prediction.shape[-1]) / count
    prediction, target = _rows_contiguous(prediction), _rows_contiguous(target)
    with _on_device(prediction):
        patch_gradients[_grid(hidden)](
            factor, prediction, target, _bytes(hidden), moments, gradient, **_sizes(prediction, target, norm_pix)
        )
    return gradient


@_backward.register_fake
def _(
    slope: Tensor, prediction: Tensor, target: Tensor, hidden: Tensor, count: Tensor, moments: Tensor, norm_pix: bool
) -> Tensor:
    return torch.empty(prediction.shape, dtype=prediction.dtype, device=prediction.device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    prediction, target, hidden, ctx.norm_pix = inputs
    ctx.save_for_backward(prediction, target, hidden, output[1], output[2])


def _differentiate(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
    return _backward(slope, *ctx.saved_tensors, ctx.norm_pix), None, None, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _rows_contiguous(patches: Tensor) -> Tensor:
    """Copy patches (B, N, P) only where the values of a patch are apart."""
    return patches if patches.stride(2) == 1 else patches.contiguous()


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _bytes(hidden: Tensor) -> Tensor:
    return hidden.contiguous().view(torch.uint8)


_ROWS = 4  # patches of a program: a patch of 16x16x3 values alone gives each of 128 threads 6 values, too few in flight


def _grid(hidden: Tensor) -> tuple[int]:
    return (triton.cdiv(hidden.numel(), _ROWS),)


def _sizes(prediction: Tensor, target: Tensor, norm_pix: bool) -> dict[str, Any]:
    batch, per_image, values = prediction.shape
    return {
        "patches": batch * per_image,
        "per_image": per_image,
        "prediction_image": prediction.stride(0),
        "prediction_patch": prediction.stride(1),
        "target_image": target.stride(0),
        "target_patch": target.stride(1),
        "P": values,
        "WIDTH": triton.next_power_of_2(values),
        "ROWS": _ROWS,
        "NORM_PIX": norm_pix,
    }
