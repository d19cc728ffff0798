"""Image files: which ones a folder holds and in what order, and their pages, decoded one at a time."""

from __future__ import annotations

import io
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from siammae.errors import VideoReadError, printable
from siammae.frames.files import PathLike, require_regular
from siammae.frames.rgb import check_area, check_depth, to_rgb

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"})
PICTURE_SUFFIXES = IMAGE_SUFFIXES | {".gif"}  # a GIF is a video as a rule, which training tells from images
_FORMATS = {".jpeg": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}  # other suffixes of one format
# In a folder these are frames too, though not to be read here: without them a video would have holes.
_OTHER_PICTURES = frozenset(
    {".jpe", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga", ".exr", ".hdr"}
    | {".dib", ".apng", ".mpo", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm"}
)
_WITH_PAGES = frozenset({".gif", ".png", ".webp", ".tif", ".tiff"})  # a JPEG's others are previews and gain maps
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101  # a TIFF's tag and its bits
_ORIENTATION = 274  # EXIF's tag


class Page(NamedTuple):
    """One frame among image files."""

    path: Path
    number: int


def list_pages(path: Path, leave_out: Collection[PathLike] = (), *, notice: bool = False) -> list[Page] | None:
    """List the frames of an image or of a folder of images, None for any other file.

    The pages of an animated GIF, WebP or PNG and of a TIFF are frames one after the other; a TIFF's reduced copies and
    masks, and an animated PNG's still picture for old readers, are none.

    Args:
        path: a file or folder.
        leave_out: files that are no frames, wherever they lie.
        notice: log which other files of the folder are not read.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: a folder does not hold the images of one video, or a file's pages cannot be counted.
    """
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}: it must be a video file, an image or a folder of images.")
    if path.is_dir():
        images = _images_of(path, {Path(file).resolve() for file in leave_out}, notice)
        return [Page(image, number) for image in images for number in _page_numbers(image)]
    require_regular(path)
    return [Page(path, number) for number in _page_numbers(path)] if path.suffix.lower() in PICTURE_SUFFIXES else None


def _images_of(folder: Path, leave_out: Collection[Path], notice: bool) -> list[Path]:
    """Return the frames of a folder in natural order; what may be frames of two videos is refused."""
    files = [file for file in folder.iterdir() if file.name[0] != "." and not file.is_dir()]
    files = [file for file in files if not leave_out or file.resolve() not in leave_out]
    kinds = Counter(_format(file) for file in files)
    images = sorted((file for file in files if file.suffix.lower() in PICTURE_SUFFIXES), key=_natural)
    pictures = {kind: count for kind, count in kinds.items() if kind in PICTURE_SUFFIXES | _OTHER_PICTURES}
    if not images:
        there = f" It holds {_counted(pictures)}: convert them." if pictures else ""
        raise VideoReadError(
            f"no images in {folder}: a folder must hold {', '.join(sorted(PICTURE_SUFFIXES))} files.{there}"
        )
    if len(pictures) > 1:
        raise VideoReadError(
            f"{folder} holds {_counted(pictures)} files: the frames of one video must be of one format, and other "
            "pictures, such as masks, in a folder of their own. Move or convert those that are not its frames."
        )
    for first, second in pairwise(images):
        if first.stem == second.stem:
            raise VideoReadError(
                f"{folder} holds {first.name} and {second.name}, two files for one frame. Move one away."
            )
    if notice and len(files) > len(images):
        others = {kind: count for kind, count in kinds.items() if kind not in pictures}
        frames, rest = _counted(pictures), printable(_counted(others))
        logger.warning("%s: %s files are the frames, %s not read", printable(str(folder)), frames, rest)
    return images


def _format(file: Path) -> str:
    suffix = file.suffix.lower()
    return _FORMATS.get(suffix, suffix or file.name)


def _counted(kinds: dict[str, int]) -> str:
    """Write what there is as ``10 .jpg and 1 .png``."""
    return " and ".join(
        f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())  # text and digits take turns, so like meets like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _page_numbers(path: Path) -> Sequence[int]:
    """Return the pages that are frames; of a file that does not open the first, whose decoding will say why."""
    if path.suffix.lower() not in _WITH_PAGES:
        return (0,)
    with ExitStack() as opened, _explained(str(path), 0):
        try:
            image = opened.enter_context(open_image(path))
        except Exception:  # as in _explained
            return (0,)
        count = int(getattr(image, "n_frames", 1))
        if image.format == "TIFF" and count > 1:
            return [number for number in range(count) if not _is_extra(image, number)] or (0,)
        return range(1 if image.format == "PNG" and image.info.get("default_image") else 0, count)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file undecoded, for the time of the block.

    Raises:
        VideoReadError: it is a pipe or the like; and whatever Pillow raises.
    """
    require_regular(path)
    with _Bounded(io.FileIO(path)) as file, Image.open(file) as image:
        yield image


class _Bounded(io.BufferedReader):
    """A file that hands out no more than it has: others take memory for whatever length a picture claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _is_extra(image: Image.Image, number: int) -> bool:
    """Tell a TIFF's reduced copies and masks from pages of their own."""
    image.seek(number)
    tags: dict[int, int] = getattr(image, "tag_v2", {})
    return bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK)


