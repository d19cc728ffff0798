"""Chosen frames of one file by their numbers, in one pass: through OpenCV, PyAV or torchcodec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from siammae.frames.files import PathLike, VideoEndError, require_regular
from siammae.frames.images import PICTURE_SUFFIXES, list_pages, page_rate, read_pages

Backend: TypeAlias = Literal["auto", "opencv", "pyav", "torchcodec"]
DEFAULT_READER: Backend = "pyav"


class FrameReader(Protocol):
    """An open file. Frame n is the n-th that decodes, counted from 0 and in the order of display, for every reader.

    Attributes:
        frame_count: what the header says, which may be more than there are; 0 where it says nothing.
        frame_rate: frames per second by the header, 0 where it says nothing.
    """

    @property
    def frame_count(self) -> int: ...  # noqa: D102 -- described above

    @property
    def frame_rate(self) -> float: ...  # noqa: D102

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers.

        Args:
            numbers: which ones, rising.

        Raises:
            VideoEndError: the video is whole, but ends before one of them.
            VideoReadError: a frame does not decode, or the file breaks off before it.
        """

    def close(self) -> None:
        """Let go of the file."""


def open_reader(path: PathLike, backend: Backend = "auto", *, threads: int | None = 1) -> FrameReader:
    """Open a video or an image.

    All backends give the same frames for the same numbers, or refuse the file; pixels differ by the few levels that
    their conversions to RGB do, HDR through OpenCV apart, which warns. OpenCV decodes from the beginning up to the last
    frame asked for; PyAV seeks where the file's timestamps prove where it landed; torchcodec scans the file for its
    index first.

    ``"auto"`` is PyAV: it decodes all that OpenCV's wheels do and AV1, knows an interlaced frame, a colour matrix, a
    cover picture, a mirrored display matrix and a change of size for what they are, and raises where a conversion
    fails. OpenCV does not see a mirrored display matrix nor a change of size: PyAV looks for them, and such files are
    refused; it shows HDR in other colours, with a warning.

    Args:
        path: a video file, or an image, which is a video of its pages.
        backend: what decodes videos.
        threads: that OpenCV decodes with, None = as FFmpeg likes. One by default: readers work side by side, and it
            takes 20 to 25 % less CPU time (MPEG-4 at 320x240 and H.264 at 340x256, AMD EPYC, 2 cores).

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file cannot be opened as a video, or the backend would not read it rightly.
        ImportError: the backend is not installed, or cannot load.
        ValueError: there is no such backend.
    """
    path = Path(path)
    require_regular(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: it must be a video or an image.")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _ImageReader(path)
    if backend == "auto":
        backend = DEFAULT_READER
    if backend == "pyav":
        from siammae.frames.pyav_reader import PyAVReader

        return PyAVReader(path)
    if backend == "torchcodec":
        from siammae.frames.torchcodec_reader import TorchcodecReader

        return TorchcodecReader(path)
    if backend != "opencv":
        raise ValueError(f"reader is {backend!r}: it must be 'auto', 'opencv', 'pyav' or 'torchcodec'.")
    from siammae.frames.opencv_reader import OpenCVReader

    return OpenCVReader(path, threads)


def require_reader(backend: Backend) -> None:
    """Check that a backend can be used, before anything is opened.

    Raises:
        ImportError: it is not installed, or cannot load; the message says what to install.
    """
    if (DEFAULT_READER if backend == "auto" else backend) == "pyav":
        from siammae.frames import pyav_reader

        pyav_reader.load()
    if backend == "torchcodec":
        from siammae.frames import torchcodec_reader

        torchcodec_reader.load()


class _ImageReader:
    """An image as a video of its pages, as a rule one."""

    def __init__(self, path: Path) -> None:
        self._pages = list_pages(path) or []
        self.frame_count, self.frame_rate = len(self._pages), page_rate(self._pages)

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # The numbers rise, and may go on for ever: every frame is asked for as a range without an end.
        yield from read_pages(self._pages, takewhile(lambda number: number < self.frame_count, numbers))
        if numbers and numbers[-1] >= self.frame_count:
            raise VideoEndError(self.frame_count)

    def close(self) -> None:
        """An image is closed as soon as it is read."""
