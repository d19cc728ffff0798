"""The library that ``library.cpp`` and its parts are compiled to, and which of its instruction sets is in use."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor

LIBRARY = Path(__file__).with_name("libsiammae_native.so")
ENVIRONMENT = "SIAMMAE_NATIVE_ISA"  # one of instruction_sets(), to run a slower one than the machine has
_ABI = 5  # siammae_native_abi() in library.cpp


@functools.cache
def _load(path: Path) -> ctypes.CDLL | str:
    """Return the library, or the reason why there is none."""
    if not path.is_file():
        return "not built, for want of a C++ compiler or of the wish for it when the package was installed"
    try:
        library = ctypes.CDLL(str(path))
        abi = library.siammae_native_abi()
    except (OSError, AttributeError) as error:
        return f"{path.name} cannot be loaded ({error}): install the package again"
    if abi != _ABI:
        return f"{path.name} has interface {abi} where this version needs {_ABI}: install the package again"
    library.siammae_native_level_name.restype = ctypes.c_char_p
    # addresses and sizes are 64 bits; ctypes would pass plain ints as 32
    library.siammae_native_layout.argtypes = (*[ctypes.c_int64] * 3, ctypes.c_int32, ctypes.c_void_p)
    library.siammae_native_topk.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
    library.siammae_native_attend.argtypes = (ctypes.c_void_p, *[ctypes.c_int32] * 3)
    return library


def load() -> ctypes.CDLL:
    """Return the library.

    Raises:
        RuntimeError: there is none here, and why.
    """
    library = _load(LIBRARY)
    if isinstance(library, str):
        raise RuntimeError(f"no native kernels here: {library}.")
    return library


def address(tensor: Tensor, dtype: torch.dtype) -> int:
    """Return where a tensor's numbers lie, for code that reads and writes them without asking.

    Raises:
        RuntimeError: they are not of this type, not side by side, or not in the CPU's memory.
    """
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise RuntimeError(
            f"the native kernels got {tensor.dtype} on {tensor.device}, strides {tensor.stride()}: "
            f"they read contiguous {dtype} on the CPU."
        )
    return tensor.data_ptr()


def status() -> str:
    """Return ``"available"``, or the reason why nothing of it can run here."""
    library = _load(LIBRARY)
    return library if isinstance(library, str) else "available"


def level_name() -> str:
    """Return the instruction set in use."""
    return dict(_levels())[level()]


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets this machine can run, fastest first."""
    return tuple(name for _, name in _levels())


def _levels() -> list[tuple[int, str]]:
    library = load()
    levels = range(library.siammae_native_levels())
    return [(i, library.siammae_native_level_name(i).decode()) for i in levels if library.siammae_native_level_runs(i)]


def level() -> int:
    """Return the number of the instruction set in use.

    Raises:
        ValueError: the environment asks for one that this machine has not.
    """
    wanted, levels = os.environ.get(ENVIRONMENT), _levels()
    for number, name in levels:
        if name == (wanted or name):
            return number
    raise ValueError(f"{ENVIRONMENT} is {wanted!r}: it must be one of {', '.join(name for _, name in levels)} here.")
