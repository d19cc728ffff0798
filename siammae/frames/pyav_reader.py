"""Frames through PyAV (extra ``pyav``): the only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError
from siammae.frames.files import REORDERED_FRAMES, SKIP_PACKET_BYTES, VideoEndError, declared_bytes

if TYPE_CHECKING:
    import av

_SEEK_FROM = 12  # frames: to decode fewer than these is as quick as to list the file's timestamps
_I_PICTURE = (
    1  # libavutil's number of pictures that need no other; streams with intra refresh have "key frames" without
)


def load() -> Any:  # noqa: ANN401 -- a module
    """Import PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('the reader "pyav" needs PyAV: pip install "siammae[pyav]".') from error
    return av


class PyAVReader:
    """See :class:`siammae.frames.FrameReader`.

    Seeks only where it can prove what it lands on: every packet of the file has a timestamp of its own, and from the
    key frame on each decoded frame carries the next one of them. Elsewhere it decodes from the beginning and counts.

    Args:
        path: a video file.

    Raises:
        VideoReadError: the file cannot be opened as a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container, self._stream = _open(path)
        rate = self._stream.guessed_rate or self._stream.average_rate
        self.frame_rate = float(rate) if rate else 0.0
        duration = self._container.duration
        estimate = int(duration / 1e6 * self.frame_rate + 0.5) if duration and duration > 0 else 0
        self.frame_count = max(0, int(self._stream.frames)) or estimate
        self._fresh, self._lost = True, 0  # nothing was decoded yet; packets without a frame since the last one

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers, which rise."""
        start = 0
        timeline = _timeline_of(self._path) if numbers and numbers[-1] >= _SEEK_FROM else None
        if timeline is not None and numbers[-1] < len(timeline.stamps):
            for number, frame in self._sought(numbers, timeline):
                yield number, _upright(frame)
                start += 1
        if start < len(numbers):
            yield from self._counted(numbers[start:])

    def _sought(self, numbers: Sequence[int], timeline: _Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames for as long as their timestamps prove which they are."""
        decoding: Iterator[av.VideoFrame] = iter(())
        position = -1  # number of the frame decoded last
        frame: Any = None
        for number in numbers:
            key = int(timeline.keys[np.searchsorted(timeline.keys, number, "right") - 1])
            if frame is None or key > position:
                decoding = self._decode_from(int(timeline.stamps[key]))
                frame = next((f for f in decoding if f.key_frame and int(f.pict_type) == _I_PICTURE), None)
                landed = None if frame is None else timeline.number_of(frame)
                if landed is None:
                    return
                position = landed
            while position < number:
                frame, position = next(decoding, None), position + 1
                if frame is None or frame.pts != timeline.stamps[position] or frame.is_corrupt:
                    return
            if position > number:  # the file's own index led to a later key frame
                return
            yield number, frame

    def _decode_from(self, stamp: int) -> Iterator[av.VideoFrame]:
        self._fresh = False
        self._container.seek(stamp, stream=self._stream)
        return self._decoded()

    def _counted(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if not self._fresh:
            self._container.close()
            self._container, self._stream = _open(self._path)
        self._fresh = False
        taken, seconds, decoding = 0, 0.0, self._decoded()
        frame: Any = None
        for number in numbers:
            while taken <= number:
                if (frame := next(decoding, None)) is None:
                    self._check_ending(taken, seconds)
                    raise VideoEndError(taken)
                taken, seconds = taken + 1, frame.time or 0.0
            yield number, _upright(frame)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield frames in the order of display; count packets without one, which OpenCV passes over too."""
        av = load()
        self._lost, packets = 0, self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                frames = []
            self._lost = 0 if frames else self._lost + (packet.size > SKIP_PACKET_BYTES)
            yield from frames

    def _check_ending(self, taken: int, seconds: float) -> None:
        """Tell a whole file from a broken one, by the rule in :func:`siammae.frames.read_frames`."""
        declared = self.frame_count
        if taken and (taken >= declared or seconds * self.frame_rate > declared - 1.5):
            return
        if (missing := declared_bytes(self._path) - self._path.stat().st_size) > 0:
            reason = f"the file is cut off, {missing} bytes are missing"
        elif self._lost > REORDERED_FRAMES or taken == 0:
            reason = f"the file is damaged, {self._lost} packets do not decode"
        else:
            return
        raise VideoReadError(f"{self._path} breaks off at frame {taken} of {declared}: {reason}.", frame_index=taken)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


class _Timeline(NamedTuple):
    stamps: NDArray[np.int64]  # of every frame, rising
    keys: NDArray[np.int64]  # numbers of the key frames, rising from 0

    def number_of(self, frame: av.VideoFrame) -> int | None:
        """Return the number of a frame, None if no packet had its timestamp."""
        if frame.pts is None:
            return None
        place = int(np.searchsorted(self.stamps, frame.pts))
        return place if place < len(self.stamps) and self.stamps[place] == frame.pts else None


def _timeline_of(path: Path) -> _Timeline | None:
    status = path.stat()
    return _list_stamps(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _list_stamps(path: Path, changed: int, size: int) -> _Timeline | None:
    """List a file's timestamps from its packets, undecoded; None where they do not tell which frame is which."""
    av = load()
    container, stream = _open(path)
    stamps, keys = [], []
    with container:
        try:
            for packet in container.demux(stream):
                if packet.size == 0 and packet.pts is None:  # the end
                    continue
                if packet.pts is None or packet.size <= SKIP_PACKET_BYTES or packet.is_discard or packet.is_corrupt:
                    return None
                stamps.append(packet.pts)
                keys += [packet.pts] if packet.is_keyframe else []
        except (av.FFmpegError, OSError):
            return None
    ordered = np.unique(np.array(stamps, np.int64))
    numbers = np.searchsorted(ordered, np.sort(np.array(keys, np.int64)))
    proper = len(ordered) == len(stamps) > 0 and len(numbers) > 0 and numbers[0] == 0
    return _Timeline(ordered, numbers) if proper else None


def _open(path: Path) -> tuple[Any, Any]:
    """Return container and video stream."""
    av = load()
    try:
        container = av.open(str(path.absolute()))  # absolute, or FFmpeg would take "a:b.mp4" for a protocol
    except (av.FFmpegError, OSError, ValueError) as error:
        size, declared = path.stat().st_size, declared_bytes(path)
        cut = f", cut off: its container declares {declared}" if declared > size else ""
        raise VideoReadError(f"{path} cannot be read as a video ({size} bytes{cut}): {error}.") from error
    pictures = [s for s in container.streams.video if s.codec_context and s.codec_context.name != "ansi"]
    if not pictures:  # FFmpeg draws .txt files
        container.close()
        raise VideoReadError(f"{path} cannot be read as a video ({path.stat().st_size} bytes): it holds no pictures.")
    return container, pictures[0]


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns) if turns else rgb, dtype=np.uint8)  # (H, W, 3)
