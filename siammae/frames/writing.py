"""Frames out: a video file, a picture. Files appear whole or not at all."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from PIL import Image

from siammae.frames.containers import declared_bytes
from siammae.frames.files import PathLike
from siammae.frames.rgb import FrameSource, to_rgb
from siammae.outputs import whole

if TYPE_CHECKING:
    import cv2

logger = logging.getLogger(__name__)

# What the FFmpeg inside the opencv-python wheels can encode, H.264 is not among it; and the most frames a second:
# an AVI loses frames above 600, WebM counts milliseconds, and no reader believes more than 1000.
_CODECS = {".mp4": ("mp4v", 1000.0), ".avi": ("MJPG", 600.0), ".webm": ("VP90", 1000.0)}
_LEAST_RATE = 0.01
_NUMERATOR = 65535  # of a frame rate in MPEG-4; OpenCV writes 29.97 as 2997/100, with at most three decimals


class VideoWriter:
    """Write RGB frames to a video file, which appears when the ``with`` block ends without an exception.

    Frames with an odd side are padded to an even one by repeating the border. All three formats lose detail; MP4 and
    WebM come back up to 4 of 255 levels darker (OpenCV's colour conversion); use :func:`write_image` for exact pixels.
    The finished file is opened and its frames are counted before it gets its name.

    Args:
        path: ``.mp4`` (MPEG-4 part 2), ``.avi`` (Motion JPEG) or ``.webm`` (VP9, which browsers play too).
        fps: frames per second, above 0; rounded to what the format can say, from 0.01 to 1000, or 600 in AVI, with
            at most three decimals.

    Attributes:
        fps: frames per second in the file.

    Raises:
        ValueError: the suffix or ``fps`` is wrong, the name is not UTF-8, the frame size changes, or nothing was
            written.
        FileNotFoundError: the folder does not exist.
        RuntimeError: ``write`` is called outside a ``with`` block.
        OSError: OpenCV cannot encode here, or the finished file does not hold all frames, as on a full disk.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> with siammae.VideoWriter("clip.mp4", fps=10) as writer:
        ...     for level in (0, 100, 200):
        ...         writer.write(np.full((48, 64, 3), level, np.uint8))
        >>> len(list(siammae.read_frames("clip.mp4")))
        3
    """

    def __init__(self, path: PathLike, *, fps: float = 25.0) -> None:
        self.path = Path(path)
        _check_suffix(self.path, _CODECS)
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps is {fps}: it must be above 0 and finite.")
        try:
            str(self.path.absolute()).encode()
        except UnicodeEncodeError:
            raise ValueError(f"cannot write {str(path)!a}: OpenCV needs a name in UTF-8. Choose another.") from None
        self._codec, most = _CODECS[self.path.suffix.lower()]
        self.fps = _rounded_rate(float(fps), most)
        if abs(self.fps / fps - 1) > 0.01:
            logger.warning("%s has %g frames a second, not %g, which the format cannot say", path, self.fps, fps)
        self._held = ExitStack()
        self._part: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, ...] = ()
        self._count = 0

    def __enter__(self) -> Self:
        _check_folder(self.path)
        self._part = self._held.enter_context(whole(self.path))
        return self

    def write(self, frame: FrameSource) -> None:
        """Append one frame, given as in :func:`to_rgb`."""
        import cv2

        rgb = to_rgb(frame)
        if self._writer is None:
            self._size, self._writer = rgb.shape[:2], self._start(rgb.shape[1] + rgb.shape[1] % 2, rgb.shape[0])
        if rgb.shape[:2] != self._size:
            raise ValueError(f"this frame is {rgb.shape[:2]} but the video is {self._size}. Resize it first.")
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        padding = (0, rgb.shape[0] % 2, 0, rgb.shape[1] % 2)  # top, bottom, left, right
        self._writer.write(cv2.copyMakeBorder(bgr, *padding, cv2.BORDER_REPLICATE))
        self._count += 1

    def _start(self, width: int, height: int) -> cv2.VideoWriter:
        import cv2

        if self._part is None:
            raise RuntimeError("VideoWriter is not open: use it in a with statement.")
        size = (width, height + height % 2)
        fourcc = cv2.VideoWriter.fourcc(*self._codec)
        writer = cv2.VideoWriter(str(self._part.absolute()), cv2.CAP_FFMPEG, fourcc, self.fps, size)
        if not writer.isOpened():
            raise OSError(
                f"OpenCV cannot write {self.path}, {size} {self._codec} at {self.fps} fps, here: the disk may be full. "
                "Make room, or try another suffix."
            )
        return writer

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        failure = sys.exc_info() if kind is not None else (None, None, None)
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                self._check()
        except BaseException:
            failure = sys.exc_info()
            raise
        finally:
            self._held.__exit__(*failure)

    def _check(self) -> None:
        """Refuse a file that does not hold what was written: OpenCV says nothing of a full disk."""
        if self._part is None or self._count == 0:
            raise ValueError(f"nothing was written to {self.path}: a video must have at least one frame.")
        found = _count_packets(self._part)
        if found != self._count or declared_bytes(self._part) != self._part.stat().st_size:
            raise OSError(
                f"{self.path} was not written: its file broke off, with {found} of {self._count} frames in it. The "
                "disk may be full: make room, or choose another folder."
            )


def _rounded_rate(fps: float, most: float) -> float:
    """Return the nearest frame rate that a container can say."""
    fps = min(max(fps, _LEAST_RATE), most)
    decimals = next(places for places in (3, 2, 1, 0) if round(fps * 10**places) <= _NUMERATOR)
    return round(fps, decimals)


def _count_packets(path: Path) -> int:
    import cv2

    capture, count = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1]), 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def write_image(path: PathLike, rgb: FrameSource) -> None:
    """Write one frame as PNG or JPEG; the file appears whole or not at all.

    Args:
        path: ends in ``.png``, ``.jpg`` or ``.jpeg``.
        rgb: a frame as in :func:`to_rgb`.

    Raises:
        ValueError: the suffix or the frame is wrong.
        FileNotFoundError: the folder does not exist.
    """
    path, image, buffer = Path(path), Image.fromarray(to_rgb(rgb)), io.BytesIO()
    _check_suffix(path, (".png", ".jpg", ".jpeg"))
    image.save(buffer, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=95)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, data: bytes) -> None:
    """Write an encoded picture; the file appears whole or not at all.

    Pillow's own writing to files does not see a disk that becomes full at the last bytes.

    Args:
        path: of the file.
        data: all of it.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: it cannot be written.
    """
    _check_folder(path)
    with whole(path, sync=False) as part:
        part.write_bytes(data)


def write_animation(path: PathLike, frames: Iterable[FrameSource], *, fps: float = 2.0) -> None:
    """Write frames as an endless GIF; the file appears whole or not at all.

    Each frame keeps its 256 commonest colours and is not dithered.

    Args:
        path: ends in ``.gif``.
        frames: of one size, each as in :func:`to_rgb`.
        fps: frames per second, above 0 and at most 50; GIF counts time in hundredths of a second.

    Raises:
        ValueError: the suffix, ``fps`` or a frame is wrong, their size changes, or there are none.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    _check_suffix(path, (".gif",))
    if not 0 < fps <= 50:
        raise ValueError(f"fps is {fps}: it must be above 0 and at most 50 in a GIF.")
    images = [Image.fromarray(to_rgb(frame, index=index)) for index, frame in enumerate(frames)]
    if not images:
        raise ValueError(f"nothing to write to {path}: an animation must have at least one frame.")
    if len(sizes := {image.size for image in images}) > 1:
        raise ValueError(f"frames have the sizes {sorted(sizes)}: an animation has one. Resize them first.")
    first, *others = (image.quantize(256, dither=Image.Dither.NONE) for image in images)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    write_bytes(path, buffer.getvalue())


def encode_image(rgb: FrameSource, kind: Literal["jpg", "png"], *, quality: int = 90) -> bytes:
    """Encode one frame.

    Args:
        rgb: a frame as in :func:`to_rgb`.
        kind: ``"jpg"``, or ``"png"``, which keeps every pixel.
        quality: of a JPEG, 1 to 95.
    """
    buffer, image = io.BytesIO(), Image.fromarray(to_rgb(rgb))
    if kind == "png":
        image.save(buffer, "PNG", compress_level=3)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _check_suffix(path: Path, allowed: Iterable[str]) -> None:
    if path.suffix.lower() not in allowed:
        raise ValueError(f"cannot write {path.name}: the name must end in {', '.join(allowed)}.")


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}: create it first.")