def page_rate(pages: Sequence[Page]) -> float:
    """Return the frames per second of an animated image by how long its first page is shown, 0 if it does not say."""
    if len(pages) < 2:
        return 0.0
    path, first = pages[0]
    with _explained(str(path), 0), open_image(path) as image:
        check_area(image.size[::-1], str(path))
        image.seek(first)
        image.load()  # WebP says it with the picture
        milliseconds = float(image.info.get("duration", 0))
    return 1000 / milliseconds if milliseconds > 0 else 0.0


def read_pages(pages: Sequence[Page], picks: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the picked frames with their numbers, which must rise; a file stays open while its pages are read."""
    for path, numbers in groupby(picks, key=lambda index: pages[index].path):
        with ExitStack() as opened:
            image: Image.Image | None = None
            for index in numbers:
                with _explained(str(path), index):
                    image = image or opened.enter_context(open_image(path))
                    image.seek(pages[index].number)
                    frame = _decode(image, str(path), index)
                yield index, frame


def decode_image(source: BinaryIO, name: str, index: int) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or other image upright, its first page; ``name`` and ``index`` say in messages what it is."""
    with _explained(name, index), Image.open(source) as image:
        return _decode(image, name, index)


def open_page(path: Path) -> Image.Image:
    """Open an image of one page, upright and decoded.

    Raises:
        VideoReadError: it does not decode, is too large, or has several pages.
    """
    with _explained(str(path), 0), open_image(path) as image:
        check_area(image.size[::-1], str(path))
        if len(pages := _page_numbers(path)) > 1:
            raise VideoReadError(f"{path} has {len(pages)} pages: it must have one. Save the one that is meant.")
        image.load()
        upright = image if _is_upright(image) else ImageOps.exif_transpose(image)
        upright.format = image.format
        return upright


def _decode(image: Image.Image, name: str, index: int) -> NDArray[np.uint8]:
    check_area(image.size[::-1], name)
    deep = ";16" in str(getattr(image, "tile", ""))  # Pillow keeps the upper 8 of 16 bits where there are colours
    rgb = to_rgb(image if _is_upright(image) else ImageOps.exif_transpose(image), index=index)
    if deep and image.mode[0] != "I":
        check_depth(256 * int(rgb.max()), index)
    return rgb


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) in (0, 1)


@contextmanager
def _explained(name: str, index: int) -> Iterator[None]:
    """Name the file in whatever goes wrong: for a damaged one Pillow raises nearly any kind of exception."""
    try:
        yield
    except (VideoReadError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise VideoReadError(f"{name} has too many pixels for Pillow. Make it smaller.", frame_index=index) from error
    except Exception as error:
        raise VideoReadError(f"{name} cannot be read as an image: {error}", frame_index=index) from error
