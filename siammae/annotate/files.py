"""The files of a project that hold one frame or all keypoints, each written whole or not at all.

What a mask's file must say besides its pixels stands in a text of the PNG itself, so that both appear together.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from siammae.annotate.tracks import Track
from siammae.annotations.masks import mask_image, read_mask
from siammae.annotations.model import Visibility
from siammae.annotations.tables import table_rows
from siammae.errors import VideoReadError
from siammae.frames.images import open_image
from siammae.outputs import whole

_TEXT = "siammae"  # keyword of the PNG's text
_POINT_COLUMNS = ("frame", "object", "name", "x", "y", "visibility")
_FOLLOWED_COLUMNS = ("object", "name", "x", "y", "confidence")
_VISIBILITY = {"visible": Visibility.VISIBLE, "hidden": Visibility.HIDDEN, "absent": Visibility.MISSING}


class Point(NamedTuple):
    """A keypoint that a person set.

    Attributes:
        x: in pixels; the centre of pixel (0, 0) is at 0.0. NaN where the keypoint is not there.
        y: likewise.
        visibility: ``MISSING`` says that it is not there.
    """

    x: float
    y: float
    visibility: Visibility = Visibility.VISIBLE


class FollowedPoint(NamedTuple):
    """A keypoint that was followed; -1, -1 = not there."""

    x: float
    y: float
    confidence: float


def write_map(path: Path, ids: NDArray[np.uint8], note: Mapping[str, object], *, sync: bool) -> None:
    """Write a map of ids ``(H, W)`` as a palette PNG with a note, JSON, in it."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_TEXT, json.dumps(note, sort_keys=True))
    buffer = io.BytesIO()
    mask_image(ids).save(buffer, "PNG", pnginfo=info, compress_level=3)
    with whole(path, sync=sync) as part:
        part.write_bytes(buffer.getvalue())


def read_map(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a map of ids of a size ``(H, W)``.

    Raises:
        ValueError: it has another size.
        VideoReadError: it does not decode.
    """
    ids = read_mask(path, binary=False)
    if ids.shape != size:
        raise ValueError(f"{path} is {ids.shape} but the video is {size}: it is no mask of this project.")
    return ids


def read_note(path: Path) -> dict[str, Any]:
    """Read the note in a PNG without its pixels; empty where there is none.

    Raises:
        VideoReadError: it is no picture.
    """
    try:
        with open_image(path) as image:
            note = json.loads(image.info.get(_TEXT, "{}"))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoReadError(f"{path} cannot be read as a mask: {error}") from error
    return note if isinstance(note, dict) else {}


def write_points(path: Path, frames: Mapping[int, Mapping[Track, Point]]) -> None:
    """Write all keypoints that a person set."""

    def fill(rows: Any) -> None:  # noqa: ANN401 -- csv's writer has no public type
        rows.writerow(_POINT_COLUMNS)
        for frame, points in sorted(frames.items()):
            for track, point in sorted(points.items()):
                there = point.visibility != Visibility.MISSING
                place = (repr(float(point.x)), repr(float(point.y))) if there else ("", "")
                said = next(word for word, value in _VISIBILITY.items() if value == point.visibility)
                rows.writerow([frame, track.object, track.joint, *place, said])

    _write_rows(path, fill, sync=True)


def read_points(path: Path) -> dict[int, dict[Track, Point]]:
    """Read what :func:`write_points` wrote; empty where there is no file.

    Raises:
        ValueError: a value is wrong; the message names the line.
    """
    frames: dict[int, dict[Track, Point]] = {}
    if not path.exists():
        return frames
    for place, row in table_rows(path, _POINT_COLUMNS, ",".join(_POINT_COLUMNS)):
        said = _VISIBILITY.get(row["visibility"] or "")
        if said is None:
            raise ValueError(f"{place}: visibility is {row['visibility']!r}: it must be {', '.join(_VISIBILITY)}.")
        frame, track = int(_number(row["frame"], place)), Track(int(_number(row["object"], place)), row["name"] or "")
        there = said != Visibility.MISSING
        xy = (_number(row["x"], place), _number(row["y"], place)) if there else (math.nan, math.nan)
        frames.setdefault(frame, {})[track] = Point(*xy, said)
    return frames


def write_followed(path: Path, points: Mapping[Track, FollowedPoint]) -> None:
    """Write the followed keypoints of one frame."""

    def fill(rows: Any) -> None:  # noqa: ANN401
        rows.writerow(_FOLLOWED_COLUMNS)
        for track, (x, y, sure) in sorted(points.items()):
            rows.writerow([track.object, track.joint, f"{x:.3f}", f"{y:.3f}", f"{sure:.4f}"])

    _write_rows(path, fill, sync=False)


def read_followed(path: Path) -> dict[Track, FollowedPoint]:
    """Read what :func:`write_followed` wrote.

    Raises:
        ValueError: a value is wrong; the message names the line.
    """
    points = {}
    for place, row in table_rows(path, _FOLLOWED_COLUMNS, ",".join(_FOLLOWED_COLUMNS)):
        values = [_number(row[name], place) for name in ("x", "y", "confidence")]
        points[Track(int(_number(row["object"], place)), row["name"] or "")] = FollowedPoint(*values)
    return points


def _write_rows(path: Path, fill: Callable[[Any], None], *, sync: bool) -> None:
    with whole(path, sync=sync) as part, part.open("w", newline="", encoding="utf-8") as file:
        fill(csv.writer(file, lineterminator="\n"))


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: {text!r} must be a number.")
    return value
