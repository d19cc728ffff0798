"""Affinity: for every patch of the new frame, its best matches in the context frames. The one door to the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from siammae import kernels as _kernels
from siammae.config.settings import check_range
from siammae.kernels import (
    FrameFeatures,
    Kernels,
    Window,
    available_kernels,
    backend_for,
    choose_kernels,
    kernel_details,
)
from siammae.kernels import gather_labels as mix_labels

__all__ = [
    "FrameFeatures",
    "Kernels",
    "TopK",
    "Window",
    "available_kernels",
    "backend_for",
    "choose_kernels",
    "kernel_details",
    "match_frames",
    "mix_labels",
    "patch_affinity",
    "topk_affinity",
    "unit_length",
]


_TEMPERATURES = (1e-30, 1e30)  # what float32 can divide a cosine by; 1e-39 is 0 / 0 there


class TopK(NamedTuple):
    """For each query patch, its best context patches."""

    weights: Tensor  # (N, k) float32, rows sum to 1, best first
    indices: Tensor  # (N, k) int64 into the flattened context (M*h*w)


def unit_length(features: Tensor) -> Tensor:
    """Scale features ``(..., C, h, w)`` to length 1 over C, in float32; zero vectors stay zero."""
    return F.normalize(features.float(), dim=-3)


def centered(features: Tensor, region: tuple[int, int, int, int] | None = None) -> Tensor:
    """Subtract from a frame's features their mean over its patches.

    What all patches of a frame share says nothing of which is which, differs from frame to frame and fills the cosines.

    Args:
        features: ``(C, h, w)``, float.
        region: the patches that were encoded, ``(top, left, bottom, right)``, the last two not included: only they
            count and change, the features of all others are 0 and stay so. None = all.

    Returns:
        The same shape, float32.
    """
    top, left, bottom, right = region or (0, 0, *features.shape[-2:])
    result = features.float().clone()
    inside = result[:, top:bottom, left:right]
    inside -= inside.mean(dim=(1, 2), keepdim=True)
    return result


def topk_affinity(
    query: Tensor,
    context: Tensor,
    *,
    top_k: int,
    temperature: float,
    radius: int | None = None,
    neighborhood: Literal["disk", "closed_disk", "square"] = "disk",
    free_frames: int = 0,
    keep_ties: bool = False,
    normalized: bool = False,
    kernels: Kernels = "auto",
) -> TopK:
    """Match every patch of one frame to its best patches in the context frames.

    For query patch q the candidates are the context patches p of all frames inside q's window. The weights are
    ``softmax(cosine / temperature)`` over the ``top_k`` best of them, chosen jointly over all frames.

    Args:
        query: features of the new frame, ``(C, h, w)``, float; need not be normalised.
        context: features of the context frames, ``(M, C, h, w)``, same dtype and device as ``query``.
        top_k: neighbours kept; fewer where the window holds fewer. At least 1.
        temperature: divisor of the cosine similarity, 1e-30 to 1e30. DAVIS runs use 0.7 (CropMAE) or 0.1 (DINO).
        radius: in patches; None looks everywhere. At least 1.
        neighborhood: ``"disk"`` keeps ``distance(p, q) < radius``; ``"closed_disk"`` ``distance(p, q) <= radius``;
            ``"square"`` ``|dx| <= radius and |dy| <= radius``.
        free_frames: this many leading context frames are searched without a window.
        keep_ties: also keep every patch exactly as similar as the ``top_k``-th (DINO), so ``k`` may exceed ``top_k``.
        normalized: the features have unit length already, as :func:`unit_length` makes them.
        kernels: backend; see :func:`siammae.available_kernels`.

    Returns:
        Weights ``(h*w, k)`` float32 with rows summing to 1, and indices ``(h*w, k)`` int64 into ``M*h*w``.
        Equal similarities go to the smaller index, on every backend. Weights are 0 where there are fewer candidates.

    Raises:
        ValueError: shapes, dtypes or devices differ, features are not finite, or an option is out of range.
        KernelUnavailableError: the backend asked for cannot run here, or not with these arguments.

    Source:
        Jabri et al. 2020 (videowalk), code/utils/test_utils.py; Caron et al. 2021 (DINO), eval_video_segmentation.py.

    Example:
        >>> import siammae
        >>> import torch
        >>> context = torch.eye(12).reshape(1, 12, 3, 4)  # one frame of 3 x 4 patches, all different
        >>> matches = siammae.topk_affinity(context[0], context, top_k=1, temperature=0.1)
        >>> matches.indices[:, 0].tolist()  # each patch finds itself
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    _check(query, context)
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}: it must be at least 1.")
    check_range("temperature", temperature, _TEMPERATURES)
    if radius is not None and radius < 1:
        raise ValueError(f"radius is {radius}: it must be at least 1, or None for no window.")
    if neighborhood not in ("disk", "closed_disk", "square"):
        raise ValueError(f"neighborhood is {neighborhood!r}: it must be 'disk', 'closed_disk' or 'square'.")
    if free_frames < 0:
        raise ValueError(f"free_frames is {free_frames}: it must be at least 0.")
    return match_frames(
        FrameFeatures(query if normalized else unit_length(query)),
        [FrameFeatures(frame) for frame in (context if normalized else unit_length(context))],
        top_k=top_k,
        temperature=temperature,
        radius=radius,
        neighborhood=neighborhood,
        free_frames=free_frames,
        keep_ties=keep_ties,
        kernels=kernels,
    )


