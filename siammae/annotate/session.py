"""One open project: everything that the page can ask of it."""

from __future__ import annotations

import json
import threading
import zlib
from typing import Any, cast, get_args

import numpy as np

from siammae.annotate.attention import confidence_table, where_to_look
from siammae.annotate.editing import Editor
from siammae.annotate.events import Events
from siammae.annotate.exporting import OVERLAY, Which, export_labels, export_overlay, writable_formats
from siammae.annotate.files import FollowedPoint, Point
from siammae.annotate.following import Follower, Request
from siammae.annotate.opening import EXPORTS
from siammae.annotate.pictures import Pictures
from siammae.annotate.project import Project
from siammae.annotate.things import Thing, checked_colour, checked_name, parse_joints
from siammae.annotate.tracks import Direction, Track
from siammae.annotate.values import Values
from siammae.annotate.walks import Walker
from siammae.annotations.files import find_writable
from siammae.annotations.model import Visibility
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames.random_access import FrameAccess

ACTIONS = ("undo", "redo", "approve", "reset", "absent")  # what can be done to a whole frame
_VISIBILITY = {"visible": Visibility.VISIBLE, "hidden": Visibility.HIDDEN, "absent": Visibility.MISSING}
_WORDS = {value: word for word, value in _VISIBILITY.items()}


