"""How the server keeps its memory small, however long the video and the day."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # numbers of glibc's mallopt


def give_memory_back() -> None:
    """Let what is freed go back to the system at once; called before there are threads.

    Frames of 1080p and features are too small for glibc to do so by itself, and each thread would keep a few.
    """
    with suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in ((_MMAP_THRESHOLD, 2**18), (_ARENA_MAX, 2)):
            libc.mallopt(parameter, value)


def trim() -> None:
    """Give back what lies free among what is in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep PyTorch's compiler, and Triton with it, from being loaded while timm and torchvision are imported.

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
