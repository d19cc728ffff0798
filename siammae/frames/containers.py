"""What a video file's own bytes and headers say, whoever decodes it: sizes, orientation, light, frame rate."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx"})
_EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# H.264 and HEVC reorder at most 16 frames. Smaller packets say "same picture again" and decode to no frame.
REORDERED_FRAMES, SKIP_PACKET_BYTES = 16, 16
COVER_RATE = 90_000  # what FFmpeg says of a song's cover picture: ticks of its clock, a second
_HIGHEST_RATE = 1000  # faster is a clock's tick and no rate; cameras for slow motion write the rate of playing
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # by their numbers in ITU-T H.273
# Colour matrices of H.273 that FFmpeg's scaler converts to RGB; it refuses others or takes them for BT.601.
RGB_MATRICES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})
MATRIX_NAMES = {8: "YCgCo", 10: "BT.2020 constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}


def declared_bytes(path: Path) -> int:
    """Return the bytes that the container's own sizes add up to, as far as they can be followed."""
    return max((start + length for _, start, length in _elements(path)), default=0)


def describe_size(path: Path) -> str:
    """Return a file's size for a message, and what its container declares where that is more."""
    size, declared = path.stat().st_size, declared_bytes(path)
    return f"{size} bytes" + (f", cut off: its container declares {declared}" if declared > size else "")


def keeps_an_index(path: Path) -> bool:
    """Whether it is MP4, MOV, AVI, Matroska or WebM: a list of frames can be had and sought in."""
    return next(_elements(path), None) is not None


def _elements(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield first bytes, place and whole length of each top-level element."""
    place, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16).ljust(16, b"\0")
            length = _element_bytes(head)
            if length == 0:
                break
            yield head, place, length
            place += length


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


def mirrors(matrix: Sequence[int]) -> bool:
    """Whether a display matrix, as :func:`turn_upright` takes it, mirrors and does not only turn."""
    a, b, _, c, d = matrix[:5]
    return a * d - b * c < 0


def turn_upright(frame: NDArray[np.uint8], matrix: Sequence[int]) -> NDArray[np.uint8]:
    """Turn and mirror a frame ``(H, W, 3)`` as a display matrix says, to the nearest quarter turn.

    Args:
        frame: as it is stored.
        matrix: its nine numbers by rows; stored (x, y) is shown at (0 x + 3 y, 1 x + 4 y), by their places.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        frame, down, right = frame.transpose(1, 0, 2), b, c
    else:
        down, right = d, a
    return np.ascontiguousarray(frame[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def sensible_rate(rate: float) -> float:
    """Return a header's frames per second, 0 where it cannot be one."""
    return rate if 0 < rate <= _HIGHEST_RATE else 0.0  # NaN fails as well
