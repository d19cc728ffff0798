"""Errors of siammae; each is also the builtin a caller would expect. And how texts that come from files are printed.

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

from collections.abc import Collection
from signal import SIGINT


class SiamMAEError(Exception):
    """Base of all errors that siammae defines.

    Example:
        >>> import siammae
        >>> try:
        ...     siammae.SiamMAE.from_pretrained(".")
        ... except siammae.SiamMAEError as error:
        ...     print(type(error).__name__)
        CheckpointError
    """


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


class StoppedError(KeyboardInterrupt):
    """A signal ended a run in order, such as with its state saved; callers catch a KeyboardInterrupt.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str = "", signal: int = SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


def one_line(error: BaseException, most: int = 300) -> str:
    """Return another library's message in one line, cut, or the error's class where there is none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def name_some(names: Collection[str], most: int = 10) -> str:
    """List names that come from a file: the first few of them, long ones cut, as ``['a', 'b'] and 3 more``."""
    shown = [name if len(name) <= 100 else f"{name[:100]}..." for _, name in zip(range(most), names, strict=False)]
    return f"{shown}" + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: object, *, keep: str = "") -> str:
    r"""Return a text that does nothing to a terminal but appear on it.

    Names and texts out of files may hold commands for the terminal (change its title, write to its clipboard, hide
    what stands before them), line ends that forge a line of a report, or bytes that are no UTF-8 and cannot be encoded.

    Args:
        text: what is to be printed; anything but a str is made one.
        keep: characters that stay as they are, such as ``"\n"`` where lines are wanted.

    Returns:
        The text, with every character but spaces and visible ones as Python writes it in a literal: ``\x1b``.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )
