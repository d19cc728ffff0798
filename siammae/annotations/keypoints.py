"""Keypoints as CSV: those of annotated frames (name, x, y), and tracks (frame, name, x, y, confidence)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.tables import Row, table_rows
from siammae.outputs import whole

_COLUMNS = ("frame", "name", "x", "y", "confidence")
_DIGITS = 20  # of a frame number, and more than any has
FramePoints = tuple[NDArray[np.float32], NDArray[np.float32]]  # points (N, 2) and confidence (N,)


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


def read_points(tables: Sequence[tuple[int | None, Path]]) -> tuple[list[str], dict[int, NDArray[np.float64]]]:
    """Read the keypoints of annotated frames.

    Args:
        tables: each with the columns x, y and perhaps name and frame, in any order and spelling of capitals, and the
            number of the frame that all of it is of. With None a table with the column frame says so row by row, and
            one without is of the first frame. Further columns are not read.

    Returns:
        The names, ``point_1``, ``point_2``, ... where there are none, and for each frame x, y ``(N, 2)`` float64 in
        their order, NaN where the frame has no row for a name.

    Raises:
        ValueError: there is no keypoint, a frame has a name twice, a table with frames is said to be of one, or a table
            or a value is malformed; the message names the line.
        OSError: a file cannot be read.
    """
    frames = dict[int, dict[str, tuple[float, float]]]()
    for number, path in tables:
        found = False
        for place, row in table_rows(path, ("x", "y"), "name,x,y (or x,y)", known=("frame", "name")):
            if "frame" in row and number is not None:
                raise ValueError(f"{path} has frames of its own: leave out {number}= before it.")
            rows = frames.setdefault(_frame(row, place) if "frame" in row else number or 0, {})
            name = (row.get("name") or "").strip() or f"point_{len(rows) + 1}"
            if name in rows:
                raise ValueError(
                    f"{place}: the keypoint {name!r} is there twice: their tracks could not be told apart."
                )
            rows[name], found = _point(row, place), True
        if not found:
            raise ValueError(f"{path} holds no keypoint: write one name,x,y a line.")
    names = list(dict.fromkeys(name for rows in frames.values() for name in rows))
    return names, {
        frame: np.array([rows.get(name, (math.nan, math.nan)) for name in names]) for frame, rows in frames.items()
    }


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
    for place, row in table_rows(path, _COLUMNS[:4], ",".join(_COLUMNS)):
        index, keypoint = _frame(row, place), _keypoint(row, names, place)
        if index >= frames:
            raise ValueError(f"{place}: frame is {index}: the video has the frames 0 to {frames - 1}.")
        if not np.isnan(points[index, keypoint, 0]):
            raise ValueError(f"{place}: frame {index} has {names[keypoint]!r} twice.")
        points[index, keypoint] = _point(row, place)
    if (gaps := np.argwhere(np.isnan(points[..., 0]))).size:
        index, keypoint = gaps[0]
        raise ValueError(f"{path} has no {names[keypoint]!r} in frame {index}: all of the {frames} frames need it.")
    return points


def _frame(row: Row, place: str) -> int:
    text = row["frame"] or ""
    if not (text.strip().isdecimal() and len(text) < _DIGITS):
        raise ValueError(f"{place}: frame is {text[:_DIGITS]!r}: frames are counted 0, 1, 2, ...")
    return int(text)


def _keypoint(row: Row, names: Sequence[str], place: str) -> int:
    name = (row["name"] or "").strip()
    if name not in names:
        raise ValueError(f"{place}: name is {name!r}: known are {', '.join(names)}.")
    return names.index(name)


def _point(row: Row, place: str) -> tuple[float, float]:
    try:
        x, y = (float((row[name] or "").replace("_", "?")) for name in ("x", "y"))  # Python takes 10_5 for 105
    except ValueError:
        raise ValueError(f"{place}: x is {row['x']!r} and y {row['y']!r}: they must be numbers.") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{place}: x is {x} and y {y}: they must be finite. -1,-1 says that nothing is visible.")
    return x, y
