"""What a format is: what it can hold, how its files are recognised, read and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility


class Feature(StrEnum):
    """Something that labels may have and a format may have no place for."""

    MASKS = "masks"
    HOLES = "holes in masks (they are filled)"
    ALIKE = "which is which of several objects of a category"
    OVERLAP = "overlap of masks"
    VOID = "void pixels"
    POINTS = "keypoints"
    SEVERAL = "keypoints of several objects"
    HIDDEN = "hidden joints (they become visible ones)"
    POINT_CONFIDENCE = "confidence of keypoints"
    MASK_CONFIDENCE = "confidence of masks"
    NAMES = "names of objects"
    CATEGORIES = "categories"
    COLOURS = "colours"
    SKELETON = "the skeleton"
    AUTHORS = "which frames a person made"
    EMPTY = "frames that hold nothing"


@dataclass(frozen=True, slots=True)
class Opening:
    """What the caller knows of the video whose labels are read.

    Attributes:
        size: ``(H, W)`` of its frames.
        frame_count: how many frames it has.
        frame_names: names of its images in order, without suffix; empty for a video file.
        sequence: which video is meant, where a file or folder holds several.
        frames: the only ones that are meant, None = all. What a file says of others cannot stand in their way: frames
            of another size, or objects of which no one can tell which is which in the next frame.
    """

    size: tuple[int, int] | None = None
    frame_count: int | None = None
    frame_names: tuple[str, ...] = ()
    sequence: str | None = None
    frames: frozenset[int] | None = None

    def wants(self, index: int) -> bool:
        """Say whether a frame is meant."""
        return self.frames is None or index in self.frames

    def frame_index(self, name: str, place: object) -> int:
        """Find the frame of an image: its place among the video's images, else the number at the end of its name.

        Raises:
            ValueError: the video has no such frame, or the name no number.
        """
        stem = Path(name.replace("\\", "/")).stem
        if self.frame_names:
            if stem not in self.frame_names:
                raise ValueError(f"{place} labels {stem!r}, which is no image of the video.")
            return self.frame_names.index(stem)
        if not (number := re.search(r"(\d{1,9})\D*$", stem)):
            raise ValueError(f"{place}: {stem!r} has no frame number. Name the folder of images with --video.")
        return int(number[1])

    def numbered(self, number: int, place: object) -> int:
        """Find the frame of a number: of the image that is called so, else the number itself.

        Raises:
            ValueError: the video has no such frame.
        """
        if self.frame_names:
            called = [re.search(r"(\d{1,9})\D*$", name) for name in self.frame_names]
            found = [index for index, digits in enumerate(called) if digits and int(digits[1]) == number]
            if not found:
                raise ValueError(f"{place} labels frame {number}, which no image of the video is called.")
            return found[0]
        return number

    def need_size(self, place: object) -> tuple[int, int]:
        """Return the size of the frames where the file does not tell it.

        Raises:
            ValueError: no one told it.
        """
        if self.size is None:
            raise ValueError(f"{place} does not say how large its frames are. Name the video, or give size=(H, W).")
        return self.size


@dataclass(frozen=True, slots=True)
class Format:
    """One file format.

    Attributes:
        name: for ``--format``.
        title: what people call it, and whose it is.
        pixels: its convention for coordinates, with the source, and what is done about it.
        recognise: whether a file or folder looks like it; must not raise for files of other formats.
        read: None = only written.
        write: writes to a path that does not exist yet; returns what was lost beyond that for which the format has no
            place, with how many frames lost it. None = only read.
        suffix: of the file that is written; empty = a folder.
        holds: what it has a place for when written.
        categories: the only ones that it knows; None = any.
        limits: what else is worth knowing, in one sentence.
    """

    name: str
    title: str
    pixels: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Opening], Annotations] | None = None
    write: Callable[[Path, Annotations], Mapping[Feature, int] | None] | None = None
    suffix: str = ""
    holds: frozenset[Feature] = frozenset()
    categories: frozenset[str] | None = None
    limits: str = ""


class Watch:
    """Goes between labels and a writer: takes away what the format cannot hold, and remembers what that was.

    Attributes:
        lost: how many frames lost what.
        written: how many frames went through.
    """

    def __init__(self, annotations: Annotations, target: Format) -> None:
        self._source, self._target = annotations, target
        self.lost: dict[Feature, int] = {}
        self.written = 0
        self._kept = False

    def annotations(self) -> Annotations:
        """Return the labels as the format can hold them; walking through them fills ``lost``.

        Raises:
            ValueError: there is nothing that the format holds (raised at the end of the walk).
        """
        source = self._source
        objects = tuple(self._described(one) for one in source.objects)
        skeleton = source.skeleton
        if skeleton and self._loses(Feature.SKELETON):
            skeleton = ()
        return replace(source, frames=self._frames, objects=objects, skeleton=skeleton)

    def add(self, lost: Mapping[Feature, int]) -> None:
        """Remember what the writer itself had to leave out."""
        for feature, count in lost.items():
            if count:
                self.lost[feature] = self.lost.get(feature, 0) + count

    def _loses(self, feature: Feature) -> bool:
        if feature in self._target.holds:
            return False
        self.lost[feature] = self.lost.get(feature, 0) + 1
        return True

    def _described(self, one: VideoObject) -> VideoObject:
        if one.name and self._loses(Feature.NAMES):
            one = replace(one, name="")
        known = self._target.categories
        if one.category and not (known and one.category in known) and self._loses(Feature.CATEGORIES):
            one = replace(one, category="")
        if one.colour and self._loses(Feature.COLOURS):
            one = replace(one, colour=None)
        return one

    def _frames(self) -> Iterator[FrameLabels]:
        self.written = 0
        for frame in self._source:
            yield self._held(frame)
            self.written += 1
        if not self._kept and self.written:
            raise ValueError(f"{self._target.name} can hold nothing of these labels: {', '.join(self.lost)} are lost.")

    def _held(self, frame: FrameLabels) -> FrameLabels:
        masks = {key: mask for key, mask in frame.masks.items() if mask.any()}
        points = {key: some for key, some in frame.keypoints.items() if some.visibility.any()}
        if masks and self._loses(Feature.MASKS):
            masks = {}
        if points and self._loses(Feature.POINTS):
            points = {}
        if len(masks) > 1 and Feature.OVERLAP not in self._target.holds:
            masks = self._without_overlap(masks)
        if len(points) > 1 and self._loses(Feature.SEVERAL):
            points = dict([min(points.items())])
        void = frame.void if frame.void is not None and frame.void.any() else None
        if void is not None and self._loses(Feature.VOID):
            void = None
        by_person = frame.by_person
        if by_person is not None and self._loses(Feature.AUTHORS):
            by_person = None
        if not masks and not points and void is None and not frame.masks and not frame.keypoints:
            self._loses(Feature.EMPTY)
        self._kept = self._kept or bool(masks or points) or not (frame.masks or frame.keypoints)
        return replace(
            frame,
            masks=masks,
            keypoints={key: self._held_points(some) for key, some in points.items()},
            confidence=self._held_confidence(frame, masks),
            void=void,
            by_person=by_person,
        )

    def _without_overlap(self, masks: dict[int, NDArray[np.bool_]]) -> dict[int, NDArray[np.bool_]]:
        """Let the object with the smaller id keep what two claim."""
        if sum(map(np.count_nonzero, masks.values())) == np.count_nonzero(np.logical_or.reduce([*masks.values()])):
            return masks
        taken, result = np.zeros_like(next(iter(masks.values()))), {}
        for key in sorted(masks):
            result[key] = masks[key] & ~taken
            taken = taken | masks[key]
        self._loses(Feature.OVERLAP)
        return {key: mask for key, mask in result.items() if mask.any()}

    def _held_points(self, some: Keypoints) -> Keypoints:
        visibility, confidence = some.visibility, some.confidence
        if (visibility == Visibility.HIDDEN).any() and self._loses(Feature.HIDDEN):
            visibility = np.where(visibility == Visibility.HIDDEN, np.uint8(Visibility.VISIBLE), visibility)
        if (confidence[visibility > 0] != 1).any() and self._loses(Feature.POINT_CONFIDENCE):
            confidence = np.ones_like(confidence)
        return Keypoints(some.points, visibility, confidence)

    def _held_confidence(self, frame: FrameLabels, masks: dict[int, NDArray[np.bool_]]) -> dict[int, float]:
        kept = {key: value for key, value in frame.confidence.items() if key in masks}
        if any(value != 1 for value in kept.values()) and self._loses(Feature.MASK_CONFIDENCE):
            return {}
        return kept
