"""YouTube-VIS JSON: one annotation an object, with an RLE or null for each frame of its video.

Source: youtube-vos.org/dataset/vis; youtubevos/cocoapi, PythonAPI/pycocotools/ytvos.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import (
    check_size,
    entry,
    read_json,
    same_size,
    top_keys,
    whole_number,
)
from siammae.annotations.formats.polygons import fill_polygons
from siammae.annotations.formats.rle import coco_tools, decode, encode
from siammae.annotations.model import Annotations, FrameLabels, VideoObject


@dataclass(frozen=True)
class _File:
    place: Path
    size: tuple[int, int]
    images: list[tuple[int, str, int]]  # frame, name, place in the list of the video
    rows: dict[int, list[Any]]  # by object: what it is in each frame

    def frames(self) -> Iterator[FrameLabels]:
        for index, name, column in sorted(self.images):
            shapes = {key: row[column] for key, row in self.rows.items() if row[column]}
            masks = {
                key: fill_polygons(shape, self.size, self.place)
                if isinstance(shape, list)
                else decode(shape, self.size, self.place)
                for key, shape in shapes.items()
            }
            yield FrameLabels(index, {key: mask for key, mask in masks.items() if mask.any()}, name=name)


def _recognise(path: Path) -> bool:
    keys = top_keys(path)
    return {"videos", "annotations", "categories"} <= keys and "images" not in keys


def _read(path: Path, opening: Opening) -> Annotations:
    content = read_json(path)
    video = _video(entry(content, "videos", path, list), path, opening)
    size = same_size(check_size(entry(video, "height", path), entry(video, "width", path), path), opening.size, path)
    names = [str(name) for name in entry(video, "file_names", path, list)]
    images = [(opening.frame_index(name, path), Path(name).stem, column) for column, name in enumerate(names)]
    if len({index for index, _, _ in images}) != len(images):
        raise ValueError(f"{path}: two file_names of a video are of the same frame.")
    categories = {
        entry(one, "id", path): str(entry(one, "name", path)) for one in entry(content, "categories", path, list)
    }
    rows, objects = {}, []
    for row in entry(content, "annotations", path, list):
        if entry(row, "video_id", path) != entry(video, "id", path):
            continue
        key = whole_number(entry(row, "id", path), "an annotation's id", path, least=1)
        rows[key] = entry(row, "segmentations", path, list)
        if len(rows[key]) != len(names):
            raise ValueError(f"{path}: an object has {len(rows[key])} segmentations but its video {len(names)} frames.")
        objects.append(VideoObject(key, category=categories.get(row.get("category_id"), "")))
    return Annotations(
        _File(path, size, images, rows).frames, tuple(objects), size=size, frame_count=opening.frame_count
    )


def _video(videos: list[Any], path: Path, opening: Opening) -> Mapping[str, Any]:
    """Return the video that is meant, by the folder that its frames are in."""
    found = {}
    for one in videos:
        names = entry(one, "file_names", path, list)
        found[str(names[0]).rpartition("/")[0] if names else ""] = one
    if opening.sequence is None and len(videos) == 1:
        return dict(videos[0])
    if opening.sequence not in found:
        raise ValueError(f"{path} has {len(videos)} videos, such as {', '.join(list(found)[:3])}. Name a sequence.")
    return dict(found[opening.sequence])


def _write(path: Path, annotations: Annotations) -> None:
    """Write row by row: a row needs all frames of its object, so the text of their RLEs is held, and no more."""
    size, names = annotations.size, list[str]()
    rows: dict[int, list[str]] = {}
    for column, frame in enumerate(annotations):
        names.append(f"video/{frame.name or f'{frame.index:05d}'}.jpg")
        for key, mask in frame.masks.items():
            size = (mask.shape[0], mask.shape[1])
            row = rows.setdefault(key, [])
            row.extend([""] * (column - len(row)))
            row.append(encode(mask)["counts"])
    if size is None:
        raise ValueError("YouTube-VIS needs the size of the frames, which no one says. Name the video.")
    categories: dict[str, int] = {}
    for key in sorted(rows):
        categories.setdefault(annotations.object(key).category or "object", len(categories) + 1)
    sides = {"height": size[0], "width": size[1], "length": len(names)}
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{}}, "videos": [{json.dumps({"id": 1, **sides, "file_names": names})}],\n')
        file.write(f'"categories": {json.dumps(listed)},\n"annotations": [')
        for place, key in enumerate(sorted(rows)):
            shapes = [*rows[key], *[""] * (len(names) - len(rows[key]))]
            category = categories[annotations.object(key).category or "object"]
            row_of = {"id": key, "video_id": 1, "category_id": category, "iscrowd": 0, **sides}
            file.write(",\n" * (place > 0) + json.dumps(row_of | _shapes(shapes, size)))
        file.write("]}\n")


def _shapes(counts: list[str], size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of one object that have a value for each frame."""
    tools = coco_tools()
    shapes = [{"size": list(size), "counts": text} if text else None for text in counts]
    return {
        "segmentations": shapes,
        "bboxes": [shape and tools.toBbox(shape).tolist() for shape in shapes],
        "areas": [shape and int(tools.area(shape)) for shape in shapes],
    }


YOUTUBE_VIS = Format(
    name="youtube-vis",
    title="YouTube-VIS JSON: RLE by object and frame",
    pixels="RLE has no coordinates; polygons have edges of pixels at whole numbers and are filled by pycocotools.",
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".json",
    holds=frozenset({Feature.MASKS, Feature.HOLES, Feature.ALIKE, Feature.OVERLAP, Feature.CATEGORIES, Feature.EMPTY}),
    limits="only labelled frames are listed. Objects without category are called 'object'.",
)
