"""How the server keeps its memory small, however long the video and the day."""

from __future__ import annotations

import ctypes
from contextlib import suppress

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
