"""Label Studio's JSON of brush labels: one task for each image, each region a run-length code of RGBA pixels.

Source of the code: thi-ng/umbrella, packages/rle-pack, and HumanSignal/label-studio-converter, brush.py. A header gives
the number of values (32 bits), the bits of a value (5) and four sizes of runs (4 each); then come runs of one value
(bit 1) or of values one by one (bit 0), the size's number (2 bits), length - 1, and the value or values.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_size, entry, read_json, same_size, top_keys, whole_number
from siammae.annotations.formats.rle import runs_of
from siammae.annotations.model import Annotations, FrameLabels, VideoObject
from siammae.errors import printable

_SIZES = (3, 4, 8, 16)  # those that Label Studio writes
_CHANNELS = 4
_REGION = re.compile(r"object_(\d{1,9})")  # how we call an object's region
_NO_LABEL = "object"
_REST = frozenset(
    {"relation", "labels", "choices", "rating", "textarea", "number", "datetime", "taxonomy"}
)  # no shapes
_log = logging.getLogger(__name__)


def decode_brush(code: object, size: tuple[int, int], place: object) -> NDArray[np.bool_]:
    """Return the mask ``(H, W)`` of a run-length code: pixels that are not transparent.

    Raises:
        ValueError: it is no code, is not of the size, breaks off, or runs past the end.
    """
    if not isinstance(code, list) or not all(type(byte) is int and 0 <= byte <= 255 for byte in code):
        raise ValueError(f"{place}: a brush's rle must be a list of bytes.")
    bits = np.unpackbits(np.array(code, np.uint8)).tobytes().translate(bytes([48, 49]) + bytes(254)).decode("ascii")
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise ValueError(f"{place}: a brush's rle breaks off.")
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    if total != size[0] * size[1] * _CHANNELS:
        raise ValueError(f"{place}: a brush's rle has {total} values: a frame of {size} has 4 for each pixel.")
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.bool_)
    done = 0
    while done < total:
        same, length = take(1), take(sizes[take(2)]) + 1
        if done + length > total:
            raise ValueError(f"{place}: a brush's rle runs past the end of the frame.")
        if same:
            values[done : done + length] = take(word) > 0
        else:
            values[done : done + length] = [take(word) > 0 for _ in range(length)]
        done += length
    return values.reshape(*size, _CHANNELS)[..., 3]


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Return the run-length code of a mask ``(H, W)``; its pixels are white, the others transparent black."""
    bits = [f"{mask.size * _CHANNELS:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for place, run in enumerate(runs_of(mask.ravel())):
        left, value = run * _CHANNELS, "1" * 8 if place % 2 else "0" * 8
        while left:
            which = next((number for number, size in enumerate(_SIZES) if left <= 2**size), len(_SIZES) - 1)
            length = min(left, 2 ** _SIZES[which])
            bits.append(f"1{which:02b}{length - 1:0{_SIZES[which]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # a byte of nothing where none is needed, as theirs
    return np.packbits(np.frombuffer(text.encode("ascii"), np.uint8) - 48).tolist()


_Owner = tuple[str, str, int]  # label, the object that we wrote, and which of a label where there is none


@dataclass(frozen=True)
class _Region:
    key: int
    code: object


@dataclass(frozen=True)
class _File:
    place: Path
    size: tuple[int, int]
    regions: dict[int, tuple[str, bool, list[_Region]]]  # by frame: name, whether by a person, what is there

    def frames(self) -> Iterator[FrameLabels]:
        for index, (name, person, regions) in sorted(self.regions.items()):
            masks: dict[int, NDArray[np.bool_]] = {}
            for region in regions:
                mask = decode_brush(region.code, self.size, f"{self.place}, frame {index}")
                masks[region.key] = masks[region.key] | mask if region.key in masks else mask
            yield FrameLabels(index, masks, by_person=person, name=name)


def _recognise(path: Path) -> bool:
    keys = top_keys(path)
    return "data" in keys and bool({"annotations", "predictions"} & keys)


def _read(path: Path, opening: Opening) -> Annotations:
    tasks = read_json(path)
    size = opening.size
    skipped = Counter[str]()
    found: dict[int, tuple[str, bool, list[Mapping[str, Any]]]] = {}
    for task in tasks if isinstance(tasks, list) else [tasks]:
        image = next((value for value in entry(task, "data", path, dict).values() if isinstance(value, str)), "")
        index = opening.frame_index(image.partition("?")[0], path)
        if not opening.wants(index):
            continue
        if index in found:
            raise ValueError(f"{path}: two tasks are of frame {index}.")
        person, results = _results(task, path, index, skipped)
        for result in results:
            if "original_height" not in result:  # as in old versions
                size = opening.need_size(path)
                continue
            claimed = check_size(entry(result, "original_height", path), entry(result, "original_width", path), path)
            size = same_size(claimed, size, path)
        found[index] = (Path(image.replace("\\", "/")).stem, person, results)
    for kind, count in skipped.items():
        _log.warning("%s: %d of the kind %s have no brush mask; left out.", printable(path), count, printable(kind))
    if size is None:
        raise ValueError(f"{path} has no brush labels.")
    ids = _number(found, path)
    regions = {
        index: (
            name,
            person,
            [
                _Region(ids[owner], entry(one["value"], "rle", path))
                for one, owner in zip(results, _owners(results, path), strict=True)
            ],
        )
        for index, (name, person, results) in found.items()
    }
    objects = {key: VideoObject(key, category=label) for (label, _, _), key in ids.items()}
    described = tuple(objects[key] for key in sorted(objects))
    return Annotations(_File(path, size, regions).frames, described, size=size, frame_count=opening.frame_count)


def _results(
    task: Mapping[str, Any], path: Path, index: int, skipped: Counter[str]
) -> tuple[bool, list[Mapping[str, Any]]]:
    """Return the regions of a task that have an RLE, and whether a person made them: else a prediction counts."""
    made = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
    chosen = made or (task.get("predictions") or [])
    if len(chosen) > 1:
        raise ValueError(f"{path}, frame {index} has {len(chosen)} annotations: keep the one that is meant.")
    results = entry(chosen[0], "result", path, list) if chosen else []
    brushed: dict[object, Mapping[str, Any]] = {}
    for place, one in enumerate(results):
        if "rle" in one.get("value", ()):
            # A region may be there twice, by its tool (brush, magic wand) and with its label.
            region = one.get("id", place)
            if region in brushed and _labels(one) and _labels(brushed[region]):
                region = place
            if region not in brushed or _labels(one):
                brushed[region] = one
        elif not _REST.issuperset({str(one.get("type"))}) and one.get("id") not in brushed:
            skipped[str(one.get("type"))] += 1
    return bool(made), list(brushed.values())


def _labels(result: Mapping[str, Any]) -> list[Any]:
    """Return the labels of a region, of a tool for brushes or of one for all regions."""
    value = result["value"]
    return list(value.get("brushlabels") or value.get("labels") or [])


def _owners(results: list[Mapping[str, Any]], path: Path) -> list[_Owner]:
    """Say whose each region of an image is."""
    met: Counter[str] = Counter()
    owners = []
    for result in results:
        labels = _labels(result)
        label, ours = str(labels[0]) if labels else "", _REGION.fullmatch(str(result.get("id", "")))
        owners.append((label, ours[1] if ours else "", 0 if ours else met[label]))
        met[label] += 1
    return owners


def _number(found: Mapping[int, tuple[str, bool, list[Mapping[str, Any]]]], path: Path) -> dict[_Owner, int]:
    """Number the objects: as we wrote them, else by label, which must be met once where there are several images."""
    everyone = dict.fromkeys(owner for _, _, results in found.values() for owner in _owners(results, path))
    if len(found) > 1 and (twice := [label for label, _, which in everyone if which]):
        raise ValueError(f"{path} has several {twice[0]!r} in an image: which is which in the next cannot be told.")
    ids = {owner: whole_number(owner[1], "an object", path, least=1) for owner in everyone if owner[1]}
    free = max(ids.values(), default=0) + 1
    return ids | {owner: free + place for place, owner in enumerate(one for one in everyone if not one[1])}


def _write(path: Path, annotations: Annotations) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for place, frame in enumerate(annotations):
            results = [_result(key, mask, annotations) for key, mask in sorted(frame.masks.items())]
            task = {
                "data": {"image": f"{frame.name or f'{frame.index:06d}'}.png"},
                "annotations": [{"result": results}] if frame.by_person else [],
                "predictions": [] if frame.by_person else [{"model_version": "siammae", "result": results}],
            }
            file.write(",\n" * (place > 0) + json.dumps(task))
        file.write("]\n")


def _result(key: int, mask: NDArray[np.bool_], annotations: Annotations) -> dict[str, Any]:
    return {
        "id": f"object_{key}",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": encode_brush(mask),
            "brushlabels": [annotations.object(key).category or _NO_LABEL],
        },
    }


LABEL_STUDIO = Format(
    name="label-studio",
    title="Label Studio JSON of tasks with brush labels",
    pixels="none: RLE of pixels (HumanSignal/label-studio-converter, brush.py).",
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
            Feature.CATEGORIES,
            Feature.AUTHORS,
            Feature.EMPTY,
        }
    ),
    limits="frames that no person made are written as predictions, those of which it is not known too.",
)
