"""What all label formats have in common: a video's objects, and what is known of them frame by frame.

Coordinates are x, y in pixels; pixel (0, 0) has its centre at 0.0. Formats that count otherwise convert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Visibility(IntEnum):
    """What is known of a joint; the numbers are COCO's."""

    MISSING = 0
    HIDDEN = 1
    VISIBLE = 2


@dataclass(frozen=True, slots=True)
class VideoObject:
    """One object of a video.

    Attributes:
        id: at least 1, the same in all frames.
        name: of this object; empty where it has none.
        category: what kind of thing it is; empty where no one said.
        colour: red, green, blue, 0 to 255.
    """

    id: int
    name: str = ""
    category: str = ""
    colour: tuple[int, int, int] | None = None

    @property
    def label(self) -> str:
        """The name, else the category, else the id."""
        return self.name or self.category or str(self.id)


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The joints of one object in one frame, in the order of ``Annotations.joints``.

    Attributes:
        points: ``(J, 2)`` float64 x, y; NaN where the joint is missing.
        visibility: ``(J,)`` uint8, see :class:`Visibility`.
        confidence: ``(J,)`` float32 in [0, 1].
    """

    points: NDArray[np.float64]
    visibility: NDArray[np.uint8]
    confidence: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        points: NDArray[np.floating],
        visibility: NDArray[np.integer] | None = None,
        confidence: NDArray[np.floating] | None = None,
    ) -> Keypoints:
        """Take joints of which those that are NaN are missing and the others seen and sure, if no one says otherwise.

        Args:
            points: ``(J, 2)``.
            visibility: ``(J,)``.
            confidence: ``(J,)``.

        Raises:
            ValueError: the shapes do not fit.
        """
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points have the shape {points.shape}: it must be (joints, 2).")
        missing = np.isnan(points).any(axis=1)
        seen = np.full(len(points), Visibility.VISIBLE, np.uint8) if visibility is None else visibility.astype(np.uint8)
        sure = np.ones(len(points), np.float32) if confidence is None else confidence.astype(np.float32)
        if seen.shape != missing.shape or sure.shape != missing.shape:
            raise ValueError(f"{len(points)} joints, visibility {seen.shape}, confidence {sure.shape}: one for each.")
        seen = np.where(missing, np.uint8(Visibility.MISSING), seen)
        kept = np.where((seen == Visibility.MISSING)[:, None], np.nan, points.astype(np.float64))
        return cls(kept, seen, sure)


@dataclass(frozen=True, slots=True)
class FrameLabels:
    """What is known of one frame. A frame that was looked at and holds nothing has empty mappings.

    Attributes:
        index: of the frame in the video, from 0.
        masks: ``(H, W)`` bool of each object that is there; two may share pixels.
        keypoints: of each object that has some.
        confidence: of each object's mask, in [0, 1]; left out where no one said.
        void: ``(H, W)`` bool, pixels that belong to no one and are not scored.
        by_person: True = a person made it, False = it was followed or interpolated, None = the file does not say.
        name: of the frame's image, without folder and suffix; empty where frames have only numbers.
    """

    index: int
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    keypoints: Mapping[int, Keypoints] = field(default_factory=dict)
    confidence: Mapping[int, float] = field(default_factory=dict)
    void: NDArray[np.bool_] | None = None
    by_person: bool | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Annotations:
    """The labels of one video; frames are decoded one at a time, each time they are walked through.

    Attributes:
        frames: makes an iterator over the labelled frames, by index upwards.
        objects: those that the source describes; frames may hold more.
        joints: names of the keypoints of an object.
        skeleton: pairs of joints, from 0, that a line connects.
        size: ``(H, W)`` of the frames; None where the source does not say.
        frame_count: of the video; None where the source does not say.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> frames = [siammae.FrameLabels(0, {1: np.ones((4, 4), bool)})]
        >>> labels = siammae.Annotations(lambda: iter(frames), (siammae.VideoObject(1, "cat"),), size=(4, 4))
        >>> [(frame.index, sorted(frame.masks)) for frame in labels.frames()]
        [(0, [1])]
    """

    frames: Callable[[], Iterator[FrameLabels]]
    objects: tuple[VideoObject, ...] = ()
    joints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    size: tuple[int, int] | None = None
    frame_count: int | None = None

    def __iter__(self) -> Iterator[FrameLabels]:
        """Walk through the labelled frames."""
        return self.frames()

    def object(self, object_id: int) -> VideoObject:
        """Return what is known of an object, which may be no more than its id."""
        return next((one for one in self.objects if one.id == object_id), VideoObject(object_id))