class Session:
    """Answers the page. Methods take what came as JSON and return what goes as JSON; any thread may call them.

    Args:
        project: that is open.
        shown: frames for the page.
        followed: the same frames, for following.
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends.

    Raises:
        ValueError: what came is refused; the message is for the person.
    """

    def __init__(
        self,
        project: Project,
        shown: FrameAccess,
        followed: FrameAccess,
        extractor: FeatureExtractor,
        config: PropagationConfig | None = None,
    ) -> None:
        self.project, self.frames, self.events = project, shown, Events()
        self.pictures = Pictures(shown)
        self.editor = Editor(project)
        self.follower = Follower(project, Walker(project, followed, extractor, config), self.events.notify)
        self._exporting = threading.Lock()

    def close(self) -> None:
        """Stop what is going on; everything is on disk already."""
        self.follower.cancel(wait=30)
        self.pictures.close()

    def overview(self) -> dict[str, Any]:
        """Return what the page must know when it opens."""
        project, video = self.project, self.project.video
        return {
            "video": {key: video[key] for key in ("name", "frames", "height", "width", "sha256")},
            "rate": self.frames.frame_rate,
            "broken": self.frames.broken,
            "project": project.folder.name,
            "formats": [{"name": one.name, "title": one.title} for one in writable_formats()],
            **self.things(),
            "spans": project.spans(),
            "run": self.follower.state,
        }

    def things(self) -> dict[str, Any]:
        """Return objects and names of keypoints."""
        described = self.project.described
        return {"objects": [thing.as_json() for thing in described.present], "joints": list(described.joints)}

    def frame(self, number: int) -> dict[str, Any]:
        """Return what is known of a frame, without its pixels."""
        project = self.project
        self._check(number)
        with project.lock:
            undo, redo = self.editor.can_undo(number)
            spoken = project.spoken(number)
            return {
                "frame": number,
                "drawn": project.is_drawn(number) or number in project.points,
                "followed": project.is_followed(number),
                "spoken": sorted({t.object for t in spoken if not t.joint}),
                "points": [_point_as_json(t, p) for t, p in project.all_points(number).items()],
                "undo": undo,
                "redo": redo,
            }

    def labels(self, number: int) -> bytes:
        """Return what is known of a frame, a line of JSON, and then its map of ids ``(H, W)``, compressed by zlib."""
        with self.project.lock:
            head = json.dumps(self.frame(number)).encode()
            return head + b"\n" + zlib.compress(np.ascontiguousarray(self.project.labels(number)).data, 1)

    def paint(self, number: int, where: Values, body: bytes) -> dict[str, Any]:
        """Set pixels of a frame; see :meth:`Editor.paint`."""
        self._check(number)
        height, width = self.project.size
        box = [where.whole(name, 0 if name in ("left", "top") else 1, max(height, width)) for name in _BOX]
        if box[2] > width or box[3] > height:
            raise ValueError(f"{box[2]} x {box[3]} pixels are more than the frame has.")
        unpack = zlib.decompressobj()
        try:
            data = unpack.decompress(body, box[2] * box[3] + 1)
        except zlib.error as error:
            raise ValueError(f"the pixels cannot be unpacked: {error}.") from error
        if len(data) != box[2] * box[3]:
            raise ValueError(f"{box[2]} x {box[3]} pixels were announced, others came.")
        pixels = np.frombuffer(data, np.uint8).reshape(box[3], box[2])
        self.editor.paint(number, box[0], box[1], pixels)
        return self._edited(number, where)

    def cut(self, number: int, given: Values) -> dict[str, Any]:
        """Make a mask of a box or a scribble; see :meth:`Editor.cut`."""
        self._check(number)
        box = given.numbers("box", 4)
        corners = None if box is None else tuple(round(value) for value in box)
        self.editor.cut(
            number,
            given.whole("object", 1, 254),
            self.pictures.pixels(number),
            cast("tuple[int, int, int, int] | None", corners),
            given.line("inside"),
            given.line("outside"),
            given.number("radius", 0.5, 500, 3),
        )
        return self._edited(number, given)

    def act(self, number: int, action: str, given: Values) -> dict[str, Any]:
        """Approve or reset a frame, undo or redo in it, or say that an object is absent."""
        self._check(number)
        editor = self.editor
        if action == "absent":
            editor.mark_absent(number, given.whole("object", 1, 254))
        elif action == "approve":
            editor.approve(number)
        elif action == "reset":
            editor.reset(number)
        elif not (editor.undo if action == "undo" else editor.redo)(number):
            raise ValueError(f"there is nothing to {action} in this frame.")
        return self._edited(number, given)

    def point(self, number: int, given: Values) -> dict[str, Any]:
        """Set a keypoint, or take it back."""
        self._check(number)
        track = Track(given.whole("object", 1, 254), given.text("joint"))
        said = given.text("visibility")
        if said == "unset":
            point = None
        elif said == "absent":
            point = Point(float("nan"), float("nan"), Visibility.MISSING)
        elif said in _VISIBILITY:
            point = Point(given.number("x", -1, 1e6), given.number("y", -1, 1e6), _VISIBILITY[said])
        else:
            raise ValueError(f"visibility is {said!r}: it must be {', '.join(_VISIBILITY)} or unset.")
        self.editor.set_point(number, track, point)
        return self._edited(number, given)

    def add_object(self, given: Values) -> dict[str, Any]:
        """Add an object."""
        with self.project.lock:
            described = self.project.described
            new = described.next_thing(given.text("name", ""), given.text("colour", ""))
            self.project.describe([*described.things, new])
        return self._described(given) | {"new": new.id}

    def change_object(self, number: int, given: Values) -> dict[str, Any]:
        """Rename, recolour or delete an object."""
        with self.project.lock:
            described = self.project.described
            old = described.thing(number)
            new = Thing(
                old.id,
                checked_name(given.text("name", old.name)),
                checked_colour(given.text("colour", old.colour)),
                given.flag("deleted"),
            )
            self.project.describe([new if thing.id == number else thing for thing in described.things])
        return self._described(given) | {"spans": self.project.spans()}

    def change_joints(self, given: Values) -> dict[str, Any]:
        """Replace the names of keypoints."""
        self.project.describe(joints=parse_joints(given.texts("joints")))
        return self._described(given)

    def follow(self, given: Values) -> dict[str, Any]:
        """Begin to follow."""
        number = given.whole("frame", 0, self.project.count - 1)
        direction = given.text("direction")
        if direction not in get_args(Direction):
            raise ValueError(f"direction is {direction!r}: it must be {', '.join(get_args(Direction))}.")
        limit = given.whole("limit", 1, self.project.count) if given.has("limit") else None
        tracks = None
        if given.has("object"):
            self.project.described.thing(key := given.whole("object", 1, 254))
            tracks = frozenset(track for track in self.project.speakers() if track.object == key)
        return self.follower.start(Request(number, cast(Direction, direction), limit, tracks))

    def cancel(self) -> dict[str, Any]:
        """Stop following after the frame that is under way; what is there stays."""
        self.follower.cancel()
        return self.follower.state

    def attention(self) -> dict[str, Any]:
        """Return where to look next, how sure each frame is of each track (NaN as null), and the timeline's ranges."""
        with self.project.lock:
            names, table = confidence_table(self.project)
            columns = [[None if value != value else round(value, 3) for value in column] for column in table.T.tolist()]
            tracks = dict(zip(names, columns, strict=True))
            return where_to_look(self.project) | {"confidence": tracks, "spans": self.project.spans()}

    def export(self, given: Values) -> dict[str, Any]:
        """Write the labels in a format, or the overlay video, into the project's folder of exports."""
        name, which = given.text("format"), given.text("which", "all")
        if which not in get_args(Which):
            raise ValueError(f"which is {which!r}: it must be {' or '.join(get_args(Which))}.")
        if not self._exporting.acquire(blocking=False):
            raise BlockingIOError("an export is being written: wait for its end.")
        try:
            if name == "overlay":
                path = self.project.folder / EXPORTS / OVERLAY
                count = export_overlay(self.project, self.frames, path, overwrite=given.flag("overwrite"))
                return {"path": str(path), "file": OVERLAY, "frames": count, "lost": []}
            target = find_writable(name)
            path = self.project.folder / EXPORTS / f"{target.name}{target.suffix}"
            written = export_labels(
                self.project,
                path,
                format=name,
                which=cast(Which, which),
                names=self.frames.names,
                overwrite=given.flag("overwrite"),
            )
        finally:
            self._exporting.release()
        lost = [str(feature) for feature in written.lost]
        return {"path": str(path), "file": path.name, "frames": written.frames, "lost": lost}

    def _check(self, number: int) -> None:
        if not 0 <= number < self.project.count:
            raise IndexError(f"no frame {number}: the video has the frames 0 to {self.project.count - 1}.")

    def _edited(self, number: int, given: Values) -> dict[str, Any]:
        """Tell the other pages, and return what the one that did it must know."""
        self.events.notify({"type": "edited", "frame": number, "client": given.client})
        return self.frame(number) | {"spans": self.project.spans()}

    def _described(self, given: Values) -> dict[str, Any]:
        self.events.notify({"type": "described", "client": given.client})
        return self.things()


_BOX = ("left", "top", "width", "height")


def _point_as_json(track: Track, point: Point | FollowedPoint) -> dict[str, Any]:
    """Return a keypoint; without x and y where it is not there."""
    result: dict[str, Any] = {"object": track.object, "joint": track.joint}
    if isinstance(point, FollowedPoint):
        there = (point.x, point.y) != (-1.0, -1.0)
        result |= {"visibility": "visible" if there else "absent", "by": "followed", "confidence": point.confidence}
    else:
        there = point.visibility != Visibility.MISSING
        result |= {"visibility": _WORDS[point.visibility], "by": "person"}
    return result | ({"x": point.x, "y": point.y} if there else {})
