"""The thread that follows, while the person goes on drawing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from siammae.annotate.project import OutdatedError, Project
from siammae.annotate.tracks import Direction, Segment, Track, plan, wanted_range
from siammae.annotate.walks import Found, Walker, Way
from siammae.errors import SiamMAEError, one_line

_log = logging.getLogger(__name__)
Notify = Callable[[dict[str, Any]], None]


class BusyError(SiamMAEError, RuntimeError):
    """Something is being followed already."""


class _CancelledError(Exception):
    """The person, or the end of the server, stops the work."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person wants to have followed.

    Attributes:
        start: the frame at which the person is.
        direction: to which side.
        limit: how many frames to each side; None = to the end of the video.
        tracks: which; None = all that a person has drawn or set anywhere.
    """

    start: int
    direction: Direction
    limit: int | None = None
    tracks: frozenset[Track] | None = None


@dataclass(slots=True)
class _Live:
    """Where following away from an annotated frame has come to: the next request may go on from there."""

    tracks: tuple[Track, ...]
    start: int
    forwards: bool
    way: Way
    position: int
    version: int


class Follower:
    """Follows one request at a time in a thread of its own, and keeps each frame as soon as it is there.

    Args:
        project: gives what is annotated and gets what is found.
        walker: does the work.
        notify: is told of each frame and of how the work stands, in any thread.
    """

    def __init__(self, project: Project, walker: Walker, notify: Notify) -> None:
        self._project, self._walker, self._notify = project, walker, notify
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._live: _Live | None = None
        self._state: dict[str, Any] = {"state": "idle", "done": 0, "total": 0, "message": ""}

    @property
    def state(self) -> dict[str, Any]:
        """How the work stands: ``state`` (idle, following), ``done`` and ``total`` frames, a ``message`` of its end."""
        return dict(self._state)

    def start(self, request: Request) -> dict[str, Any]:
        """Begin; returns the state.

        Raises:
            BusyError: a request is being followed.
            ValueError: no one has drawn anything that could be followed.
        """
        with self._turn:
            if self._thread is not None and self._thread.is_alive():
                raise BusyError("something is being followed already: stop it first, or wait for its end.")
            chosen = self._speakers(request)
            if not chosen:
                raise ValueError("there is nothing to follow: draw an object, or set a keypoint, in a frame first.")
            self._cancel.clear()
            self._say(state="following", done=0, total=0, message="")
            self._thread = threading.Thread(target=self._run, args=(request,), name="follower", daemon=True)
            self._thread.start()
        return self.state

    def cancel(self, *, wait: float | None = None) -> None:
        """Stop after the frame that is being followed; what is there stays.

        Args:
            wait: at most so many seconds for its end.
        """
        self._cancel.set()
        if wait is not None and (thread := self._thread) is not None:
            thread.join(wait)

    def _speakers(self, request: Request) -> dict[Track, list[int]]:
        """Return the tracks of a request, and the frames that speak for each."""
        speakers = self._project.speakers()
        return {t: marks for t, marks in speakers.items() if request.tracks is None or t in request.tracks}

    def _run(self, request: Request) -> None:
        message = ""
        try:
            while not self._try(request):
                pass
        except _CancelledError:
            message = "stopped; what was followed so far is kept"
        except Exception as error:  # whatever goes wrong in a thread must be seen by the person
            known = isinstance(error, SiamMAEError | ValueError | OSError)
            if not known:
                _log.exception("following failed")
            message = f"following failed: {error if known else one_line(error)}"
        finally:
            try:
                self._project.save()
            except OSError as error:
                message = f"the project cannot be written: {error}"
            self._say(state="idle", message=message)

    def _try(self, request: Request) -> bool:
        """Follow what is needed as things are now; False where a drawing has overtaken it."""
        wanted = wanted_range(request.start, request.direction, request.limit, self._project.count)
        with self._project.lock:
            segments = plan(self._speakers(request), wanted, self._project.needs)
        self._say(done=0, total=sum(len(segment.frames) for segment in segments))
        try:
            for segment in segments:
                self._follow(segment)
        except OutdatedError:
            return False
        return True

    def _follow(self, segment: Segment) -> None:
        version = self._project.begin_following(segment.tracks, segment.frames)
        keep = self._keeper(segment, version)
        if segment.end is not None:

            def keep_or_stop(found: Found) -> None:
                keep(found)
                self._stop_if_cancelled()

            self._walker.between(segment, keep_or_stop)
            return
        live = self._resume(segment) or _Live(
            segment.tracks,
            segment.start,
            segment.stop > segment.start,
            self._walker.away(segment),
            segment.start,
            version,
        )
        self._live = None  # a step that fails, or is overtaken by a drawing, leaves nothing to go on from
        step = 1 if live.forwards else -1
        ahead = range(live.position + step, segment.stop + step, step)
        for frame, image in zip(ahead, self._walker.read(ahead), strict=True):
            found = live.way.step(frame, image, final=segment.final)
            self._live = None
            keep(found)
            live.position, self._live = frame, live
            self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self._cancel.is_set():
            raise _CancelledError

    def _resume(self, segment: Segment) -> _Live | None:
        """Go on where the last request ended, if all that it came from is as it was."""
        live = self._live
        if live is None or (live.tracks, live.start) != (segment.tracks, segment.start):
            return None
        if live.forwards != (segment.stop > segment.start) or live.position not in segment.frames:
            return None
        low, high = sorted((live.start, live.position))
        if self._project.outdated(live.version, live.tracks, low, high):
            return None
        return live

    def _keeper(self, segment: Segment, version: int) -> Callable[[Found], None]:
        """Return what keeps a frame, unless a drawing has changed what it comes from."""
        project = self._project
        bounds: Sequence[int] = sorted((segment.start, segment.stop if segment.end is None else segment.end))

        def keep(found: Found) -> None:
            with project.lock:
                if project.outdated(version, segment.tracks, bounds[0], bounds[1]):
                    raise OutdatedError
                project.keep_followed(found.frame, found.ids, found.points, found.sure, final=found.final)
            if found.final or segment.end is None:
                self._state["done"] += 1
            self._notify(
                {
                    "type": "followed",
                    "frame": found.frame,
                    "final": found.final,
                    "confidence": {str(track): round(value, 3) for track, value in found.sure.items()},
                    **self.state,
                }
            )

        return keep

    def _say(self, **changes: object) -> None:
        self._state.update(changes)
        self._notify({"type": "run", **self.state})
