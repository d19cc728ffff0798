"""COCO JSON: masks as polygons or run lengths, keypoints with a skeleton, objects followed by ``track_id``.

Source: cocodataset.org/#format-data; ``track_id`` and ``video_id`` as in TAO and in CVAT's exports.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import (
    MAX_OBJECT_ID,
    MAX_RECORD_ID,
    check_size,
    entry,
    finite,
    read_json,
    same_size,
    top_keys,
    whole_number,
)
from siammae.annotations.formats.polygons import fill_polygons
from siammae.annotations.formats.rle import coco_tools, decode, encode
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class _File:
    """What is in a file, checked and put in order."""

    place: Path
    size: tuple[int, int]
    images: dict[int, tuple[str, int]]  # by frame: name, id
    rows: dict[int, list[tuple[int, _Row]]]  # by image id: object id, annotation
    joints: tuple[str, ...]

    def frames(self) -> Iterator[FrameLabels]:
        for index, (name, image) in sorted(self.images.items()):
            yield self._frame(index, name, self.rows.get(image, []))

    def _frame(self, index: int, name: str, rows: list[tuple[int, _Row]]) -> FrameLabels:
        masks: dict[int, NDArray[np.bool_]] = {}
        keypoints, confidence, void = {}, {}, None
        for key, row in rows:
            mask = _mask(row.get("segmentation"), self.size, self.place)
            if mask is not None and row.get("iscrowd"):
                void = mask if void is None else void | mask
                continue
            if mask is not None:
                masks[key] = masks[key] | mask if key in masks else mask
            if row.get("keypoints"):
                keypoints[key] = _keypoints(row["keypoints"], len(self.joints), self.place)
            if "score" in row:
                confidence[key] = finite(row["score"], "a score", self.place)
        return FrameLabels(index, masks, keypoints, confidence, void, name=name)


def _mask(segmentation: object, size: tuple[int, int], place: Path) -> NDArray[np.bool_] | None:
    if not segmentation:
        return None
    return (
        fill_polygons(segmentation, size, place)
        if isinstance(segmentation, list)
        else decode(segmentation, size, place)
    )


def _keypoints(values: object, joints: int, place: Path) -> Keypoints:
    if not isinstance(values, list) or len(values) != 3 * joints:
        raise ValueError(f"{place}: keypoints must be x, y, v for each of the category's {joints} names.")
    table = np.array([finite(value, "a keypoint", place) for value in values]).reshape(joints, 3)
    if not np.isin(table[:, 2], (0, 1, 2)).all():
        raise ValueError(f"{place}: a keypoint's v is none of 0 (missing), 1 (hidden), 2 (visible).")
    return Keypoints.of(table[:, :2], table[:, 2].astype(np.uint8))


def _recognise(path: Path) -> bool:
    keys = top_keys(path)
    return {"images", "annotations", "categories"} <= keys


def _read(path: Path, opening: Opening) -> Annotations:
    content = read_json(path)
    size, images = _images(content, path, opening)
    categories = {
        whole_number(entry(one, "id", path), "a category's id", path): one
        for one in entry(content, "categories", path, list)
    }
    ids = {image for _, image in images.values()}
    rows = [row for row in entry(content, "annotations", path, list) if entry(row, "image_id", path) in ids]
    for row in rows:
        if entry(row, "category_id", path) not in categories:
            raise ValueError(f"{path}: an annotation has the category {row['category_id']!r}, which is not listed.")
    keys = _object_ids(rows, path)
    grouped: dict[int, list[tuple[int, _Row]]] = {}
    objects: dict[int, VideoObject] = {}
    for key, row in zip(keys, rows, strict=True):
        grouped.setdefault(row["image_id"], []).append((key, row))
        if not row.get("iscrowd"):
            name = str(categories[row["category_id"]].get("name", ""))
            objects.setdefault(key, VideoObject(key, category=name))
    joints, skeleton = _joints([categories[row["category_id"]] for row in rows if row.get("keypoints")], path)
    file = _File(path, size, images, grouped, joints)
    described = tuple(objects[key] for key in sorted(objects))
    return Annotations(file.frames, described, joints, skeleton, size, opening.frame_count)


def _images(content: object, path: Path, opening: Opening) -> tuple[tuple[int, int], dict[int, tuple[str, int]]]:
    """Return the size and the images of the video that is meant."""
    images = entry(content, "images", path, list)
    videos = content.get("videos") if isinstance(content, Mapping) else None
    if isinstance(videos, list) and (len(videos) > 1 or opening.sequence is not None):
        named = {str(entry(one, "name", path)): entry(one, "id", path) for one in videos}
        if opening.sequence not in named:
            raise ValueError(f"{path} has the videos {', '.join(list(named)[:5])}. Name one as the sequence.")
        images = [one for one in images if isinstance(one, Mapping) and one.get("video_id") == named[opening.sequence]]
    size = opening.size
    placed: dict[int, tuple[str, int]] = {}
    others: list[int] = []
    for one in images:
        name = entry(one, "file_name", path, str)
        index = _index(one, name, path, opening)
        if not opening.wants(index):
            others.append(index)
            continue
        size = same_size(check_size(entry(one, "height", path), entry(one, "width", path), path), size, path)
        if index in placed:
            raise ValueError(f"{path}: the images {placed[index][0]} and {name} are both of frame {index}.")
        placed[index] = (
            Path(name.replace("\\", "/")).stem,
            whole_number(entry(one, "id", path), "an image's id", path, most=MAX_RECORD_ID),
        )
    if others and not placed:
        listed = ", ".join(map(str, sorted(others)[:8]))
        raise ValueError(f"{path}: frame {min(opening.frames or ())} has no labels: labelled are {listed}.")
    if size is None or not placed:
        raise ValueError(f"{path} lists no images.")
    return size, placed


def _index(image: _Row, name: str, path: Path, opening: Opening) -> int:
    """Find an image's frame by its name among those of the video, else by what the file says, else by its number.

    PoseTrack's ``frame_id`` is the image's id, too large for a frame: its names have the numbers.
    """
    said = image.get("frame_id", image.get("frame_index"))
    if said is None or (said == image.get("id") and isinstance(said, int) and said > MAX_OBJECT_ID):
        return opening.frame_index(name, path)
    if Path(name.replace("\\", "/")).stem in opening.frame_names:
        return opening.frame_index(name, path)
    return whole_number(said, "an image's frame", path)


def _object_ids(rows: list[_Row], path: Path) -> list[int]:
    """Return whose each annotation is; without ``track_id``, the category tells them apart if it can.

    Raises:
        ValueError: it cannot.
    """
    followed = [row for row in rows if not row.get("iscrowd")]
    if all("track_id" in row for row in followed):
        keys = [whole_number(row.get("track_id", 1), "a track_id", path) for row in rows]
        shift = 1 if 0 in keys else 0  # our objects count from 1
        return [key + shift for key in keys]
    if len({row["image_id"] for row in followed}) <= 1:
        return list(range(1, len(rows) + 1))
    if max(Counter((row["image_id"], row["category_id"]) for row in followed).values()) > 1:
        raise ValueError(
            f"{path} has no track_id, and an image has two objects of a category: which is which in the next image "
            "cannot be told. Export with track ids, or keep one image."
        )
    order = {category: key for key, category in enumerate(sorted({row["category_id"] for row in rows}), 1)}
    return [order[row["category_id"]] for row in rows]


def _joints(categories: list[_Row], path: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return the names of joints and the skeleton, counted from 0, of the categories that have keypoints."""
    kinds = {tuple(map(str, entry(one, "keypoints", path, list))): one for one in categories}
    if len(kinds) > 1:
        raise ValueError(f"{path} has categories with different keypoints: one set of joints is read. Split the file.")
    for joints, category in kinds.items():
        pairs = category.get("skeleton") or []
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"{path}: a skeleton must be a list of pairs.")
        ends = [
            [whole_number(end, "an end of a bone", path, least=1, most=len(joints)) - 1 for end in pair]
            for pair in pairs
        ]
        return joints, tuple((first, second) for first, second in ends)
    return (), ()


