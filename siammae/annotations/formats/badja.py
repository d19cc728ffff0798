"""BADJA JSON: 37 joints of an animal in every fifth frame, as y, x. Read only.

Source: benjiebob/BADJA, code/joint_catalog.py (the 20 joints that are annotated) and badja_data.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Format, Opening
from siammae.annotations.formats.guards import entry, finite, read_json, top_keys
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility

_COUNT = 37
_JOINTS = {
    8: "upper right 1",
    9: "upper right 2",
    10: "upper right 3",
    12: "upper left 1",
    13: "upper left 2",
    14: "upper left 3",
    15: "neck",
    18: "lower right 1",
    19: "lower right 2",
    20: "lower right 3",
    22: "lower left 1",
    23: "lower left 2",
    24: "lower left 3",
    25: "tail 0",
    28: "tail 3",
    31: "tail 6",
    32: "jaw",
    33: "nose",
    35: "right ear",
    36: "left ear",
}


@dataclass(frozen=True)
class _File:
    rows: dict[int, tuple[str, Keypoints]]

    def frames(self) -> Iterator[FrameLabels]:
        for index, (name, some) in sorted(self.rows.items()):
            yield FrameLabels(index, keypoints={1: some}, by_person=True, name=name)


def _recognise(path: Path) -> bool:
    return {"image_path", "joints", "visibility"} <= top_keys(path)


def _read(path: Path, opening: Opening) -> Annotations:
    rows: dict[int, tuple[str, Keypoints]] = {}
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} has no list of images.")
    for row in content:
        name = entry(row, "image_path", path, str)
        index = opening.frame_index(name, path)
        if index in rows:
            raise ValueError(f"{path} has frame {index} twice.")
        points = _table(entry(row, "joints", path, list), 2, path)
        seen = _table([[one] for one in entry(row, "visibility", path, list)], 1, path)[:, 0] > 0
        chosen = list(_JOINTS)
        visibility = np.where(seen[chosen], np.uint8(Visibility.VISIBLE), np.uint8(Visibility.MISSING))
        rows[index] = (Path(name).stem, Keypoints.of(points[chosen, ::-1], visibility))
    joints = tuple(_JOINTS.values())
    return Annotations(
        _File(rows).frames, (VideoObject(1),), joints, size=opening.size, frame_count=opening.frame_count
    )


def _table(rows: list[object], width: int, path: Path) -> NDArray[np.float64]:
    if len(rows) != _COUNT or not all(isinstance(row, list) and len(row) == width for row in rows):
        raise ValueError(f"{path}: joints must be {_COUNT} pairs y, x and visibility as many numbers.")
    return np.array([[finite(value, "a joint", path) for value in row] for row in rows if isinstance(row, list)])


BADJA = Format(
    name="badja",
    title="BADJA JSON: joints of animals",
    pixels="y, x in pixels, drawn by OpenCV (benjiebob/BADJA): centres at whole numbers, as here; axes are swapped.",
    recognise=_recognise,
    read=_read,
    limits="the 20 annotated joints of 37; those that are not visible are missing.",
)
