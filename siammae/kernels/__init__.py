"""Picks the backend that computes an affinity, and can say why another one cannot run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from siammae.errors import KernelUnavailableError
from siammae.kernels import reference

Kernels = Literal["auto", "triton", "reference"]
ENVIRONMENT = "SIAMMAE_KERNELS"


def available_kernels() -> Mapping[str, str]:
    """Return each backend's status on this machine: ``"available"`` or the reason why it cannot run."""
    return {"triton": "not part of this version, which has the PyTorch reference only", "reference": "available"}


def choose_kernels(kernels: Kernels = "auto") -> str:
    """Turn a wish into a backend that runs here; ``"auto"`` never fails, another wish never falls back.

    Args:
        kernels: a backend, or ``"auto"`` for the fastest; the environment variable ``SIAMMAE_KERNELS`` stands in
            for ``"auto"``.

    Raises:
        ValueError: there is no such backend.
        KernelUnavailableError: it cannot run here.
    """
    if kernels == "auto":
        kernels = os.environ.get(ENVIRONMENT, "auto")  # type: ignore[assignment]
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels is {kernels!r}: it must be one of {', '.join(get_args(Kernels))}.")
    if kernels == "auto":
        return "reference"
    if (status := available_kernels()[kernels]) != "available":
        raise KernelUnavailableError(f'no {kernels} kernels here: {status}. Use kernels="auto" or "reference".')
    return kernels


def topk_affinity(
    query: Tensor,
    context: Tensor,
    *,
    top_k: int,
    temperature: float,
    radius: int | None,
    neighborhood: str,
    free_frames: int,
    keep_ties: bool,
    kernels: Kernels,
) -> tuple[Tensor, Tensor]:
    """Run the chosen backend; arguments as in :func:`siammae.kernels.reference.topk_affinity`."""
    choose_kernels(kernels)
    return reference.topk_affinity(
        query,
        context,
        top_k=top_k,
        temperature=temperature,
        radius=radius,
        neighborhood=neighborhood,
        free_frames=free_frames,
        keep_ties=keep_ties,
    )
