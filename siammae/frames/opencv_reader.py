"""Frames through OpenCV, which says that a frame decoded also where only the terminal hears that it did not."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError
from siammae.frames.containers import (
    COVER_RATE,
    HDR_TRANSFERS,
    REORDERED_FRAMES,
    SKIP_PACKET_BYTES,
    declared_bytes,
    describe_size,
    sensible_rate,
)
from siammae.frames.files import VideoEndError
from siammae.frames.pyav_reader import list_pictures
from siammae.frames.rgb import check_area

if TYPE_CHECKING:
    import cv2

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_OTHER = 'Use the reader "pyav".'
_FAILURE = re.compile(r"swscaler.*(cannot|unsupported|invalid|not supported|failed)", re.IGNORECASE)
_SAME_TIME = 1e-3  # seconds
_UNSAID = 2  # H.273's transfer of a stream that does not say which
_COVERS = ("jpeg", "MJPG", "png ", "MPNG", "GIF ", "BMP ", "WEBP")
_ear_in_use = threading.Lock()


class OpenCVReader:
    """See :class:`siammae.frames.FrameReader`.

    Decodes from the beginning: OpenCV's own seeking lands on wrong frames where a container has dropped some.

    OpenCV hands out memory that nobody wrote where FFmpeg's conversion to RGB fails (interlaced frames and rare colour
    matrices, from its wheels 4.13 on). FFmpeg says so on stderr only; so stderr is listened to during each call, which
    keeps its messages from the terminal too, and a failed conversion is an error.

    It would show a mirrored picture as it is stored, and squeeze a size that changes in mid-stream into the first one:
    PyAV looks at the key frames beside it (in VP9 at all), and such files are refused. Colours of HDR are other ones
    than FFmpeg's own, with a warning.

    Args:
        path: a video file.
        threads: that decode, None = as FFmpeg likes.

    Raises:
        VideoReadError: the file cannot be opened as a video, or shows mirrored.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import cv2

        self._path, self._threads = path, threads
        _require_name(path)
        self._ear = _Ear()
        self._capture = self._open()
        self._fresh = True  # nothing was decoded yet
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._codec = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        self.frame_rate = sensible_rate(rate)
        self.frame_count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if rate >= COVER_RATE and self._codec in _COVERS:
            raise VideoReadError(f"{path} cannot be read as a video: it is sound with a cover picture.")
        self._check_picture()

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers, which rise.

        Skipped frames are decoded too: seeking lands on the wrong frame where a container has dropped frames.
        """
        import cv2

        if not self._fresh:
            self.close()
            self._capture = self._open()
        self._fresh, taken, seconds = False, 0, 0.0
        sizes = _Sizes(self._path)
        for number in numbers:
            while taken <= number:
                if not self._ear.hear(self._capture.grab):
                    self._check_ending(taken, seconds)
                    raise VideoEndError(taken)
                taken, seconds = taken + 1, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            sizes.check(seconds)
            decoded, bgr = self._ear.hear(self._capture.retrieve)
            if not decoded or any(_FAILURE.search(line) for line in self._ear.heard):
                self._refuse_frame(number)
            yield number, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    def close(self) -> None:
        """Let go of the file."""
        self._capture.release()

    def _open(self, *, packets: bool = False) -> cv2.VideoCapture:
        import cv2

        # Absolute, or FFmpeg would take "a:b.mp4" for a protocol. Format -1 hands out packets undecoded.
        options = [cv2.CAP_PROP_FORMAT, -1] if packets else []
        options += [cv2.CAP_PROP_N_THREADS, self._threads] if self._threads else []
        path = self._path
        capture = self._ear.hear(lambda: cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, options))
        text = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg draws .txt files
        if text or not capture.isOpened():
            size = describe_size(path)
            raise VideoReadError(f"{path} cannot be read as a video ({size}): OpenCV finds no frames in it.")
        return capture

    def _check_picture(self) -> None:
        """Refuse what OpenCV shows wrongly or what is too large, and warn of what it may."""
        import cv2

        sides = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        check_area((int(self._capture.get(sides[0])), int(self._capture.get(sides[1]))), str(self._path))
        first = next(list_pictures(self._path), None)  # none: decoding will say why
        if first and first.mirrored:
            raise VideoReadError(f"{self._path} is to be shown mirrored, which OpenCV does not do. {_OTHER}")
        name = HDR_TRANSFERS.get(first.transfer) if first else None
        if first and (name or (first.transfer == _UNSAID and first.bits > 8)):
            kind = f"is HDR ({name})" if name else f"has {first.bits} bits a colour and may be HDR"
            _warn_once(f"{self._path} {kind}, whose colours OpenCV shows up to 40 levels off those of FFmpeg. {_OTHER}")
        if not _is_audible():
            _warn_once(f"FFmpeg's messages in OpenCV are not heard: a failed conversion to RGB would pass. {_OTHER}")

    def _refuse_frame(self, number: int) -> NoReturn:
        reason = next((line.strip() for line in self._ear.heard if _FAILURE.search(line)), "no picture")
        reason = re.sub(r"^.*?\] ?| *fmt:.*", "", reason).rstrip(".: ")
        hint = _OTHER if "Unsupported input" not in reason else "Convert the video first: no reader does."
        raise VideoReadError(
            f"{self._path} cannot be read by OpenCV: frame {number} (codec {self._codec}) does not become RGB: "
            f"{reason}. {hint}",
            frame_index=number,
        )

    def _check_ending(self, taken: int, seconds: float) -> None:
        """Tell a whole file whose header counts too many frames from a broken one, by the rule in ``read_frames``."""
        import cv2

        path, declared, rate = self._path, self.frame_count, self._capture.get(cv2.CAP_PROP_FPS)
        if taken and (taken >= declared or seconds * rate > declared - 1.5):
            return
        if (missing := declared_bytes(path) - path.stat().st_size) > 0:
            reason = f"the file is cut off, {missing} bytes are missing"
        elif taken == 0 and self._codec.lower() == "av01":
            reason = f"OpenCV's FFmpeg has no decoder for its codec AV1. {_OTHER[:-1]}"
        elif (lost := self._packets_after(seconds)) > REORDERED_FRAMES or taken == 0:
            reason = f"the file is damaged, {lost} packets do not decode"
            if taken == 0:
                reason += f"; or OpenCV's FFmpeg has no decoder for its codec {self._codec}. {_OTHER[:-1]}"
        else:
            return
        raise VideoReadError(f"{path} breaks off at frame {taken} of {declared}: {reason}.", frame_index=taken)

    def _packets_after(self, seconds: float) -> int:
        """Count the packets with a picture later than this time, decodable or not."""
        import cv2

        capture, count = self._open(packets=True), 0
        while self._ear.hear(capture.grab):
            whole, packet = self._ear.hear(capture.retrieve)
            late = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 > seconds
            count += whole and late and packet.size > SKIP_PACKET_BYTES
        return count


class _Sizes:
    """Looks for a change of size, which OpenCV does not tell, ahead of what it decodes."""

    def __init__(self, path: Path) -> None:
        self._path, self._pictures = path, list_pictures(path)
        self._next = next(self._pictures, None)
        self._size = self._next.size if self._next else None

    def check(self, seconds: float) -> None:
        """Refuse a size that has changed by this time."""
        while self._next is not None and self._next.seconds < seconds + _SAME_TIME:
            if self._next.size != self._size:
                raise ValueError(
                    f"{self._path} changes its size from {self._size} to {self._next.size} within {seconds:.2f} s. "
                    "Convert it to one size first."
                )
            self._next = next(self._pictures, None)


class _Ear:
    """Runs a function while file descriptor 2, which FFmpeg writes to, leads into a file; one thread at a time.

    Attributes:
        heard: what was written during the last call, by lines.
    """

    def __init__(self) -> None:
        memory = getattr(os, "memfd_create", None)  # Linux alone has it; it hears on a full disk too
        self._file = os.fdopen(memory("ffmpeg"), "w+b", 0) if memory else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.heard: list[str] = []

    def __del__(self) -> None:
        self._file.close()

    def hear(self, call: Callable[[], Result]) -> Result:
        if sys.__stderr__ is None:  # descriptor 2 is closed, or is some other file by now
            return call()
        with _ear_in_use:
            stderr = os.dup(2)
            os.dup2(self._file.fileno(), 2)
            try:
                return call()
            finally:
                os.dup2(stderr, 2)
                self._collect(stderr)
                os.close(stderr)

    def _collect(self, stderr: int) -> None:
        self.heard = []
        if os.fstat(self._file.fileno()).st_size == 0:
            return
        self._file.seek(0)
        text = self._file.read()
        self._file.seek(0)
        self._file.truncate()
        for line in text.splitlines(keepends=True):
            if line.startswith((b"[", b" (")):
                self.heard.append(line.decode(errors="replace"))
            else:  # another thread's, such as a progress bar
                os.write(stderr, line)


@lru_cache(maxsize=1)
def _is_audible() -> bool:
    """Whether what FFmpeg says inside OpenCV can be heard: opens an MP4 that lacks everything."""
    import cv2

    ear = _Ear()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "empty.mp4")
        path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0")
        ear.hear(lambda: cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))
    return any("moov" in line for line in ear.heard)


@lru_cache(maxsize=1000)
def _warn_once(message: str) -> None:
    logger.warning(message)


def _require_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise VideoReadError(
            f"the name of {path} is not UTF-8, and OpenCV opens no such file. Rename it. {_OTHER}"
        ) from error
