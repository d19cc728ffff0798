"""CVAT for video 1.1, written as its own exports are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.rle import runs_of
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, Visibility

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LABEL = "object"
_CONTROL = dict.fromkeys(range(32), " ")  # what XML 1.0 has no way to write


class _Xml:
    def __init__(self, generator: XMLGenerator) -> None:
        self._generator = generator

    @contextmanager
    def element(self, name: str, attributes: Mapping[str, object] | None = None) -> Iterator[None]:
        clean = {key: str(value).translate(_CONTROL) for key, value in (attributes or {}).items()}
        self._generator.startElement(name, AttributesImpl(clean))
        yield
        self._generator.endElement(name)
        self._generator.characters("\n")

    def text(self, name: str, value: object) -> None:
        with self.element(name):
            self._generator.characters(str(value).translate(_CONTROL))


def write(path: Path, annotations: Annotations) -> None:
    """Write masks as tracks of one frame, as they come, then a track of skeletons for each object."""
    skeletons: dict[int, list[tuple[FrameLabels, Keypoints]]] = {}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        generator = XMLGenerator(file, "utf-8", short_empty_elements=True)
        generator.startDocument()
        xml = _Xml(generator)
        with xml.element("annotations"):
            xml.text("version", "1.1")
            _write_meta(xml, annotations)
            track = 0
            for frame in annotations:
                for key, mask in sorted(frame.masks.items()):
                    with xml.element("track", _track(track, key, annotations, frame.by_person)):
                        _write_mask(xml, frame, mask)
                    track += 1
                for key, some in frame.keypoints.items():
                    skeletons.setdefault(key, []).append((frame, some))
            for key, shapes in sorted(skeletons.items()):
                with xml.element("track", _track(track, key, annotations, None)):
                    for frame, some in shapes:
                        _write_skeleton(xml, frame, some, annotations.joints)
                track += 1
        generator.endDocument()


def _write_meta(xml: _Xml, annotations: Annotations) -> None:
    labels = dict.fromkeys([*(one.category or _NO_LABEL for one in annotations.objects), _NO_LABEL])
    with xml.element("meta"), xml.element("task"):
        if annotations.frame_count is not None:
            xml.text("size", annotations.frame_count)
        xml.text("mode", "interpolation")
        with xml.element("labels"):
            for label in labels:
                with xml.element("label"):
                    xml.text("name", label)
        if annotations.size is not None:
            with xml.element("original_size"):
                xml.text("width", annotations.size[1])
                xml.text("height", annotations.size[0])


def _track(number: int, key: int, annotations: Annotations, by_person: bool | None) -> dict[str, object]:
    source = {True: "manual", False: "auto", None: "file"}[by_person]
    label = annotations.object(key).category or _NO_LABEL
    return {"id": number, "label": label, "source": source, "group_id": key}


def _write_mask(xml: _Xml, frame: FrameLabels, mask: NDArray[np.bool_]) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    attributes = {
        "frame": frame.index,
        "keyframe": 1,
        "outside": 0,
        "occluded": 0,
        "rle": ", ".join(map(str, runs_of(inner.ravel()))),
        "left": columns[0],
        "top": rows[0],
        "width": inner.shape[1],
        "height": inner.shape[0],
        "z_order": 0,
    }
    with xml.element("mask", attributes):
        pass


def _write_skeleton(xml: _Xml, frame: FrameLabels, some: Keypoints, joints: tuple[str, ...]) -> None:
    attributes: dict[str, object] = {"frame": frame.index, "keyframe": 1, "z_order": 0}
    if frame.by_person is not None:
        attributes["source"] = "manual" if frame.by_person else "auto"
    with xml.element("skeleton", attributes):
        for name, (x, y), visibility in zip(joints, some.points, some.visibility, strict=True):
            missing = visibility == Visibility.MISSING
            joint = {
                "label": name,
                "keyframe": 1,
                "outside": int(missing),
                "occluded": int(visibility == Visibility.HIDDEN),
                "points": "0.00,0.00" if missing else f"{x + 0.5:.4f},{y + 0.5:.4f}",
            }
            with xml.element("points", joint):
                pass
