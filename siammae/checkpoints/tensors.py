"""Safetensors in and out: what a file says of itself is checked before its tensors are read, and strictly."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from siammae.config.bounds import bound
from siammae.errors import CheckpointError, name_some, one_line

WEIGHT_TYPES = ("float32", "float16", "bfloat16", "float64")
_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}  # safetensors' names


class TensorInfo(NamedTuple):
    """What can be known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: str  # PyTorch's name without "torch.", safetensors' own for what is no weight


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read the names, shapes and types of a safetensors file.

    Raises:
        CheckpointError: it is damaged, no safetensors file, or its header is too large.
    """
    try:
        _check_header_size(path)
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 -- no dictionary
            return {name: TensorInfo(tuple(one.get_shape()), _type(one.get_dtype())) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_header_size(path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > (most := bound("SIAMMAE_MAX_HEADER_BYTES")):
        raise ValueError(f"its header would be {size:,} bytes, and SIAMMAE_MAX_HEADER_BYTES, {most:,}, are read")


def _type(name: object) -> str:
    return _TYPES.get(str(name), str(name))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no safetensors file: {one_line(error)}. {get_again(path)}")


def get_again(path: Path) -> str:
    """Say how to replace a damaged file: what lies in the Hub client's cache is not downloaded twice by itself."""
    owner = path.parent.parent.parent.name  # models--OWNER--NAME/snapshots/COMMIT/FILE
    if path.parent.parent.name != "snapshots" or not owner.startswith("models--"):
        return "Get it again."
    name = owner.removeprefix("models--").replace("--", "/")
    return f"Download it again: force_download=True, or the command hf download {name} --force-download."


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU.

    Raises:
        CheckpointError: it is damaged, no safetensors file, or its header is too large.
    """
    read_header(path)  # refuses before memory is taken
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # types that this PyTorch lacks bring KeyError and AttributeError
        raise _damaged(path, error) from error


def check_tensors(found: Mapping[str, TensorInfo], wanted: Mapping[str, tuple[int, ...]], *, source: str) -> None:
    """Refuse tensors that are not exactly those of a network.

    Args:
        found: what a file holds.
        wanted: the network's names and shapes.
        source: the file, for messages.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape or no weights; the message names them.
    """
    problems = []
    if missing := sorted(set(wanted) - set(found)):
        problems.append(f"missing tensors {name_some(missing)}")
    if unexpected := sorted(set(found) - set(wanted)):
        problems.append(f"unexpected tensors {name_some(unexpected)}")
    for name in sorted(set(wanted) & set(found)):
        if wanted[name] != found[name].shape:
            problems.append(f"{name} is {found[name].shape} instead of {wanted[name]}")
        elif found[name].dtype not in WEIGHT_TYPES:
            problems.append(f"{name} is {found[name].dtype}, but weights are {', '.join(WEIGHT_TYPES)}")
    _refuse(problems, source)


def _refuse(problems: list[str], source: str, most: int = 10) -> None:
    if not problems:
        return
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    raise CheckpointError(f"{source} does not fit its config: {'; '.join(problems[:most])}{more}.")


def load_strictly(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module of the same names and shapes.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape, no weights or not finite; the message names
            them.
    """
    found = {name: describe(tensor) for name, tensor in tensors.items()}
    check_tensors(found, {name: tuple(one.shape) for name, one in module.state_dict().items()}, source=source)
    _refuse(
        [f"{name} has NaN or infinite values" for name in sorted(tensors) if not tensors[name].isfinite().all()], source
    )
    module.load_state_dict(dict(tensors))


def describe(tensor: Tensor) -> TensorInfo:
    """Return a tensor's shape and type."""
    return TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: the same bytes for the same tensors, and with the mode of any other file.

    Safetensors itself puts the metadata in a random order, and makes the file its owner's alone.

    Raises:
        OSError: the disk is full or the like; names ``path``.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        if number := re.search(r"(?:os error|Os \{ code:) (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error
        raise
    _sort_metadata(path)
    path.chmod(mode)


def _sort_metadata(path: Path) -> None:
    """Write the header of a safetensors file again, with its metadata in order: it has the same length then."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))
