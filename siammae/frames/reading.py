"""A whole video: any source becomes an iterator of RGB frames."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siammae.frames.files import PathLike, VideoEndError
from siammae.frames.images import list_pages, page_rate, read_pages
from siammae.frames.readers import Backend, FrameReader, open_reader
from siammae.frames.rgb import FrameSource, check_layout, check_unit_range, to_rgb

VideoSource: TypeAlias = PathLike | NDArray[np.uint8] | Tensor | Iterable[FrameSource]


def read_frames(
    video: VideoSource,
    *,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
    reader: Backend = "auto",
    leave_out: Collection[PathLike] = (),
) -> Iterator[NDArray[np.uint8]]:
    """Read a video frame by frame.

    A video file's declared frame count is not trusted: AVI headers count dropped frames (slots without data), which
    no decoder returns. A file that ends before that count is still whole when its last frame fills the last slot
    (time x rate). If not, it is broken when the sizes in its container (RIFF chunk, MP4 box, Matroska segment) run past
    the end of the file, or when more than 16 packets after the last frame do not decode. At a hole of more than
    16 packets in the middle PyAV ends with an error; other readers may pass over it.

    Args:
        video: a video file; a folder of images of one format in natural order (``img2`` before ``img10``, hidden files
            ignored; files that are no pictures are named in a log message); one image file, all pages of a GIF, WebP,
            PNG or TIFF; uint8 NumPy frames ``(T, H, W, 3)``; torch frames ``(T, 3, H, W)``, uint8 or float in [0, 1];
            or a list or iterator of single frames as in :func:`to_rgb`, read lazily and once.
        start: first frame, from 0. Files are decoded from their beginning where seeking is not exact.
        stop: frame to stop before; None reads to the end.
        step: distance of the frames returned, at least 1.
        reader: decodes video files: ``"pyav"``, which ``"auto"`` is; ``"opencv"``, whose limits
            :func:`siammae.frames.open_reader` tells; or ``"torchcodec"`` (extra of this name).
        leave_out: files that are no frames even where they lie in the folder, such as the first mask.

    Returns:
        An iterator of RGB uint8 frames ``(H, W, 3)``, turned and mirrored as they are to be shown; frames of an array
        share its memory. HDR is not mapped to the range of a screen: the numbers are those that ``ffmpeg`` gives.

    Raises:
        ValueError: an option, a layout, a dtype or a value range is wrong, there are no frames, ``start`` lies past
            the end, the frame size changes, or there is no such reader.
        TypeError: ``video`` is none of the above.
        FileNotFoundError: there is nothing at the path.
        VideoReadError: a file does not decode or breaks off, or the reader would not read it rightly, ``frame_index``
            is the first frame that is missing; a folder holds pictures of several formats or two for one frame; or
            a file's frames have more pixels than the environment variable ``SIAMMAE_MAX_PIXELS`` allows, by default
            67,108,864 (8192 x 8192; Pillow itself refuses images of more than 178,956,970).
        ImportError: the reader is not installed, or cannot load.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((10, 48, 64, 3), np.uint8)  # or a path, a folder, a tensor, an iterator
        >>> [frame.shape for frame in siammae.read_frames(video, start=2, stop=8, step=3)]
        [(48, 64, 3), (48, 64, 3)]
    """
    for name, got, least in (("start", start, 0), ("stop", stop, start), ("step", step, 1)):
        if got is not None and got < least:
            raise ValueError(f"{name} is {got}: it must be at least {least}.")
    picks = range(start, sys.maxsize if stop is None else stop, step)
    return _checked(_open(video, picks, reader, leave_out), picks)


def count_frames(video: VideoSource, *, reader: Backend = "auto", leave_out: Collection[PathLike] = ()) -> int | None:
    """Count the frames without reading any, for a progress bar.

    Args:
        video: as in :func:`read_frames`.
        reader: as there.
        leave_out: as there.

    Returns:
        The exact number for arrays, lists, images and folders; what the header says for a video file, which may be
        more than it has; None for iterators and where the header says nothing.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file cannot be opened as a video.
    """
    if not isinstance(video, str | os.PathLike):
        return len(video) if isinstance(video, np.ndarray | Tensor | Sequence) else None
    pages = list_pages(Path(video), leave_out)
    if pages is not None:
        return len(pages)
    with closing(open_reader(video, reader)) as opened:
        return opened.frame_count or None


def frame_rate(video: VideoSource, *, reader: Backend = "auto") -> float | None:
    """Return the frames per second of a video file on average or of an animated image, None where none is told.

    Args:
        video: as in :func:`read_frames`.
        reader: as there.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file cannot be opened as a video.
    """
    if not isinstance(video, str | os.PathLike) or Path(video).is_dir():
        return None
    if (pages := list_pages(Path(video))) is not None:
        return page_rate(pages) or None
    with closing(open_reader(video, reader)) as opened:
        return opened.frame_rate or None


def _open(
    video: VideoSource, picks: range, reader: Backend, leave_out: Collection[PathLike]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Check the source now; return its numbered frames, read later."""
    if isinstance(video, str | os.PathLike):
        path = Path(video)
        pages = list_pages(path, leave_out, notice=True)
        if pages is None:
            return _decoded(open_reader(path, reader, threads=None), picks)
        return read_pages(pages, _within(picks, len(pages)))
    if isinstance(video, np.ndarray | Tensor):
        return _from_array(video, picks)
    if isinstance(video, Sequence):
        frames = cast("Sequence[FrameSource]", video)
        return ((index, to_rgb(frames[index], index=index)) for index in _within(picks, len(frames)))
    if isinstance(video, Iterable):
        return _pull(iter(video), picks)
    raise TypeError(f"video is a {type(video).__name__}: it must be a path, an array, a tensor or frames in a list.")


def _decoded(opened: FrameReader, picks: range) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a file up to the last pick, or to its end."""
    with closing(opened), suppress(VideoEndError):
        yield from opened.frames(picks)


def _from_array(video: NDArray[np.uint8] | Tensor, picks: range) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    check_layout(video, "frames", "(T, 3, H, W)" if isinstance(video, Tensor) else "(T, H, W, 3)")
    picks = _within(picks, len(video))
    if isinstance(video, Tensor):
        check_unit_range(video, "frames")
    return ((index, to_rgb(video[index], index=index)) for index in picks)


def _within(picks: range, count: int) -> range:
    if count == 0 or (picks and picks.start >= count):
        raise ValueError(f"no frame {picks.start} to start at: the video has {count} frames.")
    return range(picks.start, min(picks.stop, count), picks.step)


def _pull(frames: Iterator[FrameSource], picks: range) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Take frames one by one and none after the last pick."""
    taken = 0
    for index in picks:
        for frame in frames:
            taken += 1
            if taken > index:
                yield index, to_rgb(frame, index=index)
                break
        else:
            return


def _checked(frames: Iterator[tuple[int, NDArray[np.uint8]]], picks: range) -> Iterator[NDArray[np.uint8]]:
    """Refuse a change of size, and a source that ends before the first pick."""
    size: tuple[int, ...] = ()
    for index, frame in frames:
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            raise ValueError(f"frame {index} is {frame.shape[:2]} but the first was {size}. Resize them to one size.")
        yield frame
    if picks and not size:
        raise ValueError(f"no frame {picks.start} to start at: the video ended before it.")
