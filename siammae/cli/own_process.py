"""What a command does with a process of its own, and never with somebody else's: memory kept, no compiler loaded."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's mallopt


def keep_freed_memory() -> None:
    """Let the process use again what it frees, instead of asking the system for each large array.

    glibc gives every array of more than some hundred kilobytes back at once, and the system clears its pages anew for
    the next one: nearly a third of a training step's time, little of a propagation's. For commands that end when they
    are done: memory stays at the most it ever needed.
    """
    with suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep PyTorch's compiler, and Triton with it, from being loaded because timm and torchvision name it.

    They import it only to exempt a few functions from it. In this process nothing is compiled, and it takes 110 MB and
    two seconds. Whoever asks it for anything else gets the real one.
    """
    stands = [
        _Stand("torch._dynamo", disable=_as_it_is),
        _Stand("torch._dynamo.utils", is_compile_supported=_supported),
    ]
    if not any(stand.__name__ in sys.modules for stand in stands):
        sys.modules.update({stand.__name__: stand for stand in stands})
    try:
        yield
    finally:
        _leave()


class _Stand(ModuleType):
    """Stands for a module in ``sys.modules`` until something is wanted that it has not."""

    def __init__(self, name: str, **has: Callable[..., Any]) -> None:
        super().__init__(name)
        self.__dict__.update(has)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        # Many look at __file__ and the like of all modules; a package's __path__ is asked for where a part is wanted.
        if name.startswith("__") and (self.__name__, name) != ("torch._dynamo", "__path__"):
            raise AttributeError(name)
        _leave()
        return getattr(importlib.import_module(self.__name__), name)


def _leave() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Stand)]:
        del sys.modules[name]


def _as_it_is(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:  # noqa: ANN401
    """Decorate a function that is not to be compiled, in one of the two ways: ``disable`` and ``disable()``."""
    return function if function is not None else _as_it_is


def _supported(device: str) -> bool:
    """Ask the real module, when it comes to that."""
    return bool(importlib.import_module("torch._dynamo.utils").is_compile_supported(device))
