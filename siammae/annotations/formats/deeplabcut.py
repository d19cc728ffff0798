"""DeepLabCut CSV: x, y and likelihood of each body part; three header rows, or four with several animals.

Source: DeepLabCut/DeepLabCut, docs/convert_maDLC.md and deeplabcut/pose_estimation_tensorflow/predict_videos.py. Files
of labelling (``CollectedData_*.csv``) have x and y only, and the path of an image in place of a frame's number.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_bytes, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility

_SCORER = "siammae"
_VALUES = ("x", "y", "likelihood")
_LEVELS = ("scorer", "individuals", "bodyparts", "coords")
_SINGLE = "single"  # DeepLabCut's name for body parts that belong to no animal
_FIELD_LIMIT = 10_000


class Layout(NamedTuple):
    """What the columns are.

    Attributes:
        animals: names, in order; a single one is empty where there is no row of individuals.
        joints: names, in order.
        columns: for each the animal, the joint and 0, 1, 2 for x, y, likelihood.
        by_hand: there is no likelihood: a person made the labels.
    """

    animals: tuple[str, ...]
    joints: tuple[str, ...]
    columns: list[tuple[int, int, int]]
    by_hand: bool

    def keypoints(self, values: Sequence[float]) -> dict[int, Keypoints]:
        """Return what a line says of each animal that is there."""
        table = np.full((len(self.animals), len(self.joints), 3), np.nan)
        table[..., 2] = 1
        for place, value in zip(self.columns, values, strict=True):
            table[place] = value
        found = (
            (key, Keypoints.of(rows[:, :2], confidence=np.nan_to_num(rows[:, 2]))) for key, rows in enumerate(table, 1)
        )
        return {key: some for key, some in found if some.visibility.any()}

    def annotations(self, frames: Callable[[], Iterator[FrameLabels]], opening: Opening) -> Annotations:
        """Describe the labels."""
        objects = tuple(VideoObject(key, name=name) for key, name in enumerate(self.animals, 1))
        return Annotations(frames, objects, self.joints, size=opening.size, frame_count=opening.frame_count)


def read_layout(header: Mapping[str, Sequence[str]], path: Path) -> Layout:
    """Read the header rows, by their names, without what stands before the first column of values.

    Raises:
        ValueError: one is missing, or they do not fit together.
    """
    if missing := [level for level in ("bodyparts", "coords") if level not in header]:
        raise ValueError(f"{path} has no header row {missing[0]!r}: DeepLabCut's are scorer, bodyparts and coords.")
    parts, coords = header["bodyparts"], header["coords"]
    owners = header.get("individuals", [_SINGLE] * len(coords))
    if not len(parts) == len(coords) == len(owners) <= _FIELD_LIMIT:
        raise ValueError(
            f"{path}: the header rows have {len(parts)} and {len(coords)} columns: they must have as many."
        )
    if not coords or any(what not in _VALUES for what in coords):
        raise ValueError(f"{path}: the row coords must say x, y or likelihood for each column.")
    animals, joints = list(dict.fromkeys(owners)), tuple(dict.fromkeys(parts))
    columns = [
        (animals.index(owner), joints.index(part), _VALUES.index(what))
        for owner, part, what in zip(owners, parts, coords, strict=True)
    ]
    if len(set(columns)) != len(columns):
        raise ValueError(f"{path} has a column twice: a body part has one x, y and likelihood.")
    named = tuple(animals) if "individuals" in header else ("",)
    return Layout(named, joints, columns, "likelihood" not in coords)


@dataclass(frozen=True)
class _File:
    path: Path
    opening: Opening
    layout: Layout
    header: int  # rows
    first: int  # column of values

    def frames(self) -> Iterator[FrameLabels]:
        """Read line by line."""
        last = -1
        width = len(self.layout.columns)
        for number, row in _lines(self.path):
            if number <= self.header or not row:
                continue
            place = f"{self.path}, line {number}"
            index, name = self._frame(row, place)
            if index <= last:
                raise ValueError(f"{place}: frame {index} comes after frame {last}: lines must go by frame upwards.")
            last = index
            values = [_number(value, place) for value in row[self.first : self.first + width]]
            values += [math.nan] * (width - len(values))
            keypoints = self.layout.keypoints(values)
            yield FrameLabels(index, keypoints=keypoints, by_person=self.layout.by_hand or None, name=name)

    def _frame(self, row: list[str], place: str) -> tuple[int, str]:
        """Return the index and the image's name: a number, or a path in one field or in three."""
        if row[0].strip().isdecimal():
            return whole_number(row[0], "the frame", place), ""
        image = next((field for field in reversed(row[: self.first]) if field), "")
        return self.opening.frame_index(image, place), Path(image.replace("\\", "/")).stem


def _number(text: str, place: str) -> float:
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise ValueError(f"{place}: {text[:40]!r} must be a number, or empty where a body part is missing.") from None
    if math.isinf(value):
        raise ValueError(f"{place}: {text[:40]!r} must be finite.")
    return value


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
    coords = header.get("coords", [])
    first = next((place for place, what in enumerate(coords) if what in _VALUES), len(coords))
    layout = read_layout({level: row[first:] for level, row in header.items()}, path)
    return layout.annotations(_File(path, opening, layout, len(header), first).frames, opening)


def _write(path: Path, annotations: Annotations) -> None:
    keys, levels = write_layout(annotations)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        for level, cells in levels.items():
            rows.writerow([level, *cells])
        for frame in annotations:
            row: list[object] = [frame.index]
            for key in keys:
                row += _values(frame.keypoints.get(key), len(annotations.joints))
            rows.writerow(row)


def write_layout(annotations: Annotations) -> tuple[list[int], dict[str, list[str]]]:
    """Return the objects that have keypoints, and the header rows; a first walk through the labels finds them.

    Raises:
        ValueError: two objects have one name.
    """
    keys = sorted({key for frame in annotations for key in frame.keypoints})
    names = [annotations.object(key).name for key in keys]
    if len(keys) > 1:
        names = [name or f"individual{key}" for key, name in zip(keys, names, strict=True)]
    if len(set(names)) != len(names):
        raise ValueError(f"two objects are called {names}: DeepLabCut tells animals apart by name. Rename one.")
    columns = [(name, joint, what) for name in names for joint in annotations.joints for what in _VALUES]
    levels = {"scorer": [_SCORER] * len(columns), "individuals": [name for name, _, _ in columns]}
    if not any(names):
        del levels["individuals"]
    return keys, levels | {"bodyparts": [joint for _, joint, _ in columns], "coords": [what for _, _, what in columns]}


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
    limits="labels are walked through twice when written, since the header names all animals.",
)
