"""Picks the backend that computes an affinity, and can say why another one cannot.

A backend is a module with the functions of :class:`Backend`; ``_MODULES`` lists those of this version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, Protocol, TypedDict, Unpack, cast, get_args

from torch import Tensor

from siammae.errors import KernelUnavailableError
from siammae.kernels import reference
from siammae.kernels.triton import ops as triton_ops

Kernels = Literal["auto", "triton", "native", "cpu", "reference"]
ENVIRONMENT = "SIAMMAE_KERNELS"
# Fastest first: "auto" takes the first one that runs here and does not refuse the call. The reference never does.
_MODULES = {
    "triton": "siammae.kernels.triton.ops",
    "native": "siammae.kernels.native.affinity",
    "cpu": "siammae.kernels.torch_cpu.affinity",
    "reference": "siammae.kernels.reference",
}


class Window(TypedDict):
    """Which context patches are candidates for a query patch and how many are kept; see ``siammae.topk_affinity``."""

    top_k: int
    radius: int | None
    neighborhood: str
    free_frames: int
    keep_ties: bool


class Backend(Protocol):
    """What the module of a backend offers. Importing it always succeeds; ``status`` says whether it can run."""

    def status(self) -> str:
        """Return ``"available"``, or the reason why nothing runs on this machine."""

    def detail(self) -> str:
        """Say what it uses on this machine, such as an instruction set; ``""`` where there is nothing to say."""

    def refusal(self, query: Tensor, **window: Unpack[Window]) -> str | None:
        """Return the reason why it cannot serve a call, or None; ``query`` is as for ``topk_affinity``."""

    def prepare(self, features: Tensor) -> Any:  # noqa: ANN401 - each backend has its own form
        """Lay out one context frame ``(C, h, w)`` of unit length; done once a frame."""

    def topk_affinity(
        self, query: Tensor, context: Sequence[Any], *, temperature: float, **window: Unpack[Window]
    ) -> tuple[Tensor, Tensor]:
        """Match as :func:`siammae.kernels.reference.topk_affinity` does; ``context`` holds prepared frames."""


class FrameFeatures:
    """Features of one frame, and what backends have made of them: each lays a frame out once.

    Args:
        tensor: ``(C, h, w)``, unit length over C, float.
    """

    __slots__ = ("_forms", "_part", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._forms: dict[str, Any] = {}
        self._part: tuple[tuple[int, int, int, int], FrameFeatures] | None = None

    def __getstate__(self) -> Tensor:
        """Copy and pickle the features alone: what backends made of them may hold addresses, and is made anew."""
        return self.tensor

    def __setstate__(self, tensor: Tensor) -> None:
        self.__init__(tensor)  # type: ignore[misc]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches ``(h, w)``."""
        return self.tensor.shape[1], self.tensor.shape[2]

    def within(self, region: tuple[int, int, int, int]) -> FrameFeatures:
        """Return the features of some patches, ``(top, left, bottom, right)``; the last such part is kept.

        A stream looks at the same region of its context in many frames, and each backend lays it out once.
        """
        part = self._part
        if part is None or part[0] != region:
            top, left, bottom, right = region
            part = self._part = region, FrameFeatures(self.tensor[:, top:bottom, left:right])
        return part[1]

    def form(self, name: str) -> Any:  # noqa: ANN401 - each backend has its own form
        """Return the frame as a backend lays it out."""
        if name not in self._forms:
            self._forms[name] = _backend(name).prepare(self.tensor)
        return self._forms[name]


def _backend(name: str) -> Backend:
    return cast(Backend, import_module(_MODULES[name]))


def available_kernels() -> Mapping[str, str]:
    """Return each backend's status on this machine: ``"available"`` or the reason why it cannot run.

    Example:
        >>> import siammae
        >>> siammae.available_kernels()["reference"]
        'available'
    """
    return {name: _backend(name).status() for name in _MODULES}


def kernel_details() -> Mapping[str, str]:
    """Return what each available backend uses on this machine; those with nothing to say are left out."""
    names = [name for name, status in available_kernels().items() if status == "available"]
    return {name: detail for name in names if (detail := _backend(name).detail())}


def choose_kernels(kernels: Kernels = "auto") -> Kernels:
    """Check a wish: ``"auto"`` never fails, another wish never falls back.

    Args:
        kernels: a backend, or ``"auto"`` for the fastest; the environment variable ``SIAMMAE_KERNELS`` stands in
            for ``"auto"``.

    Returns:
        The backend to use, or ``"auto"``: then each call takes the fastest that can serve it.

    Raises:
        ValueError: there is no such backend.
        KernelUnavailableError: it cannot run here.
    """
    if kernels == "auto":
        kernels = os.environ.get(ENVIRONMENT, "auto")  # type: ignore[assignment]
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels is {kernels!r}: it must be one of {', '.join(get_args(Kernels))}.")
    if kernels != "auto" and (status := available_kernels()[kernels]) != "available":
        raise KernelUnavailableError(f'no {kernels} kernels here: {status}. Use kernels="auto" or "reference".')
    return kernels


def backend_for(query: Tensor, *, kernels: Kernels, **window: Unpack[Window]) -> str:
    """Return the name of the backend that serves a call.

    Raises:
        ValueError: there is no such backend.
        KernelUnavailableError: the backend asked for cannot run here, or not with these arguments.
    """
    wish = choose_kernels(kernels)
    for name in _MODULES if wish == "auto" else [wish]:
        backend = _backend(name)
        if wish == "auto" and backend.status() != "available":
            continue
        reason = backend.refusal(query, **window)
        if reason is None:
            return name
        if wish != "auto":
            raise KernelUnavailableError(
                f'the {name} kernels cannot serve this call: {reason}. Use kernels="auto" or "reference".'
            )
    return "reference"  # not reached: the reference is in the list and refuses nothing


def topk_affinity(
    query: FrameFeatures,
    context: Sequence[FrameFeatures],
    *,
    temperature: float,
    kernels: Kernels,
    **window: Unpack[Window],
) -> tuple[Tensor, Tensor]:
    """Run the backend that serves the call; arguments as in :func:`siammae.kernels.reference.topk_affinity`."""
    name = backend_for(query.tensor, kernels=kernels, **window)
    frames = [frame.form(name) for frame in context]
    return _backend(name).topk_affinity(query.tensor, frames, temperature=temperature, **window)


def gather_labels(weights: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
    """Mix labels as :func:`siammae.kernels.reference.gather_labels` does; in one kernel on CUDA."""
    if not _fused(labels) or labels.requires_grad or weights.requires_grad:
        return reference.gather_labels(weights, indices, labels)
    from siammae.kernels.triton import labels as triton_labels

    mixed: Tensor = triton_labels.gather_labels(weights, indices, labels)
    return mixed


def masked_patch_loss(prediction: Tensor, target: Tensor, hidden: Tensor, *, norm_pix: bool) -> Tensor:
    """Compute the loss as :func:`siammae.kernels.reference.masked_patch_loss` does; in one kernel each way on CUDA."""
    if not _fused(prediction) or target.requires_grad:
        return reference.masked_patch_loss(prediction, target, hidden, norm_pix=norm_pix)
    from siammae.kernels.triton import loss as triton_loss

    return triton_loss.masked_patch_loss(prediction, target, hidden, norm_pix)


def _fused(tensor: Tensor) -> bool:
    """Tell whether Triton serves a tensor; ``SIAMMAE_KERNELS`` with another backend's name says no."""
    return tensor.is_cuda and os.environ.get(ENVIRONMENT, "auto") in ("auto", "triton") and triton_ops.serves(tensor)
