"""What of some labels is meant, objects by name and frames by number, and what propagation takes of them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siammae.annotations.formats.davis import label_map
from siammae.annotations.masks import MAX_OBJECTS, mask_image
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, Visibility


class PackedMaps(Mapping[int, Image.Image]):
    """Maps of ids by frame, compressed in memory, each unpacked when it is asked for."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    def __getitem__(self, index: int) -> Image.Image:
        return mask_image(self.ids(index))  # which is never taken for anything but ids

    def ids(self, index: int) -> NDArray[np.uint8]:
        """Return the map of a frame."""
        packed, shape = self._packed[index]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, index: int, ids: NDArray[np.uint8]) -> None:
        """Keep the map ``(H, W)`` of a frame, 0 background, 255 void.

        Raises:
            ValueError: the frame has one already.
        """
        if index in self._packed:
            raise ValueError(f"frame {index} has two masks: give each frame one, as --mask {index}=PNG.")
        self._packed[index] = zlib.compress(np.ascontiguousarray(ids).data, 1), ids.shape


def choose(
    labels: Annotations, objects: Mapping[str, int | None] | None = None, frames: Collection[int] | None = None
) -> Annotations:
    """Take some objects of some frames.

    Args:
        labels: of a video.
        objects: each one's name, else category, else id in text, and the id that it gets; None = keeps its own. No
            mapping, or an empty one, takes all.
        frames: their numbers; None takes all.

    Returns:
        These only; a frame without one of the objects is there and empty.

    Raises:
        ValueError: a name is of none or several, or two objects get one id; and, while frames are walked through or at
            their end, that a frame or an object is not there.
    """
    ids = {_find(name, labels): wanted for name, wanted in (objects or {}).items()}
    if len(ids) < len(objects or {}):
        raise ValueError(f"{', '.join(objects or {})} name an object twice: name each once.")
    new = {key: key if wanted is None else wanted for key, wanted in ids.items()}
    if twice := [key for key, value in new.items() if list(new.values()).count(value) > 1]:
        raise ValueError(f"objects {twice[0]} and {twice[1]} both get the id {new[twice[0]]}: give each its own.")

    def chosen() -> Iterator[FrameLabels]:
        met, seen = set[int](), set[int]()
        for frame in labels:
            if frames is None or frame.index in frames:
                met |= {*frame.masks, *frame.keypoints}
                yield _only(frame, new) if new else frame
            seen.add(frame.index)
        if frames is not None and (gone := sorted(set(frames) - seen)):
            raise ValueError(
                f"frame {gone[0]} has no labels" + (f": labelled are {_listed(sorted(seen))}." * bool(seen) or ".")
            )
        if gone := [key for key in new if key not in met]:
            raise ValueError(f"object {gone[0]} is in none of the frames: there are {_listed(sorted(met))}.")

    described = tuple(replace(one, id=new[one.id]) for one in labels.objects if one.id in new)
    return replace(labels, frames=chosen, objects=described if new else labels.objects)


def _only(frame: FrameLabels, new: Mapping[int, int]) -> FrameLabels:
    return replace(
        frame,
        masks={new[key]: mask for key, mask in frame.masks.items() if key in new},
        keypoints={new[key]: some for key, some in frame.keypoints.items() if key in new},
        confidence={new[key]: sure for key, sure in frame.confidence.items() if key in new},
    )


def _find(name: str, labels: Annotations) -> int:
    """Return the id of the object that is called so."""
    for called in (
        [one.id for one in labels.objects if one.name == name],
        [one.id for one in labels.objects if one.category == name],
    ):
        if len(called) > 1:
            raise ValueError(f"{name!r} are the objects {_listed(sorted(called))}: name one by its id.")
        if called:
            return called[0]
    if name.isdecimal() and len(name) < 10:
        return int(name)
    known = _listed(list(dict.fromkeys(one.label for one in labels.objects))) or "numbers only"
    raise ValueError(f"no object is called {name!r}: known are {known}.")


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


