"""DeepLabCut CSV: x, y and likelihood of each body part; three header rows, or four with several animals.

Source: DeepLabCut/DeepLabCut, docs/convert_maDLC.md and deeplabcut/pose_estimation_tensorflow/predict_videos.py. Files
of labelling (``CollectedData_*.csv``) have x and y only, and the path of an image in place of a frame's number.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_bytes, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility

_SCORER = "siammae"
_LEVELS = ("scorer", "individuals", "bodyparts", "coords")
_SINGLE = "single"  # DeepLabCut's name for body parts that belong to no animal
_FIELD_LIMIT = 10_000


@dataclass(frozen=True)
class _Column:
    animal: int
    joint: int
    what: str  # x, y or likelihood


@dataclass(frozen=True)
class _File:
    path: Path
    opening: Opening
    columns: list[tuple[int, _Column]]  # by the place in a line
    header: int
    animals: int
    joints: int
    by_hand: bool

    def frames(self) -> Iterator[FrameLabels]:
        """Read line by line."""
        last = -1
        for number, row in _lines(self.path):
            if number <= self.header or not row:
                continue
            place = f"{self.path}, line {number}"
            index, name = self._frame(row, place)
            if index <= last:
                raise ValueError(f"{place}: frame {index} comes after frame {last}: lines must go by frame upwards.")
            last = index
            table = np.full((self.animals, self.joints, 3), np.nan)
            table[..., 2] = 1
            for column, what in self.columns:
                value = row[column] if column < len(row) else ""
                table[what.animal, what.joint, ("x", "y", "likelihood").index(what.what)] = _number(value, place)
            keypoints = {key: some for key, some in enumerate(map(_keypoints, table), 1) if some.visibility.any()}
            yield FrameLabels(index, keypoints=keypoints, by_person=self.by_hand or None, name=name)

    def _frame(self, row: list[str], place: str) -> tuple[int, str]:
        """Return the index and the image's name: a number, or a path in one field or in three."""
        if row[0].strip().isdecimal():
            return whole_number(row[0], "the frame", place), ""
        first = min(column for column, _ in self.columns)
        image = next((field for field in reversed(row[:first]) if field), "")
        return self.opening.frame_index(image, place), Path(image.replace("\\", "/")).stem


def _number(text: str, place: str) -> float:
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise ValueError(f"{place}: {text[:40]!r} must be a number, or empty where a body part is missing.") from None
    if math.isinf(value):
        raise ValueError(f"{place}: {text[:40]!r} must be finite.")
    return value


def _keypoints(table: NDArray[np.float64]) -> Keypoints:
    return Keypoints.of(table[:, :2], confidence=np.nan_to_num(table[:, 2]))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        csv.field_size_limit(131_072)
        try:
            yield from enumerate(csv.reader(file), 1)
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV: {error}.") from None


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(7) == "scorer,"


def _read(path: Path, opening: Opening) -> Annotations:
    check_bytes(path)
    header: dict[str, list[str]] = {}
    for number, row in _lines(path):
        if number > len(_LEVELS) or not row or row[0] not in _LEVELS:
            break
        header[row[0]] = row
    if missing := [level for level in ("bodyparts", "coords") if level not in header]:
        raise ValueError(f"{path} has no header row {missing[0]!r}: DeepLabCut's are scorer, bodyparts and coords.")
    parts, coords = header["bodyparts"], header["coords"]
    owners = header.get("individuals", [_SINGLE] * len(coords))
    if not len(parts) == len(coords) == len(owners) <= _FIELD_LIMIT:
        raise ValueError(
            f"{path}: the header rows have {len(parts)} and {len(coords)} columns: they must have as many."
        )
    start = next((place for place, what in enumerate(coords) if what in ("x", "y", "likelihood")), len(coords))
    if start == len(coords) or any(what not in ("x", "y", "likelihood") for what in coords[start:]):
        raise ValueError(f"{path}: the row coords must say x, y or likelihood for each column.")
    animals, joints = list(dict.fromkeys(owners[start:])), tuple(dict.fromkeys(parts[start:]))
    columns = [
        (place, _Column(animals.index(owners[place]), joints.index(parts[place]), coords[place]))
        for place in range(start, len(coords))
    ]
    if len({column for _, column in columns}) != len(columns):
        raise ValueError(f"{path} has a column twice: a body part has one x, y and likelihood.")
    by_hand = "likelihood" not in coords
    file = _File(path, opening, columns, len(header), len(animals), len(joints), by_hand)
    named = [name if "individuals" in header else "" for name in animals]
    objects = tuple(VideoObject(key, name=name) for key, name in enumerate(named, 1))
    return Annotations(file.frames, objects, joints, size=opening.size, frame_count=opening.frame_count)


def _write(path: Path, annotations: Annotations) -> None:
    keys, named = _animals(annotations)
    several = len(keys) > 1 or any(named)
    joints = annotations.joints
    columns = [(animal, joint, what) for animal in named for joint in joints for what in ("x", "y", "likelihood")]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["scorer", *[_SCORER] * len(columns)])
        if several:
            rows.writerow(["individuals", *(animal for animal, _, _ in columns)])
        rows.writerow(["bodyparts", *(joint for _, joint, _ in columns)])
        rows.writerow(["coords", *(what for _, _, what in columns)])
        for frame in annotations:
            row: list[object] = [frame.index]
            for key in keys:
                row += _values(frame.keypoints.get(key), len(joints))
            rows.writerow(row)


def _animals(annotations: Annotations) -> tuple[list[int], list[str]]:
    """Return the objects that have keypoints, and their names; a first walk through the labels finds them."""
    keys = sorted({key for frame in annotations for key in frame.keypoints})
    names = [annotations.object(key).name for key in keys]
    if len(keys) > 1:
        names = [name or f"individual{key}" for key, name in zip(keys, names, strict=True)]
    if len(set(names)) != len(names):
        raise ValueError(f"two objects are called {names}: DeepLabCut tells animals apart by name. Rename one.")
    return keys, names


def _values(some: Keypoints | None, joints: int) -> list[object]:
    if some is None:
        return [""] * (3 * joints)
    return [
        value
        for (x, y), seen, sure in zip(some.points, some.visibility, some.confidence, strict=True)
        for value in (("", "", "") if seen == Visibility.MISSING else (repr(float(x)), repr(float(y)), str(sure)))
    ]


DEEPLABCUT = Format(
    name="deeplabcut",
    title="DeepLabCut CSV: three header rows, four with several animals",
    pixels="pixel (0, 0) has its centre at 0, as here (DeepLabCut/DeepLabCut #2906). Nothing is shifted.",
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".csv",
    holds=frozenset({Feature.POINTS, Feature.SEVERAL, Feature.POINT_CONFIDENCE, Feature.NAMES, Feature.EMPTY}),
    limits="labels are walked through twice when written, since the header names all animals. H5 is not read.",
)
