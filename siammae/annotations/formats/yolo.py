"""YOLO segmentation text: a file for each image, a line ``class x y x y ...`` for each piece, sizes as 1.

Source: docs.ultralytics.com/datasets/segment; ultralytics/data/utils.py, ``polygon2mask``: corners are cut down to
whole pixels and filled with their outline by OpenCV, so we write the middle of pixels: 0.5 of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import finite, inside, read_text, whole_number
from siammae.annotations.model import Annotations, FrameLabels, VideoObject
from siammae.frames.outlines import fill_outline, outlines

_NAMES = "data.yaml"


@dataclass(frozen=True)
class _File:
    size: tuple[int, int]
    files: dict[int, Path]

    def frames(self) -> Iterator[FrameLabels]:
        for index, path in sorted(self.files.items()):
            masks: dict[int, NDArray[np.bool_]] = {}
            for number, line in enumerate(read_text(path).splitlines(), 1):
                if line.strip():
                    key, mask = self._piece(line.split(), f"{path}, line {number}")
                    masks[key] = masks[key] | mask if key in masks else mask
            yield FrameLabels(index, masks, name=path.stem)

    def _piece(self, fields: list[str], place: str) -> tuple[int, NDArray[np.bool_]]:
        if len(fields) < 7 or len(fields) % 2 == 0:
            raise ValueError(
                f"{place} has {len(fields)} numbers: it must be class x y x y and so on, three corners or more."
            )
        corners = np.array([finite(field, "a corner", place) for field in fields[1:]]).reshape(-1, 2)
        if corners.min() < 0 or corners.max() > 1:
            raise ValueError(f"{place}: a corner is {corners.min()} or {corners.max()}: they must be 0 to 1.")
        height, width = self.size
        pixels = np.minimum(np.floor(corners * (width, height) + 1e-6), (width - 1, height - 1)).astype(np.int32)
        return whole_number(fields[0], "the class", place) + 1, fill_outline(pixels, self.size)


def _recognise(path: Path) -> bool:
    folder = path / "labels" if (path / "labels").is_dir() else path
    first = next(iter(sorted(folder.glob("*.txt"))), None) if path.is_dir() else None
    if first is None:
        return False
    with first.open(encoding="utf-8", errors="replace") as file:
        fields = file.readline(100_000).split()
    return not fields or (len(fields) >= 7 and len(fields) % 2 == 1 and fields[0].isdecimal())


def _read(path: Path, opening: Opening) -> Annotations:
    size = opening.need_size(path)
    folder = path / "labels" if (path / "labels").is_dir() else path
    placed: dict[int, Path] = {}
    for file in sorted(folder.glob("*.txt")):
        index = opening.frame_index(file.stem, folder)
        if index in placed:
            raise ValueError(f"{folder}: {placed[index].name} and {file.name} are both of frame {index}.")
        placed[index] = file
    names = _names(path / _NAMES)
    objects = tuple(VideoObject(number + 1, category=name) for number, name in enumerate(names))
    return Annotations(_File(size, placed).frames, objects, size=size, frame_count=opening.frame_count)


def _names(path: Path) -> list[str]:
    """Read the names of classes where the file is one that we wrote: a line ``  0: name`` for each."""
    if not path.is_file():
        return []
    lines = [line.strip().partition(": ") for line in read_text(path).splitlines() if line.startswith("  ")]
    return [name.strip("'") for number, _, name in lines if number.isdecimal()]


def _write(path: Path, annotations: Annotations) -> dict[Feature, int]:
    (path / "labels").mkdir(parents=True)
    described = dict.fromkeys(one.category for one in annotations.objects if one.category)
    classes = {name: number for number, name in enumerate(described)}
    filled = shared = 0
    first: dict[str, int] = {}  # the object that a class was met with
    for frame in annotations:
        lines, solid = [], False
        named = {key: annotations.object(key).category or f"object {key}" for key in sorted(frame.masks)}
        shared += any(first.setdefault(name, key) != key for key, name in named.items())
        for key, name in named.items():
            number, mask = classes.setdefault(name, len(classes)), frame.masks[key]
            pieces = outlines(mask)
            lines += [_line(number, piece, mask.shape) for piece in pieces]
            solid |= any((fill_outline(piece, (mask.shape[0], mask.shape[1])) & ~mask).any() for piece in pieces)
        filled += solid
        file = inside(path / "labels", f"{frame.name or f'{frame.index:06d}'}.txt")
        file.write_text("".join(lines), "utf-8")
    rows = "".join(f"  {number}: '{_clean(name)}'\n" for name, number in classes.items())
    (path / _NAMES).write_text(f"names:\n{rows}", "utf-8")
    return {Feature.HOLES: filled, Feature.ALIKE: shared}


def _line(number: int, outline: NDArray[np.int32], size: tuple[int, ...]) -> str:
    corners = (outline + 0.5) / (size[1], size[0])
    return f"{number} {' '.join(f'{corner:.8f}' for corner in corners.ravel())}\n"


def _clean(name: str) -> str:
    return "".join(sign for sign in name if sign.isprintable() and sign != "'")


YOLO = Format(
    name="yolo",
    title="YOLO segmentation text (Ultralytics): labels/*.txt and data.yaml",
    pixels=(
        "x / width and y / height with edges of pixels at whole numbers (ultralytics/data/utils.py, polygon2mask): the "
        "middle of pixels is written, and corners are cut down to whole pixels when read."
    ),
    recognise=_recognise,
    read=_read,
    write=_write,
    holds=frozenset({Feature.MASKS, Feature.OVERLAP, Feature.CATEGORIES, Feature.EMPTY}),
    limits=(
        "lines have a class and no object: all of a class are one object when read. Holes are filled. It does not say "
        "how large frames are."
    ),
)
