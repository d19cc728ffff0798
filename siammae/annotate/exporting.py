"""A project as labels of any format, and as a video to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ImageColor

from siammae.annotate.files import FollowedPoint, Point
from siammae.annotate.project import Project
from siammae.annotate.tracks import Track
from siammae.annotations.files import Written, claim_labels, find_writable
from siammae.annotations.formats.format import Format
from siammae.annotations.formats.registry import FORMATS
from siammae.annotations.masks import mask_ids
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility
from siammae.frames import VideoWriter
from siammae.frames.random_access import FrameAccess
from siammae.outputs import claim_files
from siammae.visualize import overlay_keypoints, overlay_masks

Which = Literal["all", "annotated"]
OVERLAY = "overlay.mp4"


def writable_formats() -> list[Format]:
    """Return the formats that can be written."""
    return [one for one in FORMATS if one.write is not None]


def as_annotations(project: Project, which: Which = "all", names: tuple[str, ...] = ()) -> Annotations:
    """Describe a project's labels in the form that all formats are written from.

    Args:
        project: whose.
        which: all frames that were annotated or followed, or only those that a person annotated.
        names: of the frames' images; empty where they have none.

    Raises:
        ValueError: there is no such frame.
    """
    annotated = set(project.annotated)
    known = [f for f in range(project.count) if f in annotated or (which == "all" and project.is_followed(f))]
    if not known:
        what = "annotated" if which == "annotated" else "annotated or followed"
        raise ValueError(f"there is nothing to export: no frame of {project.folder} is {what} yet.")
    objects = tuple(
        VideoObject(thing.id, name=thing.name, colour=_rgb(thing.colour)) for thing in project.described.present
    )
    joints = project.described.joints

    def frames() -> Iterator[FrameLabels]:
        for frame in known:
            with project.lock:
                ids, points = project.labels(frame), project.all_points(frame)
                sure, spoken = project.followed_tracks(frame), project.spoken(frame)
            there = mask_ids(ids)
            yield FrameLabels(
                frame,
                {key: ids == key for key in there},
                _keypoints(points, joints),
                {t.object: v for t, v in sure.items() if not t.joint and t.object in there and t not in spoken},
                by_person=frame in annotated,
                name=names[frame] if frame < len(names) else "",
            )

    return Annotations(frames, objects, joints, size=project.size, frame_count=project.count)


def export_labels(
    project: Project,
    path: Path,
    *,
    format: str,
    which: Which = "all",
    names: tuple[str, ...] = (),
    overwrite: bool = False,
) -> Written:
    """Write a project's labels; arguments and errors are those of :func:`siammae.write_annotations` and above."""
    find_writable(format)
    path.parent.mkdir(parents=True, exist_ok=True)
    video = project.video.get("path")
    with claim_labels(
        path, format=format, inputs=(project.folder / "project.json", video), overwrite=overwrite
    ) as write:
        return write(as_annotations(project, which, names))


def export_overlay(project: Project, frames: FrameAccess, path: Path, *, overwrite: bool = False) -> int:
    """Write a video of all frames with masks and keypoints over them; returns how many.

    Args:
        project: whose.
        frames: of its video.
        path: ``.mp4``, ``.avi`` or ``.webm``.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ValueError: the suffix is wrong, or the file is there or an input.
        BlockingIOError: another run is writing it.
        OSError: it cannot be written.
        VideoReadError: a frame does not decode.
    """
    colours = {thing.id: _rgb(thing.colour) for thing in project.described.present}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        claim_files(path, inputs=(project.video.get("path"),), overwrite=overwrite),
        VideoWriter(path, fps=frames.frame_rate or 25.0) as writer,
    ):
        for frame in range(frames.count):
            picture = overlay_masks(frames.frame(frame), project.labels(frame), colors=colours)
            points = [p for p in project.all_points(frame).values() if _is_there(p)]
            if points:
                picture = overlay_keypoints(picture, np.array([(p.x, p.y) for p in points]))
            writer.write(picture)
    return frames.count


def _keypoints(points: Mapping[Track, Point | FollowedPoint], joints: Sequence[str]) -> dict[int, Keypoints]:
    """Return the keypoints of each object, in the order of their names."""
    found: dict[int, Keypoints] = {}
    for key in sorted({track.object for track in points}):
        places = np.full((len(joints), 2), np.nan)
        seen, sure = np.zeros(len(joints), np.uint8), np.zeros(len(joints), np.float32)
        for row, joint in enumerate(joints):
            point = points.get(Track(key, joint))
            if point is None or not _is_there(point):
                continue
            places[row] = point.x, point.y
            seen[row] = Visibility.VISIBLE if isinstance(point, FollowedPoint) else point.visibility
            sure[row] = point.confidence if isinstance(point, FollowedPoint) else 1.0
        found[key] = Keypoints.of(places, seen, sure)
    return found


def _is_there(point: Point | FollowedPoint) -> bool:
    if isinstance(point, FollowedPoint):
        return (point.x, point.y) != (-1.0, -1.0)
    return point.visibility != Visibility.MISSING


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue
