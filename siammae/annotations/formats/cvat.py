"""CVAT 1.1 XML, for video and for images: masks, polygons and skeletons.

Source: docs.cvat.ai/docs/other/xml_format; cvat-ai/cvat, cvat/apps/dataset_manager/formats/cvat.py. That importer knows
no tracks of masks and keeps the first of one, so each mask is a track of its own, as in CVAT's exports; ``group_id``
says whose it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.cvat_writer import write
from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_bytes, check_size, finite, same_size, whole_number
from siammae.annotations.formats.polygons import fill_polygons
from siammae.annotations.formats.rle import fill, list_runs
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility
from siammae.errors import printable

_SHAPES = ("mask", "polygon", "skeleton", "points")
_OTHER = ("box", "polyline", "ellipse", "cuboid", "tag")
_EDGE = 0.5  # CVAT's pixel (0, 0) goes from 0 to 1 (cvat-ai/cvat #9973), ours from -0.5 to 0.5
_log = logging.getLogger(__name__)
_Parts = tuple[tuple[str, float, float, int], ...]  # name, x, y, visibility of joints


@dataclass(frozen=True, slots=True)
class _Shape:
    frame: int
    kind: str
    owner: tuple[str, str]  # a group or a track, and its label
    person: bool | None
    attributes: Mapping[str, str]
    parts: _Parts = ()


@dataclass
class _Content:
    """What is in a file, in its own terms."""

    place: Path
    opening: Opening
    size: tuple[int, int] | None = None
    frame_count: int | None = None
    shapes: list[_Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    tracks: set[str] = field(default_factory=set)

    def add(self, shape: Any, parent: Any) -> None:  # noqa: ANN401 -- elements of an XML tree
        """Take in a shape that ends, in a track or an image."""
        if parent.tag == "track":
            if shape.get("outside") == "1" and shape.tag != "skeleton":
                return
            number = whole_number(shape.get("frame"), "a shape's frame", self.place)
            index, label = number, parent.get("label")
        else:
            index, label = self._image(parent), shape.get("label")
        if not self.opening.wants(index):
            return
        group = shape.get("group_id") or parent.get("group_id") or "0"
        track = parent.get("id", "") if parent.tag == "track" else f"of image, {len(self.shapes)}"
        owner = (f"group {group}" if group != "0" else f"track {track}", label or "")
        person = self._person(shape, parent)
        self.shapes.append(_Shape(index, shape.tag, owner, person, dict(shape.attrib), self._parts(shape)))

    def _image(self, image: Any) -> int:  # noqa: ANN401
        if self.opening.frame_names:
            index = self.opening.frame_index(image.get("name") or "", self.place)
        else:
            index = whole_number(image.get("id"), "an image's id", self.place)
        height, width = (whole_number(image.get(side), side, self.place) for side in ("height", "width"))
        if self.opening.wants(index):
            self.size = same_size(check_size(height, width, self.place), self.size, self.place)
        return index

    @staticmethod
    def _person(shape: Any, parent: Any) -> bool | None:  # noqa: ANN401
        if shape.get("keyframe") == "0":
            return False
        source = shape.get("source") or parent.get("source")
        return {"manual": True, "auto": False, "semi-auto": False}.get(source or "")

    def _parts(self, shape: Any) -> _Parts:  # noqa: ANN401
        if shape.tag == "points":
            places = enumerate(self._pairs(shape.get("points")), 1)
            return tuple((str(place), x, y, self._seen(shape)) for place, (x, y) in places)
        joints = []
        for part in shape if shape.tag == "skeleton" else ():
            if part.tag == "points":
                pairs = self._pairs(part.get("points"))
                if len(pairs) != 1:
                    raise ValueError(f"{self.place}: a joint of a skeleton has {len(pairs)} points: it must have one.")
                joints.append((part.get("label", ""), *pairs[0], self._seen(part)))
        return tuple(joints)

    @staticmethod
    def _seen(shape: Any) -> int:  # noqa: ANN401
        if shape.get("outside") == "1":
            return Visibility.MISSING
        return Visibility.HIDDEN if shape.get("occluded") == "1" else Visibility.VISIBLE

    def _pairs(self, text: str | None) -> list[tuple[float, float]]:
        pairs = [pair.split(",") for pair in (text or "").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"{self.place}: points must be x,y;x,y and so on, got {(text or '')[:40]!r}.")
        return [(finite(x, "a point", self.place), finite(y, "a point", self.place)) for x, y in pairs]

    def owners(self) -> dict[tuple[str, str], int]:
        """Return whose each shape is: a group, a track over several frames, or a label that is met once a frame.

        Raises:
            ValueError: shapes of several frames belong to no one, and a frame has two of a label.
        """
        counts = Counter(shape.owner for shape in self.shapes)
        loose = {owner for owner, count in counts.items() if owner[0].startswith("track") and count == 1}
        met = Counter((shape.frame, shape.owner[1]) for shape in self.shapes if shape.owner in loose)
        several = len({frame for frame, _ in met}) > 1
        if several and max(met.values()) > 1:
            (frame, label), _ = met.most_common(1)[0]
            raise ValueError(
                f"{self.place}: frame {frame} has several {label!r} that are neither grouped nor tracks: which is "
                "which in the next frame cannot be told. Group each object's shapes in CVAT."
            )
        ids = {
            owner: whole_number(owner[0].removeprefix("group "), "a group_id", self.place, least=1)
            for owner in counts
            if owner[0].startswith("group")
        }
        free = max(ids.values(), default=0) + 1
        for owner in counts:
            named = ("label", owner[1]) if several and owner in loose else owner
            if named not in ids:
                ids[named], free = free, free + 1
            ids[owner] = ids[named]
        return ids


@dataclass(frozen=True)
class _File:
    place: Path
    size: tuple[int, int] | None
    joints: tuple[str, ...]
    frames_of: dict[int, list[tuple[int, _Shape]]]

    def frames(self) -> Iterator[FrameLabels]:
        for index, shapes in sorted(self.frames_of.items()):
            masks: dict[int, NDArray[np.bool_]] = {}
            keypoints: dict[int, Keypoints] = {}
            for key, shape in shapes:
                if shape.kind in ("mask", "polygon"):
                    mask = self._mask(shape)
                    masks[key] = masks[key] | mask if key in masks else mask
                elif key in keypoints:
                    raise ValueError(f"{self.place}, frame {index}: object {key} has two sets of points.")
                else:
                    keypoints[key] = self._keypoints(shape.parts)
            said = {shape.person for _, shape in shapes}
            person = None if said - {True, False} else said == {True}
            yield FrameLabels(index, masks, keypoints, by_person=person)

    def _mask(self, shape: _Shape) -> NDArray[np.bool_]:
        if self.size is None:
            raise ValueError(f"{self.place} does not say how large its frames are. Name the video.")
        if shape.kind == "polygon":
            corners = shape.attributes.get("points", "").replace(";", ",").split(",")
            return fill_polygons([corners], self.size, self.place)
        left, top, width, height = (
            whole_number(shape.attributes.get(side), side, self.place) for side in ("left", "top", "width", "height")
        )
        if left + width > self.size[1] or top + height > self.size[0]:
            raise ValueError(f"{self.place}, frame {shape.frame}: a mask reaches out of the frame of {self.size}.")
        runs = [whole_number(run, "a run", self.place) for run in shape.attributes.get("rle", "").split(",")]
        mask = np.zeros(self.size, np.bool_)
        inner = fill(list_runs(runs, self.place), height * width, self.place)
        mask[top : top + height, left : left + width] = inner.reshape(height, width)
        return mask

    def _keypoints(self, parts: _Parts) -> Keypoints:
        table = np.full((len(self.joints), 2), np.nan)
        seen = np.zeros(len(self.joints), np.uint8)
        for name, x, y, visibility in parts:
            place = self.joints.index(name)
            table[place], seen[place] = (x - _EDGE, y - _EDGE), visibility
        return Keypoints.of(table, seen)


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".xml" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b"<annotations" in file.read(4096)


def _read(path: Path, opening: Opening) -> Annotations:
    check_bytes(path)
    content = _Content(path, opening, opening.size)
    parents: list[Any] = []
    for event, element in _events(path):
        nests = element.tag in ("track", "image", "skeleton")
        if event == "start":
            parents += [element] if nests else []
            continue
        if nests:
            parents.pop()
        _take(element, parents[-1] if parents else None, content)
    if len(content.tracks) > 1:
        raise ValueError(
            f"{path} holds {len(content.tracks)} tasks, whose frames cannot be told apart. Export one task."
        )
    for kind, count in content.skipped.items():
        _log.warning("%s: %d of the kind <%s> are neither masks nor keypoints; left out.", printable(path), count, kind)
    return _annotations(content)


def _take(element: Any, parent: Any, content: _Content) -> None:  # noqa: ANN401
    """Take in an element that is complete, and let go of it."""
    if element.tag in ("original_size", "size"):
        _meta(element, content)
    if parent is None or parent.tag == "skeleton":
        return
    if element.tag in _SHAPES:
        content.add(element, parent)
        content.tracks.add(parent.get("task_id", ""))
        element.clear()
    elif element.tag in _OTHER:
        content.skipped[element.tag] += 1
        element.clear()


def _annotations(content: _Content) -> Annotations:
    owners = content.owners()
    frames: dict[int, list[tuple[int, _Shape]]] = {}
    objects: dict[int, VideoObject] = {}
    joints: dict[str, None] = {}
    for shape in content.shapes:
        key = owners[shape.owner]
        frames.setdefault(shape.frame, []).append((key, shape))
        objects.setdefault(key, VideoObject(key, category=shape.owner[1]))
        joints.update(dict.fromkeys(name for name, *_ in shape.parts))
    file = _File(content.place, content.size, tuple(joints), frames)
    described = tuple(objects[key] for key in sorted(objects))
    count = content.opening.frame_count or content.frame_count
    return Annotations(file.frames, described, tuple(joints), size=content.size, frame_count=count)


def _meta(element: Any, content: _Content) -> None:  # noqa: ANN401
    """Take in the size of the frames or their number."""
    if element.tag == "size":
        if (element.text or "").strip().isdecimal():
            content.frame_count = whole_number(element.text, "the size of the task", content.place)
        return
    sides = [whole_number(element.findtext(side), side, content.place) for side in ("height", "width")]
    content.size = same_size(check_size(sides[0], sides[1], content.place), content.size, content.place)


def _events(path: Path) -> Iterator[tuple[str, Any]]:
    """Parse without DTDs, so that there are no entities.

    Raises:
        ValueError: it is no XML, or has a DTD.
        ImportError: defusedxml is missing.
    """
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ImportError as error:
        raise ImportError("CVAT's XML is read with defusedxml: pip install siammae[formats]") from error
    try:
        with path.open("rb") as file:
            yield from ElementTree.iterparse(file, ("start", "end"), forbid_dtd=True)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML: {error}.") from None
    except DefusedXmlException:
        raise ValueError(f"{path} defines entities or a DTD, which labels have no need of: it is not read.") from None


CVAT = Format(
    name="cvat",
    title="CVAT 1.1 XML, for video and for images: masks, polygons, skeletons",
    pixels=(
        "pixel (0, 0) goes from 0 to 1, so its centre is at 0.5 (cvat-ai/cvat #9973): points are shifted by half a "
        "pixel; polygons are filled by pycocotools as in datumaro."
    ),
    recognise=_recognise,
    read=_read,
    write=write,
    suffix=".xml",
    holds=frozenset(
        {
            Feature.MASKS,
            Feature.HOLES,
            Feature.ALIKE,
            Feature.OVERLAP,
            Feature.POINTS,
            Feature.SEVERAL,
            Feature.HIDDEN,
            Feature.CATEGORIES,
            Feature.AUTHORS,
        }
    ),
    limits=(
        "boxes, lines, ellipses and cuboids are not read; frames between keyframes only where the file lists them. An "
        "object's masks are tied together by group_id."
    ),
)
