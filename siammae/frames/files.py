"""Paths of frames: what lies there, image files in natural order, and their decoding."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from siammae.errors import VideoReadError
from siammae.frames.rgb import to_rgb

PathLike: TypeAlias = str | os.PathLike[str]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def image_files(path: Path) -> list[Path] | None:
    """Return the images of a folder or the one image, None for any other file."""
    if path.is_dir():
        images = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
        if not images:
            raise VideoReadError(f"no images in {path}: a folder must hold {', '.join(sorted(IMAGE_SUFFIXES))} files.")
        return sorted(images, key=_natural)
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}: it must be a video file, an image or a folder of images.")
    require_regular(path)
    return [path] if path.suffix.lower() in IMAGE_SUFFIXES else None


def require_regular(path: Path) -> None:
    """Refuse what is there but no file, before something waits for it to be written.

    Raises:
        VideoReadError: a pipe, a socket or a device lies there.
    """
    if path.exists() and not path.is_file():
        raise VideoReadError(
            f"{path} is a pipe, a socket, a device or a folder: frames are read from files. Save it as one first."
        )


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())  # text and digits take turns, so like meets like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def read_image(path: Path, index: int) -> NDArray[np.uint8]:
    """Read one image file upright; ``index`` is its number in the video."""
    require_regular(path)
    return decode_image(path, str(path), index)


def decode_image(source: Path | BinaryIO, name: str, index: int) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or other image upright; ``name`` and ``index`` say in messages what it is."""
    try:
        with Image.open(source) as image:
            return to_rgb(ImageOps.exif_transpose(image), index=index)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoReadError(f"{name} cannot be read as an image: {error}", frame_index=index) from error


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
