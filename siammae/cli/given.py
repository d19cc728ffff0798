"""Masks and keypoints of annotated frames, out of the files that options name."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.labels import Reading, Source
from siammae.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from siammae.annotations.model import Annotations, VideoObject
    from siammae.annotations.selection import PackedMaps

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Masks:
    """What was given.

    Attributes:
        maps: of ids, by frame.
        objects: as far as the labels describe them.
        authors: by frame, whether a person made it.
        names: of the video's images, in order; none for a video file.
        files: what was read, as far as it may lie among the video's images.
    """

    maps: PackedMaps
    objects: tuple[VideoObject, ...]
    authors: dict[int, bool]
    names: tuple[str, ...]
    files: list[str]


@dataclass(frozen=True)
class Points:
    """What was given.

    Attributes:
        names: of the rows.
        frames: x, y ``(N, 2)`` float64 by frame; NaN where it says nothing, -1, -1 where it says: not there.
        rows: the object and the place among the joints of each.
        described: objects, joints and skeleton.
        authors: by frame, whether a person made it.
    """

    names: list[str]
    frames: dict[int, NDArray[np.float64]]
    rows: list[tuple[int, int]]
    described: Annotations
    authors: dict[int, bool]


def given_masks(args: argparse.Namespace, sources: Sequence[Source]) -> Masks:
    """Read the masks of annotated frames.

    Raises:
        ValueError: options do not fit what the files hold, two masks are of one frame, or a file is refused.
        FileNotFoundError: there is nothing at a path.
    """
    from siammae.annotations.selection import PackedMaps, pack_masks

    reading = Reading(args, sources)
    maps, authors = PackedMaps(), dict[int, bool]()
    objects: dict[int, VideoObject] = {}
    files = [text for _, text in sources]
    for frame, text in sources:
        if pictures := reading.pictures(frame, Path(text)):
            for index, file in pictures.items():
                maps.add(index, reading.picture(file))
                authors[index] = True
                files.append(str(file))
            continue
        labels = reading.labels(frame, Path(text))
        given = pack_masks(labels)
        if given.shared:
            _log.warning(
                "%s: objects overlap in %d frames, first in frame %d: the one with the smaller id keeps the pixels.",
                *(printable(text), len(given.shared), given.shared[0]),
            )
        for index in given.maps:
            maps.add(index, given.maps.ids(index))
        authors |= given.authors
        objects |= {one.id: one for one in labels.objects}
    return Masks(maps, tuple(objects[key] for key in sorted(objects)), authors, reading.names(), files)


def given_points(args: argparse.Namespace, sources: Sequence[Source]) -> Points:
    """Read the keypoints of annotated frames.

    Raises:
        ValueError: options do not fit what the files hold, a frame has a keypoint twice, or a file is refused.
        FileNotFoundError: there is nothing at a path.
    """
    import numpy as np

    from siammae.annotations.keypoints import read_points
    from siammae.annotations.model import Annotations, VideoObject
    from siammae.annotations.selection import take_points

    reading = Reading(args, sources)
    tables = [(frame, Path(text)) for frame, text in sources if reading.is_table(Path(text))]
    owners: dict[str, tuple[int, str]] = {}
    frames: dict[int, dict[str, tuple[float, float]]] = {}
    authors: dict[int, bool] = {}
    objects: dict[int, VideoObject] = {}
    joints: dict[str, None] = {}
    skeleton: tuple[tuple[str, str], ...] = ()

    def take(names: Sequence[str], given: Mapping[int, NDArray[np.float64]], owned: Sequence[tuple[int, str]]) -> None:
        owners.update(zip(names, owned, strict=True))
        joints.update(dict.fromkeys(joint for _, joint in owned))
        for index, points in given.items():
            for name, point in zip(names, points.tolist(), strict=True):
                if name in frames.setdefault(index, {}):
                    raise ValueError(f"frame {index} has the keypoint {name!r} in two files: give it once.")
                if point[0] == point[0]:
                    frames[index][name] = point[0], point[1]

    if tables:
        names, given = read_points(tables)
        take(names, reading.of_tables(given), [(1, name) for name in names])
        authors |= dict.fromkeys(given, True)
        objects[1] = VideoObject(1)
    for frame, text in sources:
        if not reading.is_table(Path(text)):
            labels = reading.labels(frame, Path(text))
            some = take_points(labels)
            take(some.names, some.frames, [(key, labels.joints[joint]) for key, joint in some.rows])
            authors |= some.authors
            objects |= {one.id: one for one in labels.objects}
            skeleton = skeleton or tuple((labels.joints[a], labels.joints[b]) for a, b in labels.skeleton)
            if some.hidden:
                _log.warning("%s: joints are hidden in %d frames; their places are followed.", text, some.hidden)
    places = {joint: place for place, joint in enumerate(joints)}
    bones = tuple((places[a], places[b]) for a, b in skeleton if a in places and b in places)
    described = Annotations(lambda: iter(()), tuple(objects.values()), tuple(joints), bones)
    nowhere = (np.nan, np.nan)
    return Points(
        list(owners),
        {index: np.array([named.get(name, nowhere) for name in owners]) for index, named in frames.items()},
        [(key, places[joint]) for key, joint in owners.values()],
        described,
        authors,
    )
