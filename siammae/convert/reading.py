"""Open a foreign checkpoint without running its code, and find the weights in it."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from siammae.errors import CheckpointError

_WRAPPERS = ("teacher", "model", "state_dict", "student")  # in the order of preference: a teacher is what DINO uses
_PREFIXES = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DistributedDataParallel, torch.compile
_UNSAFE_ADVICE = re.compile(r"\. (?=In PyTorch|This file can)")
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_NUMBERS = ("b1", "i4", "i8", "f4", "f8")
_CHUNKS = re.compile(r"^blocks\.\d+\.(?=\d+\.)")  # DINOv2 trains its blocks in groups: blocks.GROUP.BLOCK.


class Weights(NamedTuple):
    """The weights of a foreign checkpoint under cleaned names."""

    tensors: dict[str, Tensor]
    originals: dict[str, str]  # cleaned name: name in the file
    wrapper: str | None  # the key they lay under
    dropped: dict[str, str]  # what is no part of the network: name in the file, why


def file_hash(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_source(path: Path) -> object:
    """Read a ``.safetensors`` file, or a pickle of tensors and plain values.

    Returns:
        What the file holds, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or a pickle that names anything but tensors, plain values, NumPy scalars and
            ``argparse.Namespace``; nothing of it has run then.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: pass a checkpoint file, .pth, .pt, .bin or .safetensors.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file: {error}. Get it again.") from error
    try:
        with torch.serialization.safe_globals(_harmless()):
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if found := _FORBIDDEN.search(str(error)):
            raise CheckpointError(
                f"{path} holds a {found[1]}, which is no tensor and no plain value. It could run code, so the file "
                "was not loaded. Save its state dict alone, where you trust it."
            ) from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        # PyTorch goes on to advise loading the file unsafely, which is just what must not be done.
        reason = _UNSAFE_ADVICE.split(reason)[0]
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint: {reason}. Get it again.") from error
    return loaded


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """List what a pickle may build besides tensors: the settings of a training script, and NumPy's numbers."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in _NUMBERS}
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since NumPy 2
    return [argparse.Namespace, (_number_type, "numpy.dtype"), *kinds, *((scalar, name) for name in names)]  # type: ignore[list-item]


def _number_type(kind: str, *flags: bool) -> np.dtype[Any]:
    """Stand in for ``numpy.dtype`` in pickles; objects and records are out."""
    if kind not in _NUMBERS:
        raise ValueError(f"NumPy type {kind!r} in a checkpoint: only {', '.join(_NUMBERS)} are plain numbers")
    return np.dtype(kind, *flags)


def find_weights(source: object) -> Weights:
    """Take the weights out of their wrapper and the wrapper's prefixes off their names.

    Args:
        source: what :func:`read_source` returned.

    Raises:
        CheckpointError: there are no weights, or two of them have one name.
    """
    found, wrapper, dropped = _unwrap(source)
    names: dict[str, str] = {}
    for name in found:
        _add(names, _PREFIXES.sub("", name), name)
    if any(name.startswith("teacher.") for name in names):
        reason = "the student: the teacher is used"
        dropped |= {old: reason for name, old in names.items() if name.startswith("student.")}
        names = {name: old for name, old in names.items() if not name.startswith("student.")}
    for prefix in ("teacher.", "backbone."):
        names = _without_prefix(names, prefix)
    return Weights({new: found[old] for new, old in names.items()}, names, wrapper, dropped)


def _add(names: dict[str, str], new: str, old: str) -> None:
    if new in names:
        raise CheckpointError(f"{names[new]!r} and {old!r} are the same tensor {new!r}: the file mixes two networks.")
    names[new] = old


def _without_prefix(names: dict[str, str], prefix: str) -> dict[str, str]:
    """Take a prefix off where there is one; heads beside a backbone keep their names and are judged by the family."""
    plain: dict[str, str] = {}
    for name, old in names.items():
        _add(plain, _CHUNKS.sub("blocks.", _PREFIXES.sub("", name.removeprefix(prefix))), old)
    return plain


def _unwrap(source: object) -> tuple[dict[str, Tensor], str | None, dict[str, str]]:
    if not isinstance(source, Mapping):
        raise CheckpointError(f"the file holds a {type(source).__name__}: it must be a dictionary of tensors.")
    if source and all(isinstance(value, Tensor) for value in source.values()):
        return dict(source), None, {}
    for wrapper in _WRAPPERS:
        inner = source.get(wrapper)
        if not isinstance(inner, Mapping) or not inner:
            continue
        if strange := sorted(str(name) for name, value in inner.items() if not isinstance(value, Tensor)):
            raise CheckpointError(f"{wrapper!r} holds {strange[:5]}, which are no tensors: it is no state dict.")
        reason = f"beside {wrapper!r}: no weights of the network, or not the ones used"
        return dict(inner), wrapper, {str(key): reason for key in source if key != wrapper}
    raise CheckpointError(
        f"the file holds {sorted(map(str, source))[:10]}: neither tensors alone, nor any of {list(_WRAPPERS)}."
    )
