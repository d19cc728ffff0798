"""Frames through PyAV: the only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError
from siammae.frames.containers import (
    MATRIX_NAMES,
    REORDERED_FRAMES,
    RGB_MATRICES,
    SKIP_PACKET_BYTES,
    declared_bytes,
    describe_size,
    mirrors,
    sensible_rate,
    turn_upright,
)
from siammae.frames.files import VideoEndError
from siammae.frames.rgb import check_area

if TYPE_CHECKING:
    import av

_SEEK_FROM = 12  # frames: to decode fewer than these is as quick as to list the file's timestamps
# libavutil's number of pictures that need no other; streams with intra refresh have "key frames" without
_I_PICTURE = 1
_SIZED_ANYWHERE = ("vp9", "libvpx-vp9")  # a frame of another size may be predicted from the one before


def load() -> Any:  # noqa: ANN401 -- a module
    """Import PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('the reader "pyav" needs PyAV, which comes with siammae: pip install av.') from error
    return av


@lru_cache
def _one_thread() -> dict[str, Any]:
    """Keep FFmpeg's scaler from threads of its own, where PyAV lets it have some.

    A process that was forked has its parent's scalers but not their threads, and would wait for these for ever when it
    clears one away.
    """
    return {"threads": 1} if "threads" in (load().VideoFrame.reformat.__doc__ or "") else {}


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
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frame_rate = sensible_rate(float(rate or 0))
        duration = self._container.duration
        estimate = int(duration / 1e6 * self.frame_rate + 0.5) if duration and duration > 0 else 0
        self.frame_count = max(0, int(self._stream.frames)) or estimate
        context = self._stream.codec_context
        self.frame_size = int(context.height), int(context.width)  # by the header, not turned upright
        self._fresh, self._lost = True, 0  # nothing was decoded yet; packets without a frame since the last one
        self._hole = False  # more of them between two frames than can be
        self._turn: list[int] = []  # display matrix of the frame decoded last

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers, which rise."""
        start = 0
        timeline = timeline_of(self._path) if _leaves_gaps(numbers) else None
        if timeline is not None and numbers[-1] < len(timeline.stamps):
            for number, frame in self._sought(numbers, timeline):
                yield number, self._rgb(frame, number)
                start += 1
        if start < len(numbers):
            yield from self._counted(numbers[start:])

    def _sought(self, numbers: Sequence[int], timeline: Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames for as long as their timestamps prove which they are."""
        decoding: Iterator[av.VideoFrame] = iter(())
        position = -1  # number of the frame decoded last
        frame: Any = None
        for number in numbers:
            key = int(timeline.keys[np.searchsorted(timeline.keys, number, "right") - 1])
            if frame is None or key > position:
                if not self._seek(int(timeline.stamps[key])):
                    return
                decoding = self._decoded()
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

    def _seek(self, stamp: int) -> bool:
        self._fresh = False
        try:
            self._container.seek(stamp, stream=self._stream)
        except load().FFmpegError:
            return False
        return True

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
            yield number, self._rgb(frame, number)

    def _rgb(self, frame: av.VideoFrame, number: int) -> NDArray[np.uint8]:
        matrix = int(frame.colorspace)
        try:
            if matrix not in RGB_MATRICES:
                raise ValueError("FFmpeg has no conversion")  # noqa: TRY301 -- its releases refuse it or show it wrongly
            rgb = np.asarray(frame.to_ndarray(format="rgb24", **_one_thread()), np.uint8)  # (H, W, 3)
        except (load().FFmpegError, OSError, ValueError) as error:
            raise VideoReadError(
                f"{self._path} cannot be read: frame {number} ({self._stream.codec_context.name}, {frame.format.name}, "
                f"colour matrix {MATRIX_NAMES.get(matrix, matrix)}) does not become RGB: {error}. Convert the video "
                "first, with ffmpeg's filter libplacebo or zscale.",
                frame_index=number,
            ) from error
        return turn_upright(rgb, self._turn) if self._turn else rgb

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield frames in the order of display, up to a hole: packets without a frame, more than reordering explains.

        What comes after a hole would have wrong numbers. Before the first frame there may be any number of them, as
        where a recording began between two key frames.
        """
        av = load()
        self._lost, begun, packets = 0, False, self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                return
            if packet is None:
                return
            self._before(packet)
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                frames = []
            if frames and begun and self._lost > REORDERED_FRAMES:
                self._hole = True
                return
            self._lost = 0 if frames else self._lost + (packet.size > SKIP_PACKET_BYTES)
            begun = begun or bool(frames)
            for frame in frames:
                matrix = _display_matrix(frame)
                if frame.key_frame or matrix:  # H.264 says it once for those that follow
                    self._turn = matrix
                yield frame

    def _before(self, packet: av.Packet[Any]) -> None:
        """Is told of each packet before it is decoded."""

    def _check_ending(self, taken: int, seconds: float) -> None:
        """Tell a whole file from a broken one, by the rule in :func:`siammae.frames.read_frames`."""
        declared = self.frame_count
        if taken and not self._hole and (taken >= declared or seconds * self.frame_rate > declared - 1.5):
            return
        if (missing := declared_bytes(self._path) - self._path.stat().st_size) > 0:
            reason = f"the file is cut off, {missing} bytes are missing"
        elif self._hole or self._lost > REORDERED_FRAMES or taken == 0:
            reason = f"the file is damaged, {self._lost} packets do not decode"
        else:
            return
        raise VideoReadError(f"{self._path} breaks off at frame {taken} of {declared}: {reason}.", frame_index=taken)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


class Picture(NamedTuple):
    """What a frame says of itself, for readers that do not see it.

    Attributes:
        seconds: when it is shown, from the stream's start; 0 where nothing says so.
        size: ``(H, W)`` as stored, before it is turned.
        mirrored: whether it is to be shown mirrored and not only turned.
        transfer: how light became numbers, as in ITU-T H.273.
        bits: for each colour.
    """

    seconds: float
    size: tuple[int, int]
    mirrored: bool
    transfer: int
    bits: int


def list_pictures(path: Path) -> Iterator[Picture]:
    """Yield what the frames say at which size, orientation or light can change: every frame in VP9, else key frames.

    Args:
        path: a video file.

    Raises:
        VideoReadError: the file cannot be opened as a video.
    """
    seen = False
    for picture in _decode_pictures(path, sparsely=True):
        seen = True
        yield picture
    if not seen:  # a stream with intra refresh may have no key frame at all
        yield from _decode_pictures(path, sparsely=False)


def _decode_pictures(path: Path, *, sparsely: bool) -> Iterator[Picture]:
    av = load()
    container, stream = _open(path)
    with container:
        context, start = stream.codec_context, stream.start_time or 0
        if sparsely and context.name not in _SIZED_ANYWHERE:
            context.skip_frame = "NONKEY"
        try:
            for frame in container.decode(stream):
                seconds = 0.0 if frame.pts is None else float((frame.pts - start) * frame.time_base)
                matrix = _display_matrix(frame)
                mirrored = bool(matrix) and mirrors(matrix)
                bits = max(part.bits for part in frame.format.components)
                # The decoder's transfer, that of its last frame: frames of older PyAV do not tell theirs.
                yield Picture(seconds, (frame.height, frame.width), mirrored, int(context.color_trc), bits)
        except (av.FFmpegError, OSError):  # the reader that asked tells of damage by its own decoder
            return


class Timeline(NamedTuple):
    """The timestamps of a file."""

    stamps: NDArray[np.int64]  # of every frame, rising
    keys: NDArray[np.int64]  # numbers of the key frames, rising from 0

    def number_of(self, frame: av.VideoFrame) -> int | None:
        """Return the number of a frame, None if no packet had its timestamp."""
        if frame.pts is None:
            return None
        place = int(np.searchsorted(self.stamps, frame.pts))
        return place if place < len(self.stamps) and self.stamps[place] == frame.pts else None


def _leaves_gaps(numbers: Sequence[int]) -> bool:
    """Whether seeking can save decoding; a video that is read from its beginning on need not be listed."""
    if isinstance(numbers, range) and numbers.start < _SEEK_FROM and numbers.step < _SEEK_FROM:
        return False
    return len(numbers) > 0 and numbers[-1] >= _SEEK_FROM


def timeline_of(path: Path) -> Timeline | None:
    """Return the timestamps of a file's frames; None where they do not tell which frame is which."""
    status = path.stat()
    return _list_stamps(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _list_stamps(path: Path, changed: int, size: int) -> Timeline | None:
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
    return Timeline(ordered, numbers) if proper else None


def _any_titles(av: Any) -> dict[str, str]:  # noqa: ANN401 -- a module
    """Return the option by which titles in other encodings than UTF-8 do no harm; PyAV 19 needs and knows none."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _display_matrix(frame: av.VideoFrame) -> list[int]:
    """Return its nine numbers by rows, none if the frame is shown as stored."""
    # Not frame.side_data, which the frame keeps and which keeps the frame: 200 of them would wait for Python's garbage
    # collector, 600 MB of 1080p.
    shown: Any = load().sidedata.sidedata.SideDataContainer(frame).get("DISPLAYMATRIX")
    return np.frombuffer(bytes(shown), np.int32).tolist() if shown else []


def _open(path: Path) -> tuple[Any, Any]:
    """Return container and video stream."""
    av = load()
    try:
        # Absolute, or FFmpeg would take "a:b.mp4" for a protocol.
        container = av.open(str(path.absolute()), **_any_titles(av))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoReadError(f"{path} cannot be read as a video ({describe_size(path)}): {error}.") from error
    cover = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & cover]
    pictures = [s for s in videos if s.codec_context and s.codec_context.name != "ansi"]  # FFmpeg draws .txt files
    if pictures:
        check_area((pictures[0].codec_context.height, pictures[0].codec_context.width), str(path))
        return container, pictures[0]
    reason = "it is sound with a cover picture" if container.streams.video else "it holds no pictures"
    if any(s.codec_context is None for s in videos):
        reason = "PyAV's FFmpeg has no decoder for its codec"
    container.close()
    raise VideoReadError(f"{path} cannot be read as a video ({describe_size(path)}): {reason}.")
