"""Video files: decoding, and telling a broken video from a miscounted one."""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError
from siammae.frames.rgb import check_area

if TYPE_CHECKING:
    import cv2

_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx"})
_EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# H.264 and HEVC reorder at most 16 frames. Smaller packets say "same picture again" and decode to no frame.
REORDERED_FRAMES, SKIP_PACKET_BYTES = 16, 16


def open_video(path: Path, *, packets: bool = False, threads: int | None = None) -> cv2.VideoCapture:
    """Open a video file for decoding, or for its undecoded packets; ``threads`` decode, None = as FFmpeg likes."""
    import cv2

    # Absolute, or FFmpeg would take "a:b.mp4" for a protocol. Format -1 hands out packets undecoded.
    options = [cv2.CAP_PROP_FORMAT, -1] if packets else []
    options += [cv2.CAP_PROP_N_THREADS, threads] if threads else []
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, options)
    text = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg draws .txt files
    if text or not capture.isOpened():
        size, declared = path.stat().st_size, declared_bytes(path)
        cut = f", cut off: its container declares {declared}" if declared > size else ""
        raise VideoReadError(f"{path} cannot be read as a video ({size} bytes{cut}): OpenCV finds no frames in it.")
    check_area((int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))), str(path))
    return capture


class VideoEndError(IndexError):
    """A frame was asked for by number, but the video ends before it.

    Attributes:
        frame_count: the frames that the video really has.
    """

    def __init__(self, frame_count: int) -> None:
        super().__init__(frame_count)
        self.frame_count = frame_count

    def __str__(self) -> str:
        return f"the video ends after {self.frame_count} frames."


def decode_video(
    capture: cv2.VideoCapture, path: Path, picks: Iterable[int]
) -> Generator[tuple[int, NDArray[np.uint8]], None, int]:
    """Yield the picked frames with their numbers, which must rise; return how many were decoded.

    Skipped frames are decoded too: seeking lands on the wrong frame where a container has dropped frames.
    """
    import cv2

    taken, seconds = 0, 0.0
    for index in picks:
        while taken <= index:
            if not capture.grab():
                _check_ending(capture, path, taken, seconds)
                return taken
            taken, seconds = taken + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        decoded, bgr = capture.retrieve()
        if not decoded:
            raise VideoReadError(f"{path} cannot be read: frame {index} does not decode.", frame_index=index)
        yield index, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return taken


def _check_ending(capture: cv2.VideoCapture, path: Path, taken: int, seconds: float) -> None:
    """Tell a whole file whose header counts too many frames from a broken one, by the rule in ``read_frames``."""
    import cv2

    declared, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    if taken and (taken >= declared or seconds * rate > declared - 1.5):
        return
    if (missing := declared_bytes(path) - path.stat().st_size) > 0:
        reason = f"the file is cut off, {missing} bytes are missing"
    elif (lost := _packets_after(path, seconds)) > REORDERED_FRAMES or taken == 0:
        reason = f"the file is damaged, {lost} packets do not decode"
    else:
        return
    raise VideoReadError(f"{path} breaks off at frame {taken} of {declared}: {reason}.", frame_index=taken)


def _packets_after(path: Path, seconds: float) -> int:
    """Count the packets with a picture later than this time, decodable or not."""
    import cv2

    capture, count = open_video(path, packets=True), 0
    while capture.grab():
        whole, packet = capture.retrieve()
        late = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 > seconds
        count += whole and late and packet.size > SKIP_PACKET_BYTES
    return count


def declared_bytes(path: Path) -> int:
    """Return the bytes that the container's own sizes add up to, as far as they can be followed."""
    end, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while end < size:
            file.seek(end)
            length = _element_bytes(file.read(16).ljust(16, b"\0"))
            if length == 0:
                break
            end += length
    return end


def _element_bytes(head: bytes) -> int:
    """Return the whole length of the top-level element with these first 16 bytes, 0 if unknown."""
    if head[:4] == b"RIFF":
        (length,) = struct.unpack("<I", head[4:8])
        return length + 8 if 0 < length < 2**32 - 1 else 0
    if head[4:8] in _MP4_BOXES:
        length, long = struct.unpack(">I4xQ", head)
        return int(long if length == 1 else length)
    if head[:4] in (_EBML_HEADER, _EBML_SEGMENT) and head[4]:
        width = 9 - head[4].bit_length()  # leading zero bits tell the width, a one marks their end
        length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
        return 4 + width + length if length < (1 << 7 * width) - 1 else 0
    return 0


def video_header(path: Path, field: str) -> float:
    """Return a number from a video file's header, 0 if it has none."""
    import cv2

    value = float(open_video(path).get(getattr(cv2, field)))
    return value if value > 0 and math.isfinite(value) else 0.0
