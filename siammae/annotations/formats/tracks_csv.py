"""The CSV of ``siammae track``: frame, name, x, y, confidence; one line for each keypoint in each frame."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_bytes, finite, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility
from siammae.annotations.tables import table_rows

_COLUMNS = ("frame", "name", "x", "y", "confidence")
_NOWHERE = (-1.0, -1.0)  # how the file says that nothing is visible


@dataclass(frozen=True)
class _File:
    joints: tuple[str, ...]
    rows: dict[int, dict[str, tuple[float, float, float]]]

    def frames(self) -> Iterator[FrameLabels]:
        for index, named in sorted(self.rows.items()):
            table = np.array([named.get(joint, (math.nan, math.nan, 0)) for joint in self.joints])
            table[(table[:, :2] == _NOWHERE).all(axis=1), :2] = np.nan
            some = Keypoints.of(table[:, :2], confidence=table[:, 2])
            yield FrameLabels(index, keypoints={1: some} if some.visibility.any() else {})


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return set(_COLUMNS[:4]) <= {name.strip() for name in file.readline(10_000).split(",")}


def _read(path: Path, opening: Opening) -> Annotations:
    check_bytes(path)
    rows: dict[int, dict[str, tuple[float, float, float]]] = {}
    joints: dict[str, None] = {}
    for place, row in table_rows(path, _COLUMNS[:4], ",".join(_COLUMNS), known=_COLUMNS[4:]):
        name, frame = row["name"] or "", whole_number(row["frame"], "frame", place)
        joints[name] = None
        if name in rows.setdefault(frame, {}):
            raise ValueError(f"{place}: frame {frame} has {name!r} twice.")
        sure = finite(row.get("confidence") or 1, "confidence", place)
        rows[frame][name] = (finite(row["x"], "x", place), finite(row["y"], "y", place), sure)
    named = tuple(joints)
    return Annotations(
        _File(named, rows).frames, (VideoObject(1),), named, size=opening.size, frame_count=opening.frame_count
    )


def _write(path: Path, annotations: Annotations) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for frame in annotations:
            for some in frame.keypoints.values():
                for name, (x, y), seen, sure in zip(
                    annotations.joints, some.points, some.visibility, some.confidence, strict=True
                ):
                    if seen != Visibility.MISSING and (x, y) == _NOWHERE:
                        raise ValueError(f"frame {frame.index}: {name!r} is at -1, -1, which says: nothing there.")
                    place = _NOWHERE if seen == Visibility.MISSING else (float(x), float(y))
                    rows.writerow([frame.index, name, *map(repr, place), str(sure)])


TRACKS = Format(
    name="tracks",
    title="CSV of siammae track: frame, name, x, y, confidence",
    pixels="pixel (0, 0) has its centre at 0: it is the library's own.",
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".csv",
    holds=frozenset({Feature.POINTS, Feature.POINT_CONFIDENCE}),
    limits="one object; a joint at -1, -1 is missing.",
)
