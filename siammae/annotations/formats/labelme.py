"""labelme: a JSON for each image, with polygons, masks and points. Read only.

Source: wkentaro/labelme, labelme/_utils/shape.py, ``shape_to_mask``: shapes are drawn by Pillow, the outline included;
the corner of a mask is rounded.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siammae.annotations.formats.format import Format, Opening
from siammae.annotations.formats.guards import check_size, entry, finite, read_json, same_size, top_keys, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject
from siammae.errors import printable

_KINDS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask", "point")
_LINES = ("line", "linestrip", "points")  # neither areas nor joints with a name
_EDGE = 0.5  # its canvas is Qt's, where pixel (0, 0) goes from 0 to 1
_log = logging.getLogger(__name__)
_Owner = tuple[str, int | None, int]  # label, group, and which of a label where there is no group


@dataclass(frozen=True)
class _File:
    size: tuple[int, int]
    files: dict[int, Path]
    objects: dict[_Owner, int]
    joints: tuple[str, ...]

    def frames(self) -> Iterator[FrameLabels]:
        for index, path in sorted(self.files.items()):
            content = read_json(path)
            same_size(_size(content, path), self.size, path)
            masks: dict[int, NDArray[np.bool_]] = {}
            points: dict[int, NDArray[np.float64]] = {}
            for shape, owner in _owned(_shapes(content, path), path):
                key = self.objects[owner]
                if shape["shape_type"] == "point":
                    table = points.setdefault(key, np.full((len(self.joints), 2), np.nan))
                    self._place(table, shape, path)
                else:
                    mask = _mask(shape, self.size, path)
                    masks[key] = masks[key] | mask if key in masks else mask
            keypoints = {key: Keypoints.of(table) for key, table in points.items()}
            yield FrameLabels(index, masks, keypoints, by_person=True, name=path.stem)

    def _place(self, table: NDArray[np.float64], shape: Mapping[str, Any], path: Path) -> None:
        ((x, y),) = _points(shape, path, count=1)
        joint = self.joints.index(shape["label"])
        if not np.isnan(table[joint, 0]):
            raise ValueError(f"{path} has the point {shape['label']!r} twice in one group.")
        table[joint] = x - _EDGE, y - _EDGE


def _size(content: object, path: Path) -> tuple[int, int]:
    return check_size(entry(content, "imageHeight", path), entry(content, "imageWidth", path), path)


def _shapes(content: object, path: Path) -> list[Mapping[str, Any]]:
    shapes = entry(content, "shapes", path, list)
    for shape in shapes:
        entry(shape, "label", path, str)
        kind = shape.get("shape_type", "polygon")
        if kind not in (*_KINDS, *_LINES):
            raise ValueError(f"{path} has a shape of the kind {str(kind)[:40]!r}: read are {', '.join(_KINDS)}.")
    return [{"shape_type": "polygon", **shape} for shape in shapes if shape.get("shape_type") not in _LINES]


def _left_out(content: object, path: Path) -> Counter[str]:
    """Count the shapes that are not read."""
    kinds = Counter(str(shape.get("shape_type")) for shape in entry(content, "shapes", path, list))
    return Counter({kind: count for kind, count in kinds.items() if kind in _LINES})


def _owned(shapes: list[Mapping[str, Any]], path: Path) -> Iterator[tuple[Mapping[str, Any], _Owner]]:
    """Say whose each shape is: a group's, else its own; points are joints and belong to their group alone."""
    met: Counter[str] = Counter()
    for shape in shapes:
        group = shape.get("group_id")
        label = "" if shape["shape_type"] == "point" else shape["label"]
        which = 0
        if group is None and label:
            which = met[label]
            met[label] += 1
        yield shape, (label, None if group is None else whole_number(group, "a group_id", path), which)


def _points(shape: Mapping[str, Any], path: Path, *, count: int | None = None) -> list[tuple[float, float]]:
    points = entry(shape, "points", path, list)
    if count not in (None, len(points)) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f"{path}: a {shape['shape_type']} has the points {str(points)[:40]}.")
    return [(finite(x, "a point", path), finite(y, "a point", path)) for x, y in points]


