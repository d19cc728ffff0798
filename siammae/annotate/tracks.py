"""What is followed, from which frames to which, and which frames a correction makes stale.

A track is the mask of an object or one of its keypoints. A frame that speaks for a track, because a person drew or
approved it there, bounds it: what lies between two such frames depends on these two alone, what lies after the last or
before the first on that one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True, slots=True, order=True)
class Track:
    """The mask of an object, or one of its keypoints.

    Attributes:
        object: its id.
        joint: name of the keypoint; empty for the mask.
    """

    object: int
    joint: str = ""

    def __str__(self) -> str:
        return f"{self.object}/{self.joint}" if self.joint else str(self.object)

    @classmethod
    def parse(cls, text: str) -> Track:
        """Read what ``str`` gives.

        Raises:
            ValueError: it is not that.
        """
        number, _, joint = text.partition("/")
        if not (number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= 254):
            raise ValueError(f"{text[:80]!r} is no track: it must be an id from 1 to 254, and perhaps /JOINT.")
        return cls(int(number), joint)


@dataclass(frozen=True, slots=True)
class Segment:
    """Tracks of one kind that have the same bounds, and the frames that are to be followed.

    Attributes:
        tracks: masks only, or keypoints only.
        start: the frame that speaks for them, from which they are followed.
        end: another one at the other end, which pulls as well; None where there is none, or not so far is followed.
        stop: the last frame that is followed: next to ``end``, or where there is none; below ``start`` = backwards.
        final: whether the results stay when no one draws any more; else ``end`` is still missing.
    """

    tracks: tuple[Track, ...]
    start: int
    end: int | None
    stop: int
    final: bool = True

    @property
    def frames(self) -> range:
        """The frames that are followed, in their order."""
        if self.stop < self.start:
            return range(self.start - 1, self.stop - 1, -1)
        return range(self.start + 1, self.stop + 1)

    def touches(self, frame: int) -> bool:
        """Say whether a change of this frame would change the results."""
        ends = [self.start, self.stop] + ([] if self.end is None else [self.end])
        return min(ends) <= frame <= max(ends)


def neighbours(speakers: Sequence[int], frame: int) -> tuple[int | None, int | None]:
    """Return the frames before and after this one that speak for a track.

    Args:
        speakers: all that do, rising.
        frame: may be one of them.
    """
    left, right = bisect_left(speakers, frame), bisect_right(speakers, frame)
    return (speakers[left - 1] if left else None, speakers[right] if right < len(speakers) else None)


def wanted_range(start: int, direction: Direction, limit: int | None, count: int) -> tuple[int, int]:
    """Return the first and last frame that a person asks for.

    Args:
        start: the frame at which the person is.
        direction: to which side.
        limit: how many frames to each side; None = all.
        count: of the video's frames.
    """
    reach = count if limit is None else limit
    first = start if direction == "forward" else max(0, start - reach)
    last = start if direction == "backward" else min(count - 1, start + reach)
    return first, last


def plan(
    speakers: Mapping[Track, Sequence[int]],
    wanted: tuple[int, int],
    needs: Callable[[Track, int], bool],
) -> list[Segment]:
    """Say what must be followed so that all frames of a range are up to date.

    Args:
        speakers: the tracks that are meant, with the frames that speak for each, rising.
        wanted: the first and the last frame.
        needs: whether a track is unknown or stale in a frame.

    Returns:
        Segments, those that lie between two annotated frames first, then forwards, then backwards. Tracks of the same
        bounds go together, as they compete for pixels, also where only one of them needs it.
    """
    found: dict[tuple[int, int | None, int, bool, bool], list[Track]] = {}
    needed = set[tuple[int, int | None, int, bool, bool]]()
    for track, marks in speakers.items():
        for segment in _segments(marks, wanted):
            key = (*segment, bool(track.joint))
            found.setdefault(key, []).append(track)
            start, end, stop = segment[:3]
            if key not in needed and any(needs(track, frame) for frame in Segment((), start, end, stop).frames):
                needed.add(key)
    return [
        Segment(tuple(sorted(found[key])), key[0], key[1], key[2], key[3])
        for key in sorted(found, key=lambda key: (key[1] is None, key[2] < key[0], key[0], key[4]))
        if key in needed
    ]


def _segments(marks: Sequence[int], wanted: tuple[int, int]) -> Iterable[tuple[int, int | None, int, bool]]:
    """Yield start, end, stop and final of what lies in a range and is not spoken for."""
    if not marks:
        return
    first, last = wanted
    if first < marks[0] and last >= first:
        yield marks[0], None, first, True
    for left, right in pairwise(marks):
        if right - left < 2 or last <= left or first >= right:
            continue
        if last >= right - 1 or first > left:
            yield left, right, right - 1, True
        else:
            yield left, None, last, False  # not so far as the frame that would pull as well
    if last > marks[-1]:
        yield marks[-1], None, last, True


class Stale:
    """The frames whose results a later drawing has made doubtful, for each track."""

    def __init__(self, spans: Mapping[str, Sequence[Sequence[int]]] | None = None) -> None:
        self._frames: dict[Track, set[int]] = {}
        for text, ranges in (spans or {}).items():
            self._frames[Track.parse(text)] = {f for first, last in ranges for f in range(first, last + 1)}

    def __contains__(self, place: tuple[Track, int]) -> bool:
        return place[1] in self._frames.get(place[0], ())

    def add(self, track: Track, frames: Iterable[int]) -> None:
        """Mark frames of a track."""
        if new := set(frames):
            self._frames.setdefault(track, set()).update(new)

    def discard(self, track: Track, frame: int) -> None:
        """Take the mark from a frame."""
        self._frames.get(track, set()).discard(frame)

    def tracks(self) -> list[Track]:
        """Return the tracks that have any."""
        return [track for track, frames in self._frames.items() if frames]

    def frames(self, tracks: Collection[Track] | None = None) -> set[int]:
        """Return the frames in which any track, or one of these, is stale."""
        chosen = self._frames if tracks is None else {t: self._frames[t] for t in tracks if t in self._frames}
        return set().union(*chosen.values())

    def spans(self) -> dict[str, list[list[int]]]:
        """Return them as ranges, first and last included, for :class:`Stale` again."""
        return {str(track): as_spans(frames) for track, frames in sorted(self._frames.items()) if frames}


def as_spans(frames: Iterable[int]) -> list[list[int]]:
    """Write frames as ranges, first and last included."""
    spans: list[list[int]] = []
    for frame in sorted(frames):
        if spans and frame == spans[-1][1] + 1:
            spans[-1][1] = frame
        else:
            spans.append([frame, frame])
    return spans