def patch_affinity(query: Tensor, context: Tensor, *, temperature: float) -> Tensor:
    """Match one patch to every patch of some frames, for a picture of where it is found.

    Args:
        query: features of the patch, ``(C,)``, float; need not be normalised.
        context: features of the frames, ``(M, C, h, w)``, same dtype and device as ``query``.
        temperature: divisor of the cosine similarity, 1e-30 to 1e30.

    Returns:
        ``softmax(cosine / temperature)`` over the patches of each frame alone, ``(M, h, w)`` float32: what
        :func:`topk_affinity` gives for this patch where it keeps all patches and has no window.

    Raises:
        ValueError: shapes, dtypes or devices differ, features are not finite, or the temperature is out of range.
    """
    if query.ndim != 1 or context.ndim != 4 or context.shape[1] != len(query):
        raise ValueError(
            f"query is {tuple(query.shape)} and context {tuple(context.shape)}: they must be (C,), the features of one "
            "patch, and (M, C, h, w) with the same C."
        )
    _check(query[:, None, None].expand_as(context[0]) if len(context) else query, context)
    check_range("temperature", temperature, _TEMPERATURES)
    cosine = torch.einsum("c,mchw->mhw", F.normalize(query.float(), dim=0), unit_length(context))
    return (cosine / temperature).flatten(1).softmax(dim=1).view_as(cosine)


def match_frames(
    query: FrameFeatures,
    context: Sequence[FrameFeatures],
    *,
    temperature: float,
    kernels: Kernels,
    **window: Unpack[Window],
) -> TopK:
    """Match as :func:`topk_affinity` does, for a stream: what its frames were laid out in is kept with them.

    The arguments are not checked.
    """
    return TopK(*_kernels.topk_affinity(query, context, temperature=temperature, kernels=kernels, **window))


def _check(query: Tensor, context: Tensor) -> None:
    if query.ndim != 3 or context.ndim != 4 or context.shape[1:] != query.shape or not context.numel():
        raise ValueError(
            f"query is {tuple(query.shape)} and context {tuple(context.shape)}: they must be (C, h, w) and "
            "(M, C, h, w) with the same C, h, w and M >= 1."
        )
    if query.dtype != context.dtype or query.device != context.device or not query.is_floating_point():
        raise ValueError(
            f"query is {query.dtype} on {query.device}, context {context.dtype} on {context.device}: they must have "
            "one floating-point dtype and one device."
        )
    for name, features in (("query", query), ("context", context)):
        if not features.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values: check the network and its input frames.")