def _mask(shape: Mapping[str, Any], size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    kind = shape["shape_type"]
    points = _points(shape, path, count={"polygon": None, "oriented_rectangle": 4}.get(kind, 2))
    if kind == "mask":
        return _bitmap(shape, points, size, path)
    if max(map(abs, np.ravel(points).tolist()), default=0) > 4 * max(size):
        raise ValueError(f"{path}: a {kind} lies far outside the frame of {size} (height, width).")
    image = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    if kind in ("polygon", "oriented_rectangle"):
        if len(points) < 3:
            raise ValueError(f"{path}: a polygon has {len(points)} corners: it must have three or more.")
        draw.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
        draw.rectangle([left, top, right, bottom], outline=1, fill=1)
    else:
        (x, y), (far_x, far_y) = points
        radius = float(np.hypot(far_x - x, far_y - y))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.asarray(image, np.bool_)


def _bitmap(
    shape: Mapping[str, Any], points: list[tuple[float, float]], size: tuple[int, int], path: Path
) -> NDArray[np.bool_]:
    """Unpack a PNG of the part between two corners, both included."""
    left, top = (whole_number(round(value), "a corner of a mask", path) for value in points[0])
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(entry(shape, "mask", path, str), validate=True)), formats=["PNG"]
        ) as png:
            check_size(png.height, png.width, path)
            inner = np.asarray(png) > 0
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} has a mask that is no PNG in base64: {error}.") from None
    if inner.ndim != 2 or top + inner.shape[0] > size[0] or left + inner.shape[1] > size[1]:
        raise ValueError(f"{path}: a mask of {inner.shape} at {left}, {top} reaches out of the frame of {size}.")
    mask = np.zeros(size, np.bool_)
    mask[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return mask


def _recognise(path: Path) -> bool:
    if path.is_dir():
        first = next(iter(sorted(path.glob("*.json"))), None)
        return first is not None and _recognise(first)
    return {"shapes", "imageHeight", "imageWidth"} <= top_keys(path)


def _read(path: Path, opening: Opening) -> Annotations:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} has no JSON of labelme.")
    size = opening.size
    placed: dict[int, Path] = {}
    owners: dict[_Owner, None] = {}
    joints: dict[str, None] = {}
    lines = Counter[str]()
    for file in files:
        index = opening.frame_index(file.stem, path) if len(files) > 1 or opening.frame_names else 0
        if not opening.wants(index):
            continue
        content = read_json(file)
        size = same_size(_size(content, file), size, file)
        if index in placed:
            raise ValueError(f"{path}: {placed[index].name} and {file.name} are both of frame {index}.")
        placed[index] = file
        shapes = _shapes(content, file)
        lines += _left_out(content, file)
        owners.update(dict.fromkeys(owner for _, owner in _owned(shapes, file)))
        joints.update(dict.fromkeys(shape["label"] for shape in shapes if shape["shape_type"] == "point"))
    if len(placed) > 1:
        for file in placed.values():
            _check_single(_shapes(read_json(file), file), file)
    for kind, count in lines.items():
        _log.warning("%s: %d of the kind %s are neither masks nor keypoints; left out.", printable(path), count, kind)
    groups = {group: label for label, group, _ in owners if label}
    objects = _number(list(owners), groups)
    names = {key: label or groups.get(group, "") for (label, group, _), key in reversed(objects.items())}
    described = tuple(VideoObject(key, category=names[key]) for key in sorted(names))
    file_set = _File(size or (0, 0), placed, objects, tuple(joints))
    return Annotations(file_set.frames, described, tuple(joints), size=size, frame_count=opening.frame_count)


def _number(owners: list[_Owner], groups: dict[int | None, str]) -> dict[_Owner, int]:
    """Number the objects: points belong to the object whose group they share."""
    objects: dict[_Owner, int] = {}
    for owner in owners:
        label, group, _ = owner
        named = (groups[group], group, 0) if not label and group is not None and group in groups else owner
        objects[owner] = objects.setdefault(named, len(set(objects.values())) + 1)
    return objects


def _check_single(shapes: list[Mapping[str, Any]], path: Path) -> None:
    """Refuse shapes of which no one can tell which object of the next image they are."""
    loose = Counter(
        shape["label"] for shape in shapes if shape.get("group_id") is None and shape["shape_type"] != "point"
    )
    for label, count in loose.items():
        if count > 1:
            raise ValueError(
                f"{path} has {count} {label!r} without group_id: give each object the same one in all images."
            )


LABELME = Format(
    name="labelme",
    title="labelme JSON, one or a folder of them: polygons, rectangles, circles, masks, points",
    pixels=(
        "its canvas has edges of pixels at whole numbers (Qt): points are shifted by half a pixel; areas are drawn by "
        "Pillow as in labelme/utils/shape.py."
    ),
    recognise=_recognise,
    read=_read,
    limits="a label with its group_id is an object; lines are not read.",
)
