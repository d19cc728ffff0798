"""Plain stacks of ids ``(T, H, W)``: NPY, and TIFF with a page for each frame; 16 bits and more are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siammae.annotations.formats.format import Format, Opening
from siammae.annotations.formats.guards import check_size, same_size
from siammae.annotations.model import Annotations, FrameLabels
from siammae.errors import one_line
from siammae.frames import open_image


def _labels(index: int, ids: NDArray[np.integer], place: Path) -> FrameLabels:
    """Take a map of ids apart; 255 is an id like others here, as in every tool that writes such stacks."""
    if ids.min() < 0:
        raise ValueError(f"{place}, frame {index}: ids go down to {int(ids.min())}: 0 is background, objects go up.")
    keys = [int(key) for key in np.unique(ids) if key]
    return FrameLabels(index, {key: ids == key for key in keys})


def _recognise_npy(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() != ".npy":
        return False
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _load(path: Path) -> NDArray[Any]:
    """Map the file into memory: what its header claims is checked against its length, and no pickle is read."""
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # for a damaged header NumPy raises nearly any kind, TokenError among them
        raise ValueError(f"{path} is no NPY of numbers: {one_line(error)}.") from None
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or stack.dtype.kind not in "iub" or not len(stack):
        raise ValueError(f"{path} has {stack.shape} {stack.dtype}: it must be integers (frames, height, width).")
    return np.asanyarray(stack)


def _read_npy(path: Path, opening: Opening) -> Annotations:
    stack = _load(path)
    size = same_size(check_size(stack.shape[1], stack.shape[2], path), opening.size, path)

    def frames() -> Iterator[FrameLabels]:
        for index, ids in enumerate(stack):
            yield _labels(index, np.asarray(ids).astype(np.int64), path)

    return Annotations(frames, size=size, frame_count=len(stack))


def _recognise_tiff(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".tif", ".tiff")


def _pages(path: Path, size: tuple[int, int]) -> Iterator[FrameLabels]:
    with open_image(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            try:
                image.seek(index)
                _check_page(image, size, path)
                ids = np.asarray(image).astype(np.int64)
            except (ValueError, MemoryError):
                raise
            except Exception as error:  # for a damaged file Pillow raises nearly any kind
                raise ValueError(f"{path}, page {index} does not decode: {one_line(error)}.") from None
            yield _labels(index, ids, path)


def _check_page(image: Image.Image, size: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    """Look at a page before it is decoded."""
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise ValueError(f"{path} has pages of the mode {image.mode}: ids are whole numbers in one channel.")
    return same_size(check_size(image.height, image.width, path), size, path)


def _read_tiff(path: Path, opening: Opening) -> Annotations:
    try:
        with open_image(path) as image:
            size, pages = _check_page(image, opening.size, path), getattr(image, "n_frames", 1)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is no TIFF: {one_line(error)}.") from None
    return Annotations(partial(_pages, path, size), size=size, frame_count=pages)


NPY = Format(
    name="npy",
    title="NPY stack of ids (frames, height, width)",
    pixels="none: values are ids (numpy.org, NEP 1).",
    recognise=_recognise_npy,
    read=_read_npy,
    limits="any integers; 255 is an id here, not void. Frames are mapped, not loaded.",
)
TIFF = Format(
    name="tiff",
    title="TIFF stack of ids, a page for each frame",
    pixels="none: values are ids (TIFF 6.0).",
    recognise=_recognise_tiff,
    read=_read_tiff,
    limits="8, 16 and 32 bits; 255 is an id here, not void.",
)
