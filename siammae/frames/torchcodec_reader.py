"""Frames through torchcodec (extra ``torchcodec``): the only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.errors import VideoReadError
from siammae.frames.containers import (
    COVER_RATE,
    declared_bytes,
    keeps_an_index,
    sensible_rate,
)
from siammae.frames.files import VideoEndError
from siammae.frames.pyav_reader import list_pictures
from siammae.frames.rgb import check_area

_AT_ONCE = 16  # frames decoded in one call
_WRONG_MATRICES = ("ycgco", "bt2020c", "ictcp", "ipt-c2", "ycgco-re", "ycgco-ro")  # it takes them for BT.601
_OTHER = 'Use the reader "pyav" or "opencv".'


def load() -> Any:  # noqa: ANN401 -- a class of an optional package
    """Import torchcodec's decoder, and make sure that it finds its FFmpeg.

    Raises:
        ImportError: it is not installed, or there is no FFmpeg that it can use.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError('the reader "torchcodec" needs it: pip install "siammae[torchcodec]".') from error
    except (RuntimeError, OSError) as error:
        raise _unloadable(error) from error
    try:
        VideoDecoder(b"no video")
    except (RuntimeError, ValueError, OSError) as error:  # it loads its libraries when it is first used
        if "libtorchcodec" in str(error):
            raise _unloadable(error) from error
    return VideoDecoder


def _unloadable(error: Exception) -> ImportError:
    reason = str(error).split("Likely causes", maxsplit=1)[0].strip()
    return ImportError(
        f"torchcodec is installed but does not load ({reason}) It needs FFmpeg's shared libraries (apt install "
        'ffmpeg) and a PyTorch of its release. Use reader="opencv" or "pyav" without them.'
    )


class TorchcodecReader:
    """See :class:`siammae.frames.FrameReader`.

    torchcodec trusts a container's key frames and timestamps: streams with intra refresh come back damaged after a
    seek, and AVI files with B-frames are refused. OpenCV and PyAV read both. Containers without an index, such as
    MPEG-TS, are refused, for it gives other frames of them than those asked for; so are mirrored ones.

    Args:
        path: a video file.

    Raises:
        VideoReadError: the file cannot be opened as a video, or would not be read rightly.
        ImportError: torchcodec is not installed, or does not load.
    """

    def __init__(self, path: Path) -> None:
        self._path, decoder = path, load()
        try:
            self._decoder = decoder(str(path.absolute()), dimension_order="NHWC", seek_mode="exact")
        except (RuntimeError, ValueError, OSError) as error:
            raise VideoReadError(f"{path} cannot be read as a video: {_first_line(error)}") from error
        header = self._decoder.metadata
        if header.codec == "ansi":  # FFmpeg draws .txt files
            raise VideoReadError(f"{path} cannot be read as a video: it is text.")
        if (header.average_fps_from_header or 0) >= COVER_RATE:
            raise VideoReadError(f"{path} cannot be read as a video: it is sound with a cover picture.")
        check_area((int(header.height or 0), int(header.width or 0)), str(path))
        self._refuse_what_comes_out_wrong(getattr(header, "color_space", None))
        self.frame_rate = sensible_rate(float(header.average_fps or 0.0))
        self.frame_count = int(header.num_frames_from_header or 0) or len(self._decoder)

    def _refuse_what_comes_out_wrong(self, matrix: str | None) -> None:
        if not keeps_an_index(self._path):
            reason = f"has no index (as MPEG-TS), where torchcodec finds other frames than those asked for. {_OTHER}"
        elif any(picture.mirrored for picture in islice(list_pictures(self._path), 1)):
            reason = 'is to be shown mirrored, which torchcodec does not do. Use the reader "pyav".'
        elif str(matrix).lower() in _WRONG_MATRICES:
            reason = f"has the colour matrix {matrix}, which torchcodec does not turn into RGB. Convert it first."
        else:
            return
        raise VideoReadError(f"{self._path} {reason}")

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers, which rise."""
        length = len(self._decoder)
        for start in range(0, len(numbers), _AT_ONCE):
            chunk = [number for number in numbers[start : start + _AT_ONCE] if number < length]
            try:
                frames = self._decoder.get_frames_at(chunk).data.numpy() if chunk else ()  # (n, H, W, 3)
            except (RuntimeError, ValueError, IndexError) as error:
                message = f"{self._path} does not decode at frames {chunk[0]} to {chunk[-1]}: {_first_line(error)}"
                raise VideoReadError(message, frame_index=chunk[0]) from error
            yield from zip(chunk, frames, strict=True)
            if len(chunk) < len(numbers[start : start + _AT_ONCE]):
                self._check_ending(length)
                raise VideoEndError(length)

    def _check_ending(self, length: int) -> None:
        missing = declared_bytes(self._path) - self._path.stat().st_size
        if missing > 0 and length < self.frame_count:
            raise VideoReadError(
                f"{self._path} breaks off at frame {length} of {self.frame_count}: the file is cut off, {missing} "
                "bytes are missing.",
                frame_index=length,
            )

    def close(self) -> None:
        """Let go of the file."""
        del self._decoder


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
