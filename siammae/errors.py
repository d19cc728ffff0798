"""Errors of siammae; each is also the builtin a caller would expect.

::

    SiamMAEError (Exception)
    ├── VideoReadError (OSError)             a video or image cannot be decoded
    ├── CheckpointError (RuntimeError)       weights or their config do not fit
    ├── KernelUnavailableError (RuntimeError)  a kernel backend was asked for that cannot run here
    ├── DatasetError (FileNotFoundError)     a data set folder is not in its official layout
    └── WorkerError (RuntimeError)           a process that shared the work failed

Wrong arguments raise plain ``ValueError`` and ``TypeError``. Every message says what was given, what is allowed and
what to do.
"""

from __future__ import annotations


class SiamMAEError(Exception):
    """Base of all errors that siammae defines."""


class VideoReadError(SiamMAEError, OSError):
    """A video or image exists but cannot be decoded.

    Attributes:
        frame_index: the first frame that could not be read; frames before it were delivered.
    """

    def __init__(self, message: str, *, frame_index: int = 0) -> None:
        super().__init__(message)
        self.frame_index = frame_index


class CheckpointError(SiamMAEError, RuntimeError):
    """Weights or their configuration are missing, damaged or of another shape."""


class KernelUnavailableError(SiamMAEError, RuntimeError):
    """The requested kernel backend cannot run on this machine."""


class DatasetError(SiamMAEError, FileNotFoundError):
    """A data set folder lacks a file of its official layout."""


class WorkerError(SiamMAEError, RuntimeError):
    """A process that shared the work failed; the message names the video."""
