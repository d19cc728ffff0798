"""MOTS text: a line for each object in each frame, ``frame id class height width rle``.

Source: vision.rwth-aachen.de/page/mots; VisualComputingInstitute/mots_tools, mots_common/io.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_size, read_text, same_size, whole_number
from siammae.annotations.formats.rle import decode, encode
from siammae.annotations.model import Annotations, FrameLabels, VideoObject

_CLASSES = {1: "car", 2: "pedestrian"}
_IGNORE, _IGNORE_ID = 10, 10_000
_OTHER = 3  # objects that are neither car nor pedestrian
_LINE = re.compile(r"\d+ \d+ \d+ \d+ \d+ \S+$")


@dataclass(frozen=True)
class _File:
    place: Path
    size: tuple[int, int]
    lines: dict[int, list[tuple[int, int, str]]]  # by frame: object, class, counts

    def frames(self) -> Iterator[FrameLabels]:
        for index, lines in sorted(self.lines.items()):
            masks: dict[int, NDArray[np.bool_]] = {}
            void = None
            for key, kind, counts in lines:
                place = f"{self.place}, frame {index}"
                mask = decode({"size": list(self.size), "counts": counts}, self.size, place)
                if kind == _IGNORE:
                    void = mask if void is None else void | mask
                elif key in masks:
                    raise ValueError(f"{place} has object {key} twice.")
                else:
                    masks[key] = mask
            yield FrameLabels(index, masks, void=void)


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".txt" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _LINE.match(file.readline(1_000_000).rstrip("\n")) is not None


def _read(path: Path, opening: Opening) -> Annotations:
    size = opening.size
    lines: dict[int, list[tuple[int, int, str]]] = {}
    kinds: dict[int, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        place = f"{path}, line {number}"
        fields = line.split(" ")
        if len(fields) != 6:
            raise ValueError(f"{place} has {len(fields)} fields: it must be frame id class height width rle.")
        frame, key, kind, height, width = (whole_number(field, "a field", place) for field in fields[:5])
        size = same_size(check_size(height, width, place), size, place)
        if kind != _IGNORE and kinds.setdefault(key, kind) != kind:
            raise ValueError(f"{place}: object {key} is of class {kind} but was of {kinds[key]}.")
        lines.setdefault(opening.numbered(frame, place), []).append((key, kind, fields[5]))
    if size is None or not lines:
        raise ValueError(f"{path} has no lines.")
    if shift := int(0 in kinds):  # our objects count from 1
        lines = {frame: [(key + shift, kind, counts) for key, kind, counts in row] for frame, row in lines.items()}
    objects = tuple(VideoObject(key + shift, category=_CLASSES.get(kind, "")) for key, kind in sorted(kinds.items()))
    return Annotations(_File(path, size, lines).frames, objects, size=size, frame_count=opening.frame_count)


def _write(path: Path, annotations: Annotations) -> None:
    numbers = {name: number for number, name in _CLASSES.items()}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for frame in annotations:
            rows = [
                (key, numbers.get(annotations.object(key).category, _OTHER), mask)
                for key, mask in sorted(frame.masks.items())
            ]
            if frame.void is not None:
                rows.append((_IGNORE_ID, _IGNORE, frame.void))
            named = re.search(r"(\d{1,9})\D*$", frame.name)
            number = int(named[1]) if named else frame.index  # as it is read again
            for key, kind, mask in rows:
                file.write(f"{number} {key} {kind} {mask.shape[0]} {mask.shape[1]} {encode(mask)['counts']}\n")


MOTS = Format(
    name="mots",
    title="MOTS text (KITTI MOTS, MOTSChallenge): frame id class height width rle",
    pixels="none: RLE of pixels, as in pycocotools.",
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".txt",
    holds=frozenset({Feature.MASKS, Feature.HOLES, Feature.ALIKE, Feature.VOID}),
    categories=frozenset(_CLASSES.values()),
    limits=(
        "classes are 1 car, 2 pedestrian, 10 void; all else is written as 3. Frames keep their number; with a folder "
        "of images as the video, a number is that in the image's name (MOTSChallenge counts from 1)."
    ),
)
