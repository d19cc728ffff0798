"""What a computing command tells the system's memory allocator."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's mallopt


def keep_freed_memory() -> None:
    """Let the process use again what it frees, instead of asking the system for each large array.

    glibc gives every array of more than some hundred kilobytes back at once, and the system clears its pages anew for
    the next one: a sixth of a propagation's time and a fifth of a training step's. For commands that end when they are
    done, and never for a process of somebody else's: its memory stays at the most it ever needed.
    """
    with suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