def _write(path: Path, annotations: Annotations) -> None:
    """Write annotations as they come; what is in memory at the end is the list of images."""
    categories: dict[str, int] = {}
    images: list[str] = []
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"videos": [{"id": 1, "name": "video"}], "annotations": [')
        for frame in annotations:
            size = next((mask.shape for mask in frame.masks.values()), annotations.size)
            if size is None:
                raise ValueError("COCO needs the size of the frames, which no one says. Name the video.")
            image = {
                "id": len(images) + 1,
                "file_name": f"{frame.name or f'{frame.index:06d}'}.jpg",
                "height": size[0],
                "width": size[1],
                "frame_id": frame.index,
                "video_id": 1,
            }
            images.append(json.dumps(image))
            for key in sorted(frame.masks.keys() | frame.keypoints.keys()):
                category = annotations.object(key).category or "object"
                row = {
                    "id": rows + 1,
                    "image_id": len(images),
                    "category_id": categories.setdefault(category, len(categories) + 1),
                    "track_id": key,
                    "iscrowd": 0,
                }
                file.write(",\n" * (rows > 0) + json.dumps(row | _shape(frame, key)))
                rows += 1
        listed = [{"id": number, "name": name} | _joint_names(annotations) for name, number in categories.items()]
        file.write(f'],\n"categories": {json.dumps(listed)},\n"images": [{", ".join(images)}]}}\n')


def _joint_names(annotations: Annotations) -> dict[str, Any]:
    if not annotations.joints:
        return {}
    pairs = [[first + 1, second + 1] for first, second in annotations.skeleton]
    return {"keypoints": list(annotations.joints), "skeleton": pairs}


def _shape(frame: FrameLabels, key: int) -> dict[str, Any]:
    """Return the fields of one object in one frame."""
    row: dict[str, Any] = {}
    if key in frame.masks:
        row["segmentation"] = encode(frame.masks[key])
        row["bbox"] = coco_tools().toBbox(row["segmentation"]).tolist()
        row["area"] = int(frame.masks[key].sum())
    if key in frame.keypoints:
        some = frame.keypoints[key]
        places = np.nan_to_num(some.points)
        table = np.column_stack([places, some.visibility]).tolist()
        row["keypoints"] = [value if place < 2 else int(value) for joint in table for place, value in enumerate(joint)]
        row["num_keypoints"] = int((some.visibility > 0).sum())
        if "bbox" not in row:
            low, high = np.nanmin(some.points, axis=0), np.nanmax(some.points, axis=0)
            row |= {"bbox": [*low.tolist(), *(high - low).tolist()], "area": float(np.prod(high - low))}
    if key in frame.confidence:
        row["score"] = frame.confidence[key]
    return row


COCO = Format(
    name="coco",
    title="COCO JSON: polygons or RLE, keypoints, track_id",
    pixels=(
        "polygons have edges of pixels at whole numbers and are filled by pycocotools; keypoints have centres at whole "
        "numbers, as here (facebookresearch/detectron2 #175). Nothing is shifted."
    ),
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".json",
    holds=frozenset(
        {
            Feature.MASKS,
            Feature.HOLES,
            Feature.ALIKE,
            Feature.OVERLAP,
            Feature.POINTS,
            Feature.SEVERAL,
            Feature.HIDDEN,
            Feature.MASK_CONFIDENCE,
            Feature.CATEGORIES,
            Feature.SKELETON,
            Feature.EMPTY,
        }
    ),
    limits="crowds are void; masks are written as RLE. Objects without category are called 'object'.",
)
