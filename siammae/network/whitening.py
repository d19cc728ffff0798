"""Whitening: features with equal variance in every direction, so that a few loud ones cannot drown the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """An affine map of the channels; the identity until :meth:`fit`.

    The cosine of raw features is ruled by the few directions in which they vary most (mean brightness and colour in
    small networks). Whitening brings all directions to one variance.

    Args:
        dim: channels.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float32, device="cpu"))
        self.register_buffer("matrix", torch.eye(dim, dtype=torch.float32, device="cpu"))

    def fit(self, features: Tensor, *, epsilon: float) -> None:
        """Choose the map from samples: minus their mean, times the inverse square root of their covariance (ZCA).

        Args:
            features: ``(T, C, h, w)``, float; every patch is one sample, more than C of them.
            epsilon: part of the mean variance added to every direction, > 0: weak directions are mostly noise.

        Raises:
            ValueError: there are too few patches, they are not finite, or ``epsilon`` is not above 0.
        """
        samples = features.double().movedim(1, -1).flatten(0, -2)  # (T*h*w, C)
        if len(samples) <= samples.shape[1] or not samples.isfinite().all():
            raise ValueError(
                f"features are {tuple(features.shape)}, {len(samples)} patches: more than {samples.shape[1]} finite "
                "ones are needed to know every direction's variance. Pass more frames."
            )
        if not epsilon > 0:
            raise ValueError(f"epsilon is {epsilon}: it must be above 0.")
        variances, directions = torch.linalg.eigh(torch.cov(samples.T))
        scale = (variances.clamp_min(0) + epsilon * variances.mean()).rsqrt()
        self.mean.copy_(samples.mean(dim=0))
        self.matrix.copy_(directions @ (scale[:, None] * directions.T))

    def forward(self, tokens: Tensor) -> Tensor:
        """Whiten tokens ``(..., C)``; returns the same shape."""
        return (tokens - self.mean) @ self.matrix
