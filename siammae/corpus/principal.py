"""Fewer channels: principal components of a sample of features, stored beside the results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.checkpoints.tensors import read_tensors, save_tensors
from siammae.errors import CheckpointError

PCA_FILE = "pca.safetensors"


class Components(NamedTuple):
    """Principal components.

    Attributes:
        mean: of the sample, ``(C,)`` float32.
        axes: ``(N, C)`` float32, orthonormal, the one of most variance first.
        variance: along each, ``(N,)`` float32.
        total: the sample's variance in all directions.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor
    total: float

    @property
    def share(self) -> float:
        """The part of the sample's variance that is kept."""
        return float(self.variance.sum()) / max(self.total, 1e-30)

    def apply(self, features: Tensor) -> Tensor:
        """Turn ``(B, C, ...)`` into ``(B, N, ...)`` float32."""
        mean, axes = self.mean.to(features.device), self.axes.to(features.device)
        centred = features.float().movedim(1, -1) - mean
        return (centred @ axes.T).movedim(-1, 1).contiguous()

    def restore(self, components: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn ``(B, N, ...)`` back into ``(B, C, ...)``, as far as these components tell."""
        back = np.moveaxis(components, 1, -1) @ self.axes.numpy() + self.mean.numpy()
        return np.ascontiguousarray(np.moveaxis(back, -1, 1))

    def digest(self) -> str:
        """Return the SHA-256 of mean and axes."""
        return hashlib.sha256(self.mean.numpy().tobytes() + self.axes.numpy().tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        total = torch.tensor([self.total], dtype=torch.float64, device="cpu")
        tensors = {"mean": self.mean, "axes": self.axes, "variance": self.variance, "total": total}
        save_tensors(tensors, path, {"what": "principal components of features: (features - mean) @ axes.T"})

    @classmethod
    def load(cls, path: Path) -> Components:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is damaged or another one.
            FileNotFoundError: it is not there.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no principal components at {path}: they belong to the results beside it.")
        tensors = read_tensors(path)
        try:
            mean, axes, variance = tensors["mean"], tensors["axes"], tensors["variance"]
            fits = axes.dim() == 2 and mean.shape == axes.shape[1:] and variance.shape == axes.shape[:1]
            total = float(tensors["total"][0])
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no principal components of siammae's ({error!r}).") from error
        if not fits:
            raise CheckpointError(f"{path} holds no principal components of siammae's: shapes do not fit.")
        return cls(mean, axes, variance, total)


class Moments(NamedTuple):
    """Sums over vectors, from which components are fitted; those of several samples are added.

    Attributes:
        number: of vectors.
        total: their sum ``(C,)`` float64.
        squares: the sum of their outer products ``(C, C)`` float64.
    """

    number: int
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Moments | None:
        """Sum over features ``(B, C, ...)``, every vector alike; None where there are none."""
        sums: Moments | None = None
        for batch in batches:
            vectors = batch.movedim(1, -1).flatten(0, -2).double().cpu()  # (n, C)
            sums = cls(len(vectors), vectors.sum(0), vectors.T @ vectors).plus(sums)
        return sums

    def plus(self, other: Moments | None) -> Moments:
        """Add the sums of another sample."""
        if other is None:
            return self
        return Moments(other.number + self.number, other.total + self.total, other.squares + self.squares)


def fit_components(sums: Moments | None, count: int) -> Components:
    """Fit principal components.

    Args:
        sums: of a sample.
        count: how many to keep.

    Raises:
        ValueError: there are fewer channels, or not more vectors, than that.
    """
    number, channels = (sums.number, len(sums.total)) if sums else (0, 0)
    if sums is None or count > channels or number <= count:
        raise ValueError(
            f"pca is {count}, but the sample has {number} vectors of {channels} channels: it must be at most "
            f"{channels}, and less than {number}. Choose fewer components."
        )
    mean = sums.total / number
    variance, axes = torch.linalg.eigh(sums.squares / number - torch.outer(mean, mean))  # rising
    axes = axes.flip(1)[:, :count].T
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * largest.sign()  # else the signs are the library's whim
    kept = variance.flip(0)[:count].clamp(min=0)
    return Components(mean.float(), axes.float().contiguous(), kept.float(), float(variance.clamp(min=0).sum()))
