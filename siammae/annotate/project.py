"""A project on disk: plain files, of which each appears whole, and what is known of every frame.

::

    PROJECT/project.json       the video, objects, names of keypoints, stale frames
    PROJECT/annotated/N.png    a frame that a person drew or approved: palette PNG, pixel value = object id
    PROJECT/followed/N.png     a frame that was followed, likewise
    PROJECT/followed/N.csv     its keypoints
    PROJECT/keypoints.csv      keypoints that a person set
    PROJECT/exports/           what was exported from the page

Whatever marks frames as stale is written before the drawing that makes them so: a kill in between costs no more than
the drawing, and leaves marks that do no harm.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae._version import __version__
from siammae.annotate.files import (
    FollowedPoint,
    Point,
    read_followed,
    read_map,
    read_note,
    read_points,
    write_followed,
    write_map,
    write_points,
)
from siammae.annotate.opening import ANNOTATED, FOLLOWED, INDEX, POINTS, VERSION, check_same, read_index
from siammae.annotate.things import Described, Thing, parse_joints, parse_things
from siammae.annotate.tracks import Stale, Track, as_spans, neighbours
from siammae.annotations.masks import mask_name
from siammae.errors import SiamMAEError
from siammae.outputs import whole

_FRAME_FILE = re.compile(r"(\d{5,9})\.(png|csv)")


class OutdatedError(SiamMAEError, RuntimeError):
    """A person has drawn where frames are being followed: what was begun before is of no use any more."""


class Project:
    """What is known of a video's frames; every change is on disk when the method that makes it returns.

    Any thread may call any method. Whoever does several things that belong together holds ``lock``.

    Args:
        folder: held by ``hold_project`` of ``opening``; may be empty.
        video: what ``project.json`` says of it, with ``size`` and ``sha256``, ``frames``, ``height``, ``width``.

    Attributes:
        lock: see above.
        described: objects and names of keypoints.
        points: keypoints that a person set, by frame.
        stale: see :class:`Stale`.

    Raises:
        ValueError: the project is of another video, or a file in it is wrong.
    """

    def __init__(self, folder: Path, video: Mapping[str, Any]) -> None:
        self.folder, self.video, self.lock = folder, dict(video), threading.RLock()
        self.size: tuple[int, int] = (int(video["height"]), int(video["width"]))
        self.count = int(video["frames"])
        index = read_index(folder)
        check_same(folder, index.get("video", video), self.video)
        try:
            self.described = Described(parse_things(index.get("objects", [])), parse_joints(index.get("joints", [])))
            self.stale = Stale(index.get("stale", {}))
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{folder / INDEX} is not laid out as a project: {error}.") from error
        self.points = {f: some for f, some in read_points(folder / POINTS).items() if f < self.count}
        self._annotated = {f: self._speaks(f) for f in self._listed(ANNOTATED, "png")}
        self._followed: dict[int, dict[Track, float]] = {}
        for frame in self._listed(FOLLOWED, "png"):
            sure = read_note(self._path(FOLLOWED, frame)).get("confidence", {})
            self._followed[frame] = {Track.parse(text): float(value) for text, value in sure.items()}
        for frame in self._listed(FOLLOWED, "csv"):
            known = self._followed.setdefault(frame, {})
            known.update({t: p.confidence for t, p in self.followed_points(frame).items()})
        self._saved = b""
        self._speakers: dict[Track, list[int]] | None = None
        self._changes: list[tuple[int, frozenset[Track]]] = []
        self.save()

    # What is known

    @property
    def annotated(self) -> list[int]:
        """Frames that a person drew, approved, or set keypoints in, rising."""
        with self.lock:
            return sorted({*self._annotated, *self.points})

    def is_drawn(self, frame: int) -> bool:
        """Say whether a person drew or approved the masks of a frame."""
        return frame in self._annotated

    def spoken(self, frame: int) -> frozenset[Track]:
        """Return the tracks of which a person said where they are in a frame, or that they are not there."""
        with self.lock:
            return self._annotated.get(frame, frozenset()) | frozenset(self.points.get(frame, ()))

    def speakers(self) -> dict[Track, list[int]]:
        """Return for each track of an object that is there the frames that speak for it, rising."""
        with self.lock:
            if self._speakers is None:
                found: dict[Track, list[int]] = {}
                for frame in self.annotated:
                    for track in self.spoken(frame):
                        if self.described.knows(track):
                            found.setdefault(track, []).append(frame)
                self._speakers = found
            return {track: list(frames) for track, frames in sorted(self._speakers.items())}

    def needs(self, track: Track, frame: int) -> bool:
        """Say whether a frame is to be followed for a track: it is unknown there, or stale."""
        return track not in self._followed.get(frame, ()) or (track, frame) in self.stale

    def confidence(self) -> dict[Track, dict[int, float]]:
        """Return how sure each followed frame is of each track, by frame."""
        with self.lock:
            found: dict[Track, dict[int, float]] = {}
            for frame, known in self._followed.items():
                spoken = self.spoken(frame)
                for track, value in known.items():
                    if track not in spoken and self.described.knows(track):
                        found.setdefault(track, {})[frame] = value
            return found

    def is_followed(self, frame: int) -> bool:
        """Say whether anything was followed into a frame."""
        return bool(self._followed.get(frame))

    def followed_tracks(self, frame: int) -> dict[Track, float]:
        """Return what was followed into a frame, with how sure it is."""
        return dict(self._followed.get(frame, {}))

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """Return the map of ids of a frame ``(H, W)``: as drawn, and as followed what no one drew."""
        with self.lock:
            drawn = self.drawn(frame)
            followed = self._read(FOLLOWED, frame) if any(not t.joint for t in self._followed.get(frame, ())) else None
            if followed is None:
                return self._known_only(np.zeros(self.size, np.uint8) if drawn is None else drawn)
            followed = self._known_only(followed)
            if drawn is None:
                return followed
            hidden = [track.object for track in self._annotated[frame]]
            followed[np.isin(followed, hidden)] = 0
            return self._known_only(np.where(drawn > 0, drawn, followed))

    def drawn(self, frame: int) -> NDArray[np.uint8] | None:
        """Return the map of ids as a person drew it, None where no one did."""
        with self.lock:
            return self._read(ANNOTATED, frame) if frame in self._annotated else None

    def followed_points(self, frame: int) -> dict[Track, FollowedPoint]:
        """Return the followed keypoints of a frame."""
        path = self._path(FOLLOWED, frame, "csv")
        return read_followed(path) if path.exists() else {}

    def all_points(self, frame: int) -> dict[Track, Point | FollowedPoint]:
        """Return the keypoints of a frame: as a person set them, and as followed the others."""
        with self.lock:
            followed: dict[Track, Point | FollowedPoint] = {**self.followed_points(frame)}
            points = followed | self.points.get(frame, {})
            return {track: point for track, point in points.items() if self.described.knows(track)}

    # What changes

    def draw(
        self, frame: int, ids: NDArray[np.uint8] | None, spoken: Collection[int], changed: Collection[int]
    ) -> None:
        """Keep what a person drew in a frame; None takes it back.

        Args:
            frame: its number.
            ids: ``(H, W)``.
            spoken: the objects it speaks for, those among them that are not there.
            changed: those of whom it says something new.
        """
        with self.lock:
            tracks = frozenset(Track(i) for i in spoken) if ids is not None else frozenset()
            new = frozenset(Track(i) for i in changed) | (tracks ^ self._annotated.get(frame, frozenset()))
            self._outdate(frame, new)
            if ids is None:
                self._path(ANNOTATED, frame).unlink(missing_ok=True)
                self._annotated.pop(frame, None)
            else:
                note = {"objects": sorted(track.object for track in tracks)}
                write_map(self._path(ANNOTATED, frame), ids, note, sync=True)
                self._annotated[frame] = tracks
            self._speakers = None

    def set_points(self, frame: int, points: Mapping[Track, Point]) -> None:
        """Keep the keypoints that a person set in a frame, all of them; an empty mapping takes them back."""
        with self.lock:
            before, after = self.points.get(frame, {}), dict(points)
            self._outdate(frame, {t for t in before.keys() | after.keys() if before.get(t) != after.get(t)})
            frames = {**self.points, frame: after}
            if not after:
                del frames[frame]
            write_points(self.folder / POINTS, frames)
            self.points = frames
            self._speakers = None

    def outdated(self, version: int, tracks: Collection[Track], first: int, last: int) -> bool:
        """Say whether a person changed one of these tracks in these frames after so many changes."""
        with self.lock:
            return any(first <= f <= last and not changed.isdisjoint(tracks) for f, changed in self._changes[version:])

    def begin_following(self, tracks: Collection[Track], frames: Iterable[int]) -> int:
        """Mark frames as stale until they are followed, so that a kill leaves no half of the work unmarked.

        Returns:
            The number of changes so far, for :meth:`outdated`.
        """
        with self.lock:
            wanted = list(frames)
            for track in tracks:
                self.stale.add(track, wanted)
            self.save()
            return len(self._changes)

    def keep_followed(
        self,
        frame: int,
        ids: NDArray[np.uint8] | None,
        points: Mapping[Track, FollowedPoint],
        sure: Mapping[Track, float],
        *,
        final: bool,
    ) -> None:
        """Keep what was followed into a frame; of other tracks, what was followed before stays.

        Args:
            frame: its number.
            ids: map of ids ``(H, W)`` of the tracks in ``sure`` that are masks; None where none is.
            points: the followed keypoints.
            sure: how sure each track is.
            final: whether they are up to date now; else they count as stale.
        """
        with self.lock:
            known = {**self._followed.get(frame, {}), **sure}
            masks = {track.object for track in sure if not track.joint}
            if ids is not None and masks:
                before = self._read(FOLLOWED, frame)
                if before is not None:
                    before[np.isin(before, list(masks))] = 0
                    ids = np.where(ids > 0, ids, before)
                note = {"confidence": {str(t): round(v, 4) for t, v in sorted(known.items()) if not t.joint}}
                write_map(self._path(FOLLOWED, frame), ids, note, sync=False)
            if points:
                write_followed(self._path(FOLLOWED, frame, "csv"), {**self.followed_points(frame), **points})
            self._followed[frame] = known
            for track in sure:
                if final:
                    self.stale.discard(track, frame)
                else:
                    self.stale.add(track, [frame])

    def save(self) -> None:
        """Write ``project.json`` where something in it has changed."""
        with self.lock:
            index = {
                "version": VERSION,
                "siammae": __version__,
                "video": self.video,
                "objects": [thing.as_json() for thing in self.described.things],
                "joints": list(self.described.joints),
                "stale": self.stale.spans(),
            }
            data = (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
            if data != self._saved:
                with whole(self.folder / INDEX) as part:
                    part.write_bytes(data)
                self._saved = data

    def describe(self, things: Collection[Thing] | None = None, joints: Collection[str] | None = None) -> None:
        """Keep the objects, the names of keypoints, or both: all of them; None leaves them as they are."""
        with self.lock:
            before = self.described
            self.described = Described(
                before.things if things is None else tuple(things), before.joints if joints is None else tuple(joints)
            )
            self._speakers = None
            self.save()

    def spans(self) -> dict[str, list[list[int]]]:
        """Return annotated, followed and stale frames as ranges, first and last included."""
        with self.lock:
            marked: set[int] = set()
            for track in filter(self.described.knows, self.stale.tracks()):
                known = {f for f in self.stale.frames([track]) if track in self._followed.get(f, ())}
                marked |= {f for f in known if track not in self.spoken(f)}
            return {
                "annotated": as_spans(self.annotated),
                "followed": as_spans(self._followed),
                "stale": as_spans(marked),
            }

    def _outdate(self, frame: int, tracks: Collection[Track]) -> None:
        """Mark as stale what was followed from a frame that changes, and write that down."""
        speakers = self.speakers()
        for track in tracks:
            before, after = neighbours(speakers.get(track, []), frame)
            span = range((-1 if before is None else before) + 1, self.count if after is None else after)
            self.stale.add(track, (f for f in span if track in self._followed.get(f, ())))
        self._changes.append((frame, frozenset(tracks)))
        self.save()

    def _known_only(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Take out objects that were deleted."""
        table = np.zeros(256, np.uint8)
        for thing in self.described.things:
            table[thing.id] = 0 if thing.deleted else thing.id
        return table[ids]

    def _speaks(self, frame: int) -> frozenset[Track]:
        path = self._path(ANNOTATED, frame)
        note = read_note(path).get("objects")
        ids = note if isinstance(note, list) else np.unique(read_map(path, self.size)).tolist()
        return frozenset(Track(int(i)) for i in ids if 1 <= int(i) <= 254)

    def _listed(self, room: str, suffix: str) -> list[int]:
        place = self.folder / room
        names = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        found = [_FRAME_FILE.fullmatch(name) for name in names]
        return sorted(int(one[1]) for one in found if one and one[2] == suffix and int(one[1]) < self.count)

    def _path(self, room: str, frame: int, suffix: str = "png") -> Path:
        return (self.folder / room / mask_name(frame, self.count)).with_suffix(f".{suffix}")

    def _read(self, room: str, frame: int) -> NDArray[np.uint8] | None:
        path = self._path(room, frame)
        return read_map(path, self.size) if path.exists() else None