class GivenMasks(NamedTuple):
    """Masks of annotated frames.

    Attributes:
        maps: of ids, by frame.
        authors: by frame, whether a person made it, as far as no one says otherwise.
        shared: frames in which objects overlapped: the one with the smaller id has kept the pixels.
    """

    maps: PackedMaps
    authors: dict[int, bool]
    shared: list[int]


def pack_masks(labels: Annotations) -> GivenMasks:
    """Turn masks into maps of ids, of the frames that hold an object.

    Raises:
        ValueError: an id is over 254, or no frame has a mask; and what reading the labels raises.
    """
    maps, authors, shared = PackedMaps(), dict[int, bool](), list[int]()
    for frame in labels:
        masks = {key: mask for key, mask in frame.masks.items() if mask.any()}
        if beyond := [key for key in masks if not 1 <= key <= MAX_OBJECTS]:
            raise ValueError(
                f"object {beyond[0]} cannot be followed under this number: ids go from 1 to {MAX_OBJECTS}. Choose "
                f"objects and give them others, as --object {beyond[0]}=1."
            )
        if masks:
            size = next(iter(masks.values())).shape
            single = dict(sorted(masks.items(), reverse=True))  # what is painted last stays
            ids = label_map(replace(frame, masks=single), (size[0], size[1]))
            if sum(int(mask.sum()) for mask in masks.values()) > np.count_nonzero(np.isin(ids, list(masks))):
                shared.append(frame.index)
            maps.add(frame.index, ids)
            authors[frame.index] = frame.by_person is not False
    if not maps:
        raise ValueError("the labels hold no mask that could be followed.")
    return GivenMasks(maps, authors, shared)


class GivenPoints(NamedTuple):
    """Keypoints of annotated frames, one row for each joint of each object.

    Attributes:
        names: of the rows: the joint, with its object where there are several.
        frames: x, y ``(N, 2)`` float64 by frame; NaN where it says nothing.
        rows: the object and the place of the joint among ``joints``.
        authors: by frame, whether a person made it, as far as no one says otherwise.
        hidden: in how many frames a joint is hidden behind something, though its place is known.
    """

    names: list[str]
    frames: dict[int, NDArray[np.float64]]
    rows: list[tuple[int, int]]
    authors: dict[int, bool]
    hidden: int


def take_points(labels: Annotations) -> GivenPoints:
    """Turn keypoints into the rows that propagation takes.

    Raises:
        ValueError: no frame has a keypoint; and what reading the labels raises.
    """
    known: dict[int, Mapping[int, Keypoints]] = {}
    rows = set[tuple[int, int]]()
    authors: dict[int, bool] = {}
    hidden = 0
    for frame in labels:
        there = {key: some for key, some in sorted(frame.keypoints.items()) if some.visibility.any()}
        if there:
            known[frame.index], authors[frame.index] = there, frame.by_person is not False
        hidden += any((some.visibility == Visibility.HIDDEN).any() for some in there.values())
        rows |= {(key, int(joint)) for key, some in there.items() for joint in np.flatnonzero(some.visibility)}
    if not rows:
        raise ValueError("the labels hold no keypoint that could be followed.")
    ordered = sorted(rows)
    frames = {
        index: np.array([some[key].points[joint] if key in some else (np.nan, np.nan) for key, joint in ordered])
        for index, some in known.items()
    }
    return GivenPoints(_row_names(ordered, labels), frames, ordered, authors, hidden)


def _row_names(rows: list[tuple[int, int]], labels: Annotations) -> list[str]:
    keys = dict.fromkeys(key for key, _ in rows)
    called = {key: labels.object(key).name or f"{labels.object(key).category or 'object'} {key}" for key in keys}
    if len(set(called.values())) < len(called):
        called = {key: f"{name} {key}" for key, name in called.items()}
    if len(keys) == 1:
        return [labels.joints[joint] for _, joint in rows]
    return [f"{called[key]} {labels.joints[joint]}" for key, joint in rows]
