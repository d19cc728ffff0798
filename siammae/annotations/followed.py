"""Labels of every frame, as propagation makes them: in the form that all formats are written from."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.masks import VOID, mask_ids
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility

_NOWHERE = (-1.0, -1.0)  # how results say that a keypoint is not there


class MapSpool:
    """Maps of ids on disk, compressed, written one after the other and read from the first on; gone when closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="siammae-")  # noqa: SIM115 -- it lives as long as this object
        self._lengths: list[int] = []
        self._shape: tuple[int, ...] = ()

    def add(self, ids: NDArray[np.uint8]) -> None:
        """Write the map ``(H, W)`` of the next frame."""
        self._shape = ids.shape
        self._file.seek(0, 2)
        self._lengths.append(self._file.write(zlib.compress(np.ascontiguousarray(ids).data, 1)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        start = 0
        for length in self._lengths:
            self._file.seek(start)
            yield np.frombuffer(zlib.decompress(self._file.read(length)), np.uint8).reshape(self._shape)
            start += length

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def followed_masks(
    maps: Iterable[NDArray[np.uint8]],
    confidence: Sequence[Mapping[int, float]],
    *,
    objects: Sequence[VideoObject] = (),
    authors: Mapping[int, bool] | None = None,
    names: Sequence[str] = (),
) -> Annotations:
    """Describe masks of a whole video.

    Args:
        maps: ids ``(H, W)`` of each frame, 255 void; walked through once for each format, and once more for some.
        confidence: by object, of each frame.
        objects: those that were followed.
        authors: by frame, whether a person made it; the others were followed. None = nothing is said of any.
        names: of the frames' images; empty where they have none.
    """
    size: list[tuple[int, int]] = [(ids.shape[0], ids.shape[1]) for ids in _first(maps)]

    def frames() -> Iterator[FrameLabels]:
        for index, ids in enumerate(maps):
            void = ids == VOID
            keys = mask_ids(ids)
            yield FrameLabels(
                index,
                {key: ids == key for key in keys},
                confidence={key: value for key, value in confidence[index].items() if key in keys and value == value},
                void=void if void.any() else None,
                by_person=None if authors is None else authors.get(index, False),
                name=names[index] if index < len(names) else "",
            )

    return Annotations(frames, tuple(objects), size=size[0] if size else None, frame_count=len(confidence))


def _first(maps: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for ids in maps:
        yield ids
        return


def followed_points(
    frames: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]],
    rows: Sequence[tuple[int, int]],
    described: Annotations,
    *,
    size: tuple[int, int] | None,
    authors: Mapping[int, bool] | None = None,
    names: Sequence[str] = (),
) -> Annotations:
    """Describe keypoints of a whole video.

    Args:
        frames: points ``(N, 2)`` and confidence ``(N,)`` of each frame; -1, -1 = not there.
        rows: the object and the place among the joints of each point.
        described: labels whose objects, joints and skeleton these are.
        size: ``(H, W)`` of the frames.
        authors: by frame, whether a person made it; the others were followed. None = nothing is said of any.
        names: of the frames' images; empty where they have none.
    """
    keys = sorted({key for key, _ in rows})

    def walk() -> Iterator[FrameLabels]:
        for index, (points, sure) in enumerate(frames):
            tables = {key: np.full((len(described.joints), 3), np.nan) for key in keys}
            for (key, joint), point, value in zip(rows, points, sure, strict=True):
                if tuple(point) != _NOWHERE:
                    tables[key][joint] = *point, value
            some = {
                key: Keypoints.of(table[:, :2], confidence=np.nan_to_num(table[:, 2])) for key, table in tables.items()
            }
            yield FrameLabels(
                index,
                keypoints={key: one for key, one in some.items() if (one.visibility != Visibility.MISSING).any()},
                by_person=None if authors is None else authors.get(index, False),
                name=names[index] if index < len(names) else "",
            )

    objects = tuple(described.object(key) for key in keys)
    return Annotations(walk, objects, described.joints, described.skeleton, size, len(frames))
