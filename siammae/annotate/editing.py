"""What a person does to a frame, and undoes again."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siammae.annotate.files import FollowedPoint, Point
from siammae.annotate.project import Project
from siammae.annotate.tracks import Track
from siammae.annotations.masks import mask_ids
from siammae.annotations.model import Visibility
from siammae.frames.grabcut import Box, cut_out

KEEP = 255  # in what a stroke sends: this pixel stays as it is
_STEPS, _FRAMES = 50, 200  # that can be undone: of a frame, and in how many frames
_SCRIBBLE_REACH = 1.0  # of a scribble's size, that a thing may reach beyond it to each side
Line = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A frame as a person had made it."""

    ids: bytes | None  # compressed; None = no one had drawn
    spoken: frozenset[int]
    points: Mapping[Track, Point]


@dataclass(slots=True)
class _History:
    undo: list[_Snapshot] = field(default_factory=list)
    redo: list[_Snapshot] = field(default_factory=list)


class Editor:
    """Changes frames of a project; every change can be undone for as long as this object lives.

    Args:
        project: that is changed.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._histories: OrderedDict[int, _History] = OrderedDict()

    def can_undo(self, frame: int) -> tuple[bool, bool]:
        """Say whether there is something to undo and to redo in a frame."""
        history = self._histories.get(frame)
        return (bool(history.undo), bool(history.redo)) if history else (False, False)

    def paint(self, frame: int, left: int, top: int, pixels: NDArray[np.uint8]) -> None:
        """Set pixels of a frame.

        Args:
            frame: its number.
            left: where the pixels begin.
            top: likewise.
            pixels: ``(h, w)`` ids; 0 = background, 255 = stays as it is.

        Raises:
            ValueError: they reach beyond the frame, or hold an id that no object has.
        """
        project = self._project
        with project.lock:
            height, width = pixels.shape
            if min(left, top) < 0 or left + width > project.size[1] or top + height > project.size[0]:
                raise ValueError(f"{width} x {height} pixels at {left}, {top} reach beyond the frame.")
            for number in mask_ids(pixels):
                project.described.thing(number)
            before = project.labels(frame)
            after = before.copy()
            part = after[top : top + height, left : left + width]
            part[:] = np.where(pixels == KEEP, part, pixels)
            self._draw(frame, before, after)

    def cut(
        self,
        frame: int,
        object_id: int,
        image: NDArray[np.uint8],
        box: Box | None,
        inside: Line,
        outside: Line,
        radius: float,
    ) -> None:
        """Make a mask out of a box around a thing or a scribble on it, by GrabCut.

        Pixels of other objects stay theirs. A box makes the object's mask in it anew, a scribble adds to it.

        Args:
            frame: its number.
            object_id: whose mask it becomes.
            image: the frame, RGB ``(H, W, 3)``.
            box: left, top, right, bottom; None = around the scribble.
            inside: corners x, y of a scribble on the thing; may be empty with a box.
            outside: of one beside it; may be empty.
            radius: of the scribbles, in pixels.

        Raises:
            ValueError: there is neither box nor scribble, or it lies outside the frame; or there is no such object.
        """
        project = self._project
        project.described.thing(object_id)
        if box is None and len(inside) == 0:
            raise ValueError("a box or a scribble is needed to cut something out.")
        marks = [self._scribbled(line, radius) if len(line) else None for line in (inside, outside)]
        found = cut_out(image, box or _around(inside, radius), inside=marks[0], outside=marks[1])
        with project.lock:
            before = project.labels(frame)
            after = before.copy()
            if box is not None:
                near = after[max(0, box[1]) : max(0, box[3]), max(0, box[0]) : max(0, box[2])]
                near[near == object_id] = 0
            after[found & ((after == 0) | (after == object_id))] = object_id
            self._draw(frame, before, after, also=[object_id])

    def mark_absent(self, frame: int, object_id: int) -> None:
        """Say that an object is not in a frame."""
        project = self._project
        with project.lock:
            project.described.thing(object_id)
            before = project.labels(frame)
            self._draw(frame, before, np.where(before == object_id, np.uint8(0), before), also=[object_id])

    def approve(self, frame: int) -> None:
        """Say that a frame is right as it is: it counts as drawn."""
        project = self._project
        with project.lock:
            followed = [t for t in project.followed_tracks(frame) if project.described.knows(t)]
            masks = [track.object for track in followed if not track.joint]
            before = project.labels(frame)
            points = {t: _as_set(p) for t, p in project.all_points(frame).items()}
            if not masks and not points and not before.any() and not project.is_drawn(frame):
                raise ValueError("there is nothing in this frame to approve: draw, or follow something into it first.")
            if masks or before.any() or project.is_drawn(frame):
                self._draw(frame, before, before, also=masks, points=points)
            else:
                self._remember(frame)
                project.set_points(frame, points)

    def reset(self, frame: int) -> None:
        """Take back everything that a person did in a frame; what was followed into it is seen again."""
        project = self._project
        with project.lock:
            self._remember(frame)
            if project.points.get(frame):
                project.set_points(frame, {})
            if project.is_drawn(frame):
                project.draw(frame, None, (), ())

    def set_point(self, frame: int, track: Track, point: Point | None) -> None:
        """Set, move or hide a keypoint, say that it is not there, or (None) take back what was said.

        Raises:
            ValueError: it lies outside the frame, or there is no such keypoint.
        """
        project = self._project
        if not track.joint or not project.described.knows(track):
            raise ValueError(f"no keypoint {track}: add its object and its name first.")
        if point is not None and point.visibility != Visibility.MISSING:
            right, bottom = project.size[1] - 0.5, project.size[0] - 0.5
            if not (-0.5 <= point.x <= right and -0.5 <= point.y <= bottom):
                raise ValueError(f"({point.x:g}, {point.y:g}) lies outside the frame: x to {right}, y to {bottom}.")
        with project.lock:
            points = dict(project.points.get(frame, {}))
            if points.get(track) == point:
                return
            self._remember(frame)
            points.pop(track, None)
            project.set_points(frame, points if point is None else {**points, track: point})

    def undo(self, frame: int) -> bool:
        """Take back the last change of a frame; False where there is none."""
        return self._step(frame, back=True)

    def redo(self, frame: int) -> bool:
        """Do again what was undone; False where nothing was."""
        return self._step(frame, back=False)

    def _step(self, frame: int, *, back: bool) -> bool:
        project = self._project
        with project.lock:
            history = self._histories.get(frame, _History())
            source, target = (history.undo, history.redo) if back else (history.redo, history.undo)
            if not source:
                return False
            target.append(self._snapshot(frame))
            self._restore(frame, source.pop())
            return True

    def _restore(self, frame: int, snapshot: _Snapshot) -> None:
        project = self._project
        if project.points.get(frame, {}) != snapshot.points:
            project.set_points(frame, snapshot.points)
        before = project.drawn(frame)
        if snapshot.ids is None:
            if before is not None:
                project.draw(frame, None, (), ())
            return
        ids = np.frombuffer(zlib.decompress(snapshot.ids), np.uint8).reshape(project.size)
        changed = _changed(project.labels(frame) if before is None else before, ids)
        if before is None or changed or snapshot.spoken != {t.object for t in project.spoken(frame) if not t.joint}:
            project.draw(frame, ids, snapshot.spoken, changed)

    def _draw(
        self,
        frame: int,
        before: NDArray[np.uint8],
        after: NDArray[np.uint8],
        also: Iterable[int] = (),
        points: Mapping[Track, Point] | None = None,
    ) -> None:
        """Keep a changed frame. It speaks for all that is seen in it, whoever drew it, and for what was changed."""
        project = self._project
        changed = _changed(before, after)
        said = {t.object for t in project.spoken(frame) if not t.joint}
        self._remember(frame)
        if points is not None and points != project.points.get(frame, {}):
            project.set_points(frame, points)
        project.draw(frame, after, said | changed | set(also) | set(mask_ids(before)), changed)

    def _remember(self, frame: int) -> None:
        history = self._histories.setdefault(frame, _History())
        self._histories.move_to_end(frame)
        history.undo.append(self._snapshot(frame))
        history.redo.clear()
        del history.undo[:-_STEPS]
        while len(self._histories) > _FRAMES:
            self._histories.popitem(last=False)

    def _snapshot(self, frame: int) -> _Snapshot:
        drawn = self._project.drawn(frame)
        ids = None if drawn is None else zlib.compress(np.ascontiguousarray(drawn).data, 1)
        spoken = frozenset(t.object for t in self._project.spoken(frame) if not t.joint)
        return _Snapshot(ids, spoken, dict(self._project.points.get(frame, {})))

    def _scribbled(self, line: Line, radius: float) -> NDArray[np.bool_]:
        """Return the pixels of a scribble."""
        height, width = self._project.size
        image = Image.new("1", (width, height))
        draw = ImageDraw.Draw(image)
        corners = [(float(x), float(y)) for x, y in line]
        draw.line(corners, fill=1, width=max(1, round(2 * radius)), joint="curve")
        for x, y in corners:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        return np.array(image, bool)


def _around(line: Line, radius: float) -> Box:
    """Return a box around a scribble, as large as the thing may be."""
    corners = np.array(line, np.float64)
    low, high = corners.min(axis=0) - radius, corners.max(axis=0) + radius
    reach = max(16.0, _SCRIBBLE_REACH * float((high - low).max()))
    return int(low[0] - reach), int(low[1] - reach), int(high[0] + reach + 1), int(high[1] + reach + 1)


def _changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> set[int]:
    """Return the objects that have other pixels."""
    differ = before != after
    return set(mask_ids(before[differ])) | set(mask_ids(after[differ]))


def _as_set(point: Point | FollowedPoint) -> Point:
    """Return a keypoint as if a person had set it."""
    if isinstance(point, Point):
        return point
    if (point.x, point.y) == (-1.0, -1.0):
        return Point(float("nan"), float("nan"), Visibility.MISSING)
    return Point(point.x, point.y)
