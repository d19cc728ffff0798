"""Frames of a video in any order, for whoever looks at them: one frame by its exact number."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError, printable
from siammae.frames.files import PathLike
from siammae.frames.images import Page, decode_image, list_pages, page_rate, read_pages
from siammae.frames.pyav_access import GivenUpError, PyAVAccess, UnprovenError
from siammae.frames.readers import Backend, open_reader
from siammae.frames.reading import read_frames
from siammae.frames.writing import encode_image

_log = logging.getLogger(__name__)


class _Source(Protocol):
    """Where frames are fetched from."""

    @property
    def count(self) -> int: ...

    def frame(self, number: int, given_up: Callable[[], bool]) -> NDArray[np.uint8]: ...

    def close(self) -> None: ...


class FrameAccess:
    """Frames of a video file or of a folder of images by their numbers, in any order; any threads may ask, in turn.

    A video file whose timestamps tell its frames apart is sought in with PyAV (the reader ``"auto"`` or ``"pyav"``);
    any other one is decoded once from its beginning to its end, into a temporary file of JPEGs of quality 95. Memory
    does not grow with the video in either case.

    Args:
        video: path of a file or of a folder of images.
        reader: decodes video files, as in :func:`siammae.read_frames`.
        threads: that decode.
        behind: frames before the last one that stay decoded where a file is sought in, for who steps back.

    Attributes:
        count: of the frames, exact.
        size: of them all, ``(H, W)``.
        frame_rate: frames per second, 0 where no one says.
        names: of the images without folder and suffix; empty for a video file.
        broken: why the video ends before it should, in a sentence; empty where it does not.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: it holds no frame that decodes.
        ImportError: the reader is not installed.
    """

    def __init__(self, video: PathLike, *, reader: Backend = "auto", threads: int = 2, behind: int = 0) -> None:
        self._path, self._reader, self._turn = Path(video), reader, threading.Lock()
        self.broken = ""
        self.names: tuple[str, ...] = ()
        pages = list_pages(self._path)
        if pages is not None:
            self._source: _Source = _Images(pages)
            self.names = tuple(page.path.stem for page in pages) if self._path.is_dir() else ()
            self.frame_rate = 0.0 if self._path.is_dir() else page_rate(pages)
        else:
            with closing(open_reader(self._path, reader)) as header:
                self.frame_rate, declared = header.frame_rate, header.frame_count
            self._source = self._open(threads, behind)
            self._tell_break(declared)
        try:
            first = self.frame(0)
        except BaseException:
            self.close()
            raise
        self.size = (first.shape[0], first.shape[1])

    @property
    def count(self) -> int:
        """How many frames there are."""
        return self._source.count

    def frame(self, number: int, given_up: Callable[[], bool] = lambda: False) -> NDArray[np.uint8]:
        """Return a frame, RGB uint8 ``(H, W, 3)``, turned as it is to be shown.

        Args:
            number: of the frame.
            given_up: asked when its turn comes, and before each frame on the way to it, whether it is still wanted.

        Raises:
            GivenUpError: it is not wanted any more.
            IndexError: there is no such frame.
            VideoReadError: it does not decode.
            ValueError: it has another size than the first one.
        """
        with self._turn:
            if not 0 <= number < self._source.count:
                raise IndexError(f"no frame {number}: the video has the frames 0 to {self._source.count - 1}.")
            if given_up():
                raise GivenUpError
            try:
                frame = self._source.frame(number, given_up)
            except UnprovenError:
                self._unpack()
                if number >= self._source.count:
                    raise VideoReadError(
                        f"frame {number} cannot be decoded: {self.broken}", frame_index=number
                    ) from None
                frame = self._source.frame(number, given_up)
        if getattr(self, "size", frame.shape[:2]) != frame.shape[:2]:
            raise ValueError(
                f"frame {number} is {frame.shape[:2]} but the first was {self.size}: they must be of one size."
            )
        return frame

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def _open(self, threads: int, behind: int) -> _Source:
        if self._reader in ("auto", "pyav"):
            with suppress(UnprovenError):
                return PyAVAccess(self._path, threads, behind)
        return self._unpacked()

    def _unpack(self) -> None:
        """Give up on seeking."""
        self._source.close()
        self._source = self._unpacked()

    def _unpacked(self) -> _Source:
        _log.warning(
            "%s cannot be sought in by its timestamps: it is decoded once into a temporary file.",
            printable(self._path.name),
        )
        unpacked = _Unpacked()
        try:
            for frame in read_frames(self._path, reader=self._reader):
                unpacked.add(frame)
        except VideoReadError as error:
            if not unpacked.count:
                unpacked.close()
                raise
            self.broken = str(error)
        return unpacked

    def _tell_break(self, declared: int) -> None:
        if not self.broken and self._source.count < declared:
            from siammae.frames.containers import declared_bytes

            missing = declared_bytes(self._path) - self._path.stat().st_size
            if missing > 0:
                self.broken = (
                    f"{self._path.name} breaks off after {self._source.count} of {declared} frames: the file is cut "
                    f"off, {missing} bytes are missing."
                )


class _Images:
    """A folder of images, or the pages of one."""

    def __init__(self, pages: list[Page]) -> None:
        self._pages, self.count = pages, len(pages)

    def frame(self, number: int, given_up: Callable[[], bool]) -> NDArray[np.uint8]:
        ((_, frame),) = read_pages(self._pages, [number])
        return frame

    def close(self) -> None:
        """Images are closed as soon as they are read."""


class _Unpacked:
    """JPEGs one after the other in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="siammae-")  # noqa: SIM115 -- it lives as long as this object
        self._places: list[tuple[int, int]] = []

    @property
    def count(self) -> int:
        return len(self._places)

    def add(self, frame: NDArray[np.uint8]) -> None:
        data = encode_image(frame, "jpg", quality=95)
        self._places.append((self._file.seek(0, os.SEEK_END), len(data)))
        self._file.write(data)

    def frame(self, number: int, given_up: Callable[[], bool]) -> NDArray[np.uint8]:
        place, length = self._places[number]
        self._file.seek(place)
        return decode_image(io.BytesIO(self._file.read(length)), f"frame {number}", number)

    def close(self) -> None:
        self._file.close()
