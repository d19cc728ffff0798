"""Smaller numbers: features as float16, or int8 with a scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.config import ExtractionConfig

FEATURES, SCALE = "features", "scale"
_LARGEST = 127  # -128 is left out, so that a number and its negative are equally far from 0
Stored = NDArray[np.generic]


def pack(features: Tensor, config: ExtractionConfig) -> dict[str, Stored]:
    """Turn features into what is stored of them.

    Args:
        features: ``(B, C, h, w)`` or ``(B, C)``, float.
        config: gives ``store`` and ``scale``.

    Returns:
        ``features`` as float32, float16 or int8; of int8 also ``scale``, float32: ``(B, C, 1, 1)`` a channel or
        ``(B, 1, h, w)`` a patch, pooled ``(B, 1)``. Their product is the features.

    Raises:
        ValueError: a number is too large for float16, or not finite where int8 is wanted.
    """
    values = features.float()
    if config.store == "float32":
        return {FEATURES: values.cpu().numpy()}
    if config.store == "float16":
        halves = values.half()
        if bool((halves.isinf() & values.isfinite()).any()):
            raise ValueError(
                f"a feature of {values.abs().max().item():.3g} is too large for float16, which ends at 65504: "
                "store float32 or int8."
            )
        return {FEATURES: halves.cpu().numpy()}
    over = (1,) if values.dim() == 2 or config.scale == "patch" else (2, 3)
    largest = values.abs().amax(dim=over, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise ValueError("features have NaN or infinite values, which int8 cannot hold: store float32.")
    scale = torch.where(largest > 0, largest / _LARGEST, torch.ones_like(largest))
    numbers = (values / scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return {FEATURES: numbers.cpu().numpy(), SCALE: scale.cpu().numpy()}


def unpack(parts: Mapping[str, Stored]) -> NDArray[np.float32]:
    """Turn what was stored back into float32."""
    values = parts[FEATURES].astype(np.float32)
    return values * parts[SCALE].astype(np.float32) if SCALE in parts else values


def bytes_per_frame(shape: tuple[int, ...], config: ExtractionConfig) -> int:
    """Return what a frame's features of ``(C, h, w)`` or ``(C,)`` take."""
    each = {"float32": 4, "float16": 2, "int8": 1}[config.store]
    scales = 0
    if config.store == "int8":
        scales = 1 if len(shape) == 1 else shape[0] if config.scale == "channel" else shape[1] * shape[2]
    return each * int(np.prod(shape)) + 4 * scales
