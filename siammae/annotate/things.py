"""Objects and names of keypoints of a project, as a person describes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siammae.annotate.tracks import Track
from siammae.annotations.mask_images import davis_colours
from siammae.annotations.masks import MAX_OBJECTS

MAX_JOINTS, _LONGEST_NAME = 200, 100
# Bright colours that stay apart on dark and light video, for the first objects; the others have DAVIS's.
_COLOURS = ("#ff4d4d", "#3ec1ff", "#ffd23f", "#5ee07f", "#d16bff", "#ff9a3d", "#4df0d8", "#ff7ac2")


@dataclass(frozen=True, slots=True)
class Thing:
    """An object.

    Attributes:
        id: 1 to 254, never used again.
        name: that people see.
        colour: as ``#rrggbb``.
        deleted: it is shown nowhere any more; its pixels in old files mean nothing.
    """

    id: int
    name: str
    colour: str
    deleted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it for ``project.json``."""
        deleted = {"deleted": True} if self.deleted else {}
        return {"id": self.id, "name": self.name, "colour": self.colour} | deleted


@dataclass(frozen=True, slots=True)
class Described:
    """All objects, by id, and all names of keypoints."""

    things: tuple[Thing, ...]
    joints: tuple[str, ...]

    @property
    def present(self) -> tuple[Thing, ...]:
        """The objects that were not deleted."""
        return tuple(thing for thing in self.things if not thing.deleted)

    def knows(self, track: Track) -> bool:
        """Say whether a track's object, and its keypoint, are there."""
        there = any(thing.id == track.object for thing in self.present)
        return there and (not track.joint or track.joint in self.joints)

    def thing(self, object_id: int) -> Thing:
        """Return an object that is there.

        Raises:
            ValueError: it is not.
        """
        for thing in self.present:
            if thing.id == object_id:
                return thing
        ids = ", ".join(str(thing.id) for thing in self.present) or "none yet"
        raise ValueError(f"no object {object_id}: there are {ids}.")

    def next_thing(self, name: str = "", colour: str = "") -> Thing:
        """Return a new object.

        Raises:
            ValueError: all ids are taken, or the name or colour is wrong.
        """
        number = max((thing.id for thing in self.things), default=0) + 1
        if number > MAX_OBJECTS:
            raise ValueError(f"a project holds {MAX_OBJECTS} objects, deleted ones among them: there is no id left.")
        return Thing(number, checked_name(name or f"object {number}"), checked_colour(colour or default_colour(number)))


def default_colour(number: int) -> str:
    """Return the colour of an object for which no one chose one."""
    if number <= len(_COLOURS):
        return _COLOURS[number - 1]
    return "#{:02x}{:02x}{:02x}".format(*davis_colours()[number].tolist())


def checked_name(name: object) -> str:
    """Return a name of an object or keypoint.

    Raises:
        ValueError: it is empty, too long, or has characters that cannot be seen.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not (0 < len(text) <= _LONGEST_NAME) or not text.isprintable():
        raise ValueError(f"a name must have 1 to {_LONGEST_NAME} visible characters, in one line.")
    return text


def checked_colour(colour: object) -> str:
    """Return a colour.

    Raises:
        ValueError: it is none.
    """
    if not (isinstance(colour, str) and re.fullmatch("#[0-9a-fA-F]{6}", colour)):
        raise ValueError("a colour must be #rrggbb, such as #ff4d4d.")
    return colour.lower()


def parse_things(rows: Sequence[Any]) -> tuple[Thing, ...]:
    """Read what :meth:`Thing.as_json` gives, of all objects.

    Raises:
        ValueError: one is wrong, or two have one id.
        TypeError: it is laid out otherwise.
        KeyError: likewise.
    """
    things: list[Thing] = []
    for row in rows:
        number = row["id"]
        if not isinstance(number, int) or not 1 <= number <= MAX_OBJECTS or number in {t.id for t in things}:
            raise ValueError(f"object {number!r}: ids must be 1 to {MAX_OBJECTS}, each once.")
        things.append(
            Thing(number, checked_name(row["name"]), checked_colour(row["colour"]), row.get("deleted") is True)
        )
    return tuple(sorted(things, key=lambda thing: thing.id))


def parse_joints(names: Sequence[Any]) -> tuple[str, ...]:
    """Check the names of keypoints.

    Raises:
        ValueError: one is wrong or there twice, has a slash, or there are too many.
    """
    joints = tuple(map(checked_name, names))
    if len(set(joints)) < len(joints) or len(joints) > MAX_JOINTS or any("/" in name for name in joints):
        raise ValueError(f"names of keypoints must be distinct, without a slash, and at most {MAX_JOINTS}.")
    return joints
