"""Features as colours."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siammae.visualize.pixels import check, to_uint8


def feature_pca(features: Tensor, *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Show features as colours: their first three principal components become red, green and blue.

    The components are those of all frames together, so a colour means the same in each; every colour runs from the
    1st to the 99th percentile of its component.

    Args:
        features: ``(T, C, h, w)``, floating point, any device, C at least 3.
        size: of the pictures, ``(H, W)``, reached by bicubic interpolation. None = ``(h, w)``, a pixel for a patch.

    Returns:
        Pictures, ``(T, H, W, 3)``, uint8.

    Raises:
        ValueError: ``features`` has another shape or dtype or is not finite, or ``size`` is not two positive numbers.

    Example:
        >>> import siammae
        >>> import torch
        >>> features = torch.rand(2, 192, 6, 8, generator=torch.Generator().manual_seed(0))
        >>> siammae.feature_pca(features, size=(48, 64)).shape
        (2, 48, 64, 3)
    """
    _check_features(features)
    frames, channels, height, width = features.shape
    height_out, width_out = size or (height, width)
    check(min(height_out, width_out) >= 1, f"size is {size}: it must be (H, W), both at least 1.")
    flat = features.detach().float().permute(0, 2, 3, 1).reshape(-1, channels)  # (T*h*w, C)
    flat = flat - flat.mean(dim=0)
    projected = (flat @ _principal_components(flat)).cpu().numpy()  # (T*h*w, 3)
    colors = torch.from_numpy(_stretch(projected)).reshape(frames, height, width, 3).permute(0, 3, 1, 2)
    # Frame by frame: a whole clip as floats at full size would need gigabytes.
    return np.stack([_to_picture(frame, (height_out, width_out)) for frame in colors])


def _principal_components(flat: Tensor) -> Tensor:
    """The three directions of largest variance, ``(C, 3)``; the largest entry of each is positive."""
    covariance = (flat.T @ flat / len(flat)).cpu().double()
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors[:, -3:].flip(1)  # largest first
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return (directions * largest.sign()).to(device=flat.device, dtype=flat.dtype)


def _stretch(projected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each column's 1st to 99th percentile to 0..1; a column without variance becomes 0.5."""
    low, high = np.percentile(projected, (1, 99), axis=0)
    # Such a column holds rounding errors: its span is measured against the widest one.
    span = np.maximum(high - low, 1e-4 * (high - low).max() + 1e-12)
    return np.asarray((projected - (low + high) / 2) / span + 0.5, dtype=np.float32)


def _to_picture(colors: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize one ``(3, h, w)`` map of colours; bicubic overshoot is clipped only afterwards."""
    colors = F.interpolate(colors[None], size=size, mode="bicubic", align_corners=False)[0]
    return to_uint8(255 * colors.permute(1, 2, 0).numpy())


def _check_features(features: Tensor) -> None:
    got = f"{tuple(features.shape)} {features.dtype}"
    valid = features.ndim == 4 and features.shape[1] >= 3 and features.is_floating_point() and features.numel() > 0
    check(valid, f"features must be (T, C, h, w) floating point, C >= 3, got {got}. One frame: features[None].")
    check(bool(features.isfinite().all()), "features hold NaN or infinity: they must be finite. Check the model.")
