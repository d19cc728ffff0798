"""Results in the formats that ``--format`` names; what they cannot hold is said before the work where it is known."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from siammae.annotations.files import LabelWriter
    from siammae.annotations.formats.format import Feature, Format
    from siammae.annotations.model import Annotations
    from siammae.cli.given import Masks, Points
    from siammae.frames import Backend
    from siammae.propagation.keypoint_propagator import FrameKeypoints
    from siammae.propagation.labels import FrameMasks

_log = logging.getLogger(__name__)


def add_format_option(parser: argparse.ArgumentParser, default: str, place: str) -> None:
    """Add the formats of the results."""
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help=f"of the results, by `siammae formats` ({default}); may be repeated: {place}",
    )


def chosen_formats(names: Sequence[str] | None, default: str, feature: Feature) -> list[Format]:
    """Return the formats of the results.

    Raises:
        ValueError: one is unknown, only read, named twice, or has no place for what is written.
    """
    from siammae.annotations.files import find_writable
    from siammae.annotations.formats.registry import FORMATS

    formats = [find_writable(name) for name in names or [default]]
    for place, one in enumerate(formats):
        if feature not in one.holds:
            able = ", ".join(other.name for other in FORMATS if feature in other.holds)
            raise ValueError(f"--format {one.name} has no place for {feature}: those that have are {able}.")
        if one in formats[:place]:
            raise ValueError(f"--format {one.name} is given twice: give it once.")
    return formats


def foresee_losses(formats: Iterable[str], sample: Annotations) -> dict[str, set[Feature]]:
    """Write a sample of the results in each format, away from everything, and say what has no place.

    Args:
        formats: of the results.
        sample: a frame that a person made and one that was followed.

    Returns:
        What was said, by the name of the format.

    Raises:
        ValueError: a format cannot hold a value.
        ImportError: it needs a package that is not installed.
    """
    from siammae.annotations.files import claim_labels
    from siammae.annotations.formats.format import Feature
    from siammae.annotations.formats.registry import find_format

    said: dict[str, set[Feature]] = {}
    with tempfile.TemporaryDirectory(prefix="siammae-") as folder:
        for one in map(find_format, formats):
            with claim_labels(Path(folder) / f"{one.name}{one.suffix}", format=one.name) as write:
                lost = write(sample, said=frozenset(Feature)).lost
            said[one.name] = set(lost)
            if lost:
                _log.warning("%s has no place for: %s.", one.name, ", ".join(lost))
    return said


class MaskSink:
    """Takes masks frame by frame, keeps them compressed on disk, and writes them in the formats at the end.

    Args:
        writers: of the formats by their names, which hold their places; what they cannot hold is said now.
        given: the masks of annotated frames.
    """

    def __init__(self, writers: Mapping[str, LabelWriter], given: Masks) -> None:
        from siammae.annotations.followed import MapSpool

        self._writers, self._given = writers, given
        self._said = foresee_losses(writers, self._sample())
        self._spool = MapSpool()
        self._sure: list[dict[int, float]] = []
        self._ids: tuple[int, ...] = ()

    def _sample(self) -> Annotations:
        from siammae.annotations.masks import mask_ids

        ids = self._given.maps.ids(min(self._given.maps))
        return self._described([ids, ids], [dict.fromkeys(mask_ids(ids), sure) for sure in (1.0, 0.5)], {0: True})

    def _described(
        self, maps: Iterable[NDArray[np.uint8]], sure: list[dict[int, float]], authors: dict[int, bool]
    ) -> Annotations:
        from siammae.annotations.followed import followed_masks

        return followed_masks(maps, sure, objects=self._given.objects, authors=authors, names=self._given.names)

    def add(self, result: FrameMasks, ids: NDArray[np.uint8]) -> None:
        """Take the next frame."""
        self._spool.add(ids)
        self._sure.append(dict(zip(result.object_ids, result.confidence.tolist(), strict=True)))

    def write(self) -> list[str]:
        """Write all formats; returns a line for each."""
        described = self._described(self._spool, self._sure, self._given.authors)
        return write_all(self._writers, described, self._said)

    def close(self) -> None:
        """Let go of what is on disk."""
        self._spool.close()


class PointSink:
    """Takes keypoints frame by frame and writes them in the formats at the end.

    Args:
        writers: of the formats by their names, which hold their places; what they cannot hold is said now.
        given: the keypoints of annotated frames.
        video: what they were followed in; tells the frames' size and names.
        reader: decodes it.
    """

    def __init__(self, writers: Mapping[str, LabelWriter], given: Points, video: str, reader: Backend) -> None:
        from siammae.annotations.files import open_video

        self._writers, self._given = writers, given
        self._opening = open_video(video, reader=reader)
        self._frames: list[FrameKeypoints] = []
        self._said = foresee_losses(writers, self._sample())

    def _sample(self) -> Annotations:
        import numpy as np

        from siammae.propagation.keypoint_propagator import FrameKeypoints

        points = np.nan_to_num(next(iter(self._given.frames.values())), nan=-1).astype(np.float32)
        frames = [FrameKeypoints(points, np.full(len(points), sure, np.float32)) for sure in (1, 0.5)]
        return self._described(frames, {0: True})

    def _described(self, frames: Sequence[FrameKeypoints], authors: Mapping[int, bool]) -> Annotations:
        from siammae.annotations.followed import followed_points

        given, video = self._given, self._opening
        return followed_points(
            frames, given.rows, given.described, size=video.size, authors=authors, names=video.frame_names
        )

    def add(self, result: FrameKeypoints) -> None:
        """Take the next frame."""
        self._frames.append(result)

    def write(self) -> list[str]:
        """Write all formats; returns a line for each."""
        return write_all(self._writers, self._described(self._frames, self._given.authors), self._said)


def file_names() -> list[str]:
    """Return the names of all files of masks that a folder of results may hold by ``--format``."""
    from siammae.annotations.formats.format import Feature
    from siammae.annotations.formats.registry import FORMATS

    return [one.name + one.suffix for one in FORMATS if Feature.MASKS in one.holds and one.suffix]


def write_all(
    writers: Mapping[str, LabelWriter], annotations: Annotations, said: Mapping[str, set[Feature]]
) -> list[str]:
    """Write results in all formats; returns a line for each."""
    written = [write(annotations, said=said[name]) for name, write in writers.items()]
    return [f"{one.frames} frames as {one.format}: {one.path}" for one in written]
