"""Frames out: a video file, a picture. Files appear whole or not at all."""

from __future__ import annotations

import io
import math
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from PIL import Image

from siammae.frames.images import PathLike
from siammae.frames.rgb import FrameSource, to_rgb

if TYPE_CHECKING:
    import cv2

# What the FFmpeg inside the opencv-python wheels can encode; H.264 is not among it.
_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".webm": "VP90"}


class VideoWriter:
    """Write RGB frames to a video file, which appears when the ``with`` block ends without an exception.

    Frames with an odd side are padded to an even one by repeating the border. All three formats lose detail; MP4 and
    WebM come back up to 4 of 255 levels darker (OpenCV's colour conversion); use :func:`write_image` for exact pixels.

    Args:
        path: ``.mp4`` (MPEG-4 part 2), ``.avi`` (Motion JPEG) or ``.webm`` (VP9, which browsers play too).
        fps: frames per second, above 0.

    Raises:
        ValueError: the suffix or ``fps`` is wrong, the frame size changes, or nothing was written.
        FileNotFoundError: the folder does not exist.
        RuntimeError: ``write`` is called outside a ``with`` block, or OpenCV cannot encode here.
    """

    def __init__(self, path: PathLike, *, fps: float = 25.0) -> None:
        self.path, self.fps = Path(path), float(fps)
        _check_suffix(self.path, _CODECS)
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps is {fps}: it must be above 0 and finite.")
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        self._temporary = _temporary(self.path)
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

    def _start(self, width: int, height: int) -> cv2.VideoWriter:
        import cv2

        if self._temporary is None:
            raise RuntimeError("VideoWriter is not open: use it in a with statement.")
        codec, size = _CODECS[self.path.suffix.lower()], (width, height + height % 2)
        name = str(self._temporary.absolute())
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.fps, size)
        if not writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise RuntimeError(f"OpenCV cannot write {size} {codec} at {self.fps} fps here. Try another suffix.")
        return writer

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._writer is not None and self._temporary is not None:
            self._writer.release()
            _publish(self._temporary, self.path, good=kind is None)
        elif kind is None:
            raise ValueError(f"nothing was written to {self.path}: a video must have at least one frame.")


def write_image(path: PathLike, rgb: FrameSource) -> None:
    """Write one frame as PNG or JPEG; the file appears whole or not at all.

    Args:
        path: ends in ``.png``, ``.jpg`` or ``.jpeg``.
        rgb: a frame as in :func:`to_rgb`.

    Raises:
        ValueError: the suffix or the frame is wrong.
        FileNotFoundError: the folder does not exist.
    """
    path, image = Path(path), Image.fromarray(to_rgb(rgb))
    _check_suffix(path, (".png", ".jpg", ".jpeg"))
    temporary, good = _temporary(path), False
    try:
        image.save(temporary, quality=95)
        good = True
    finally:
        _publish(temporary, path, good=good)


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
    temporary, good = _temporary(path), False
    try:
        first.save(temporary, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        good = True
    finally:
        _publish(temporary, path, good=good)


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


def _temporary(path: Path) -> Path:
    """Return a name beside the path; the suffix stays, it tells the writers the format."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}: create it first.")
    return path.with_name(f".{secrets.token_hex(4)}-{path.name}")


def _publish(temporary: Path, path: Path, *, good: bool) -> None:
    """Give a finished file its name; whatever goes wrong, no temporary file stays."""
    try:
        if good:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
