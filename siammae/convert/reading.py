"""Open a foreign checkpoint without running its code, and find the weights in it."""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from siammae.checkpoints.tensors import read_tensors
from siammae.config.bounds import bound
from siammae.errors import CheckpointError, name_some, one_line

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
        CheckpointError: it is damaged, unpacks to more than four times its size, or is a pickle that names anything but
            tensors, plain values, NumPy scalars and ``argparse.Namespace``; nothing of it has run then.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: pass a checkpoint file, .pth, .pt, .bin or .safetensors.")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        unpacked = _unpacked_size(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, one_line(error)) from error
    if unpacked > (most := bound("SIAMMAE_MAX_UNPACKED")) * (packed := path.stat().st_size):
        raise CheckpointError(
            f"{path} has {packed:,} bytes and unpacks to {unpacked:,}: PyTorch packs no files, so at most "
            f"{most} times the size is read. Where you trust it, zip it anew with zip -0, or set SIAMMAE_MAX_UNPACKED."
        )
    try:
        with torch.device("cpu"), torch.serialization.safe_globals(_harmless()):
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if found := _FORBIDDEN.search(str(error)):
            raise CheckpointError(
                f"{path} holds a {found[1]}, which is no tensor and no plain value. It could run code, so the file "
                "was not loaded. Save its state dict alone, where you trust it."
            ) from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        # PyTorch goes on to advise loading the file unsafely, which is just what must not be done.
        raise _damaged(path, _UNSAFE_ADVICE.split(reason)[0]) from error
    return loaded


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no PyTorch checkpoint: {reason}. Get it again.")


def _unpacked_size(path: Path) -> int:
    """Return the bytes that a zip file unpacks to by its own word, which its reader holds it to; others: their size."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


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
        CheckpointError: there are no weights, too many of them, or two of them have one name.
    """
    found, wrapper, dropped = _unwrap(source)
    if len(found) > (most := bound("SIAMMAE_MAX_TENSORS")):
        raise CheckpointError(
            f"the file holds {len(found):,} tensors: at most {most:,} are taken for a network. Set SIAMMAE_MAX_TENSORS."
        )
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
        raise CheckpointError(
            f"{name_some([names[new], old])} are one tensor, {name_some([new])}: the file mixes two networks."
        )
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
    if source and all(_is_weight(name, value) for name, value in source.items()):
        return dict(source), None, {}
    for wrapper in _WRAPPERS:
        inner = source.get(wrapper)
        if not isinstance(inner, Mapping) or not inner:
            continue
        if strange := sorted(str(name) for name, value in inner.items() if not _is_weight(name, value)):
            raise CheckpointError(f"{wrapper!r} holds {name_some(strange)}, no named tensors: it is no state dict.")
        reason = f"beside {wrapper!r}: no weights of the network, or not the ones used"
        return dict(inner), wrapper, {str(key): reason for key in source if key != wrapper}
    raise CheckpointError(
        f"the file holds {name_some(sorted(map(str, source)))}: neither named tensors alone, nor any of "
        f"{list(_WRAPPERS)}."
    )


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def check_storage(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are more than the numbers a file holds, or in no plain layout: a pickle may describe any.

    Raises:
        CheckpointError: one is sparse, quantized, nested or without numbers, or together they claim more bytes than are
            there, as by a stride of 0.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)
        if not plain:
            raise CheckpointError(f"{name_some([name])} is no plain tensor: sparse, quantized or without numbers.")
    held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors.values()}
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > sum(held.values()):
        raise CheckpointError(
            f"the tensors claim {claimed:,} bytes, but the file holds {sum(held.values()):,} for them: numbers are "
            "used more than once. Save a copy of each tensor."
        )
