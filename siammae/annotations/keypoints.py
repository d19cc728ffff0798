"""Keypoints of a video as CSV, in the form of ``siammae track``: frame, name, x, y, confidence."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.outputs import whole

_COLUMNS = ("frame", "name", "x", "y", "confidence")
FramePoints = tuple[NDArray[np.float32], NDArray[np.float32]]  # points (N, 2) and confidence (N,)
_Row = Mapping[str, str | None]


def write_tracks(path: Path, names: Sequence[str], frames: Iterable[FramePoints]) -> None:
    """Write one line for each keypoint in each frame; the file appears once all are in it.

    Args:
        path: of the file; missing folders are made.
        names: of the keypoints.
        frames: the keypoints ``(N, 2)`` of each frame. All digits of float32 are written, so that what is read again
            is equal.
    """
    with whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for index, (points, confidence) in enumerate(frames):
            for name, (x, y), sure in zip(names, points, confidence, strict=True):
                rows.writerow([index, name, str(x), str(y), str(sure)])


def read_tracks(path: Path, names: Sequence[str], frames: int) -> NDArray[np.float32]:
    """Read keypoints, of which every frame must have all; the lines may come in any order.

    Args:
        path: of the file; further columns are not read.
        names: of the keypoints.
        frames: how many the video has.

    Returns:
        x, y of ``names`` in that order, ``(frames, len(names), 2)`` float32.

    Raises:
        ValueError: a column, a line or a value is missing, surplus or no number; the message names the line.
    """
    points = np.full((frames, len(names), 2), np.nan, np.float32)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS[:4] if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {missing[0]}: the first line must be {','.join(_COLUMNS)}.")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            index, keypoint = _frame(row, frames, place), _keypoint(row, names, place)
            if not np.isnan(points[index, keypoint, 0]):
                raise ValueError(f"{place}: frame {index} has {names[keypoint]!r} twice.")
            points[index, keypoint] = _point(row, place)
    if (gaps := np.argwhere(np.isnan(points[..., 0]))).size:
        index, keypoint = gaps[0]
        raise ValueError(f"{path} has no {names[keypoint]!r} in frame {index}: all of the {frames} frames need it.")
    return points


def _frame(row: _Row, frames: int, place: str) -> int:
    text = row["frame"] or ""
    if not (text.strip().isdecimal() and int(text) < frames):
        raise ValueError(f"{place}: frame is {text!r}: the video has the frames 0 to {frames - 1}.")
    return int(text)


def _keypoint(row: _Row, names: Sequence[str], place: str) -> int:
    name = (row["name"] or "").strip()
    if name not in names:
        raise ValueError(f"{place}: name is {name!r}: known are {', '.join(names)}.")
    return names.index(name)


def _point(row: _Row, place: str) -> tuple[float, float]:
    try:
        x, y = float(row["x"] or ""), float(row["y"] or "")
    except ValueError:
        raise ValueError(f"{place}: x is {row['x']!r} and y {row['y']!r}: they must be numbers.") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{place}: x is {x} and y {y}: they must be finite. -1,-1 says that nothing is visible.")
    return x, y
