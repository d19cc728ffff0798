"""One video of many: its result is made, found or its fault named, in whatever process this is."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from siammae.clips.clip import Clip, said
from siammae.corpus.identity import checksum, look, path_of, result_id
from siammae.corpus.manifest import DONE, FAILED, Record

logger = logging.getLogger(__name__)

_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Part:
    """A video that is to be worked on.

    Attributes:
        clip: where it is.
        path: its name in the manifest.
        given: what belongs to it besides, such as the mask of its first frame.
        content: its checksum, where it is known already.
    """

    clip: Clip
    path: str
    given: tuple[str, ...] = ()
    content: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.path

    @property
    def cost(self) -> int:
        """Unknown: videos are worked on as they are listed."""
        return 1

    @classmethod
    def of(cls, clip: Clip, given: tuple[str, ...] = ()) -> Part:
        """Make the part of a clip."""
        return cls(clip, path_of(clip), given)


class Outcome(NamedTuple):
    """What became of a part.

    Attributes:
        record: for the manifest.
        made: whether the result was made now.
    """

    record: Record
    made: bool


class BrokenVideoError(Exception):
    """A video, or what is given with it, cannot be used; the message is for the manifest."""


@contextmanager
def blaming(kinds: tuple[type[Exception], ...] = (OSError, ValueError, IndexError, MemoryError)) -> Iterator[None]:
    """Turn errors of an input into :class:`BrokenVideoError`; what the machine lacks stays as it is.

    Raises:
        BrokenVideoError: the block raised one of these.
    """
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.errno in _MACHINE:
            raise
        raise BrokenVideoError(said(error)) from error


class Work(ABC):
    """What is done to each video; goes to other processes by pickle.

    Args:
        folder: of the results.
        settings: all that results depend on besides the video, JSON-ready.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)

    @abstractmethod
    def file(self, key: str) -> str:
        """Return where a result lies, relative to the folder."""

    @abstractmethod
    def make(self, part: Part, target: Path, tick: Callable[[], object]) -> Mapping[str, Any]:
        """Write a result whole and return what the manifest says of it.

        Raises:
            BrokenVideoError: it is the video's fault.
            OSError: it is not.
        """

    @abstractmethod
    def facts(self, target: Path) -> Mapping[str, Any]:
        """Return what the manifest says of a result that is there.

        Raises:
            ValueError: it is damaged.
        """

    def content(self, part: Part) -> str:
        """Return the checksum of what goes in."""
        return checksum(part.clip)

    def look(self, part: Part) -> tuple[int, int]:
        """Return size and time of change of what goes in."""
        return look(part.clip)

    def id(self, part: Part, content: str) -> str:
        """Return the id of the result."""
        return result_id(content, part.clip, self.settings)

    def __call__(self, part: Part, tick: Callable[[], object]) -> Outcome:
        """Make a result, unless it is there.

        Raises:
            Exception: it cannot be made, and the video is not to blame.
        """
        began, known = time.perf_counter(), dict[str, Any]()
        try:
            with blaming():
                known["bytes"], known["modified"] = self.look(part)
                known["checksum"] = part.content or self.content(part)
            key = self.id(part, known["checksum"])
            file = self.file(key)
            target = self.folder / file
            there = self._facts(target)
            facts = self.make(part, target, tick) if there is None else there
        except BrokenVideoError as error:
            return Outcome(Record(None, part.path, FAILED, str(error), **known), made=False)
        seconds = round(time.perf_counter() - began, 3) if there is None else None
        return Outcome(Record(key, part.path, DONE, None, file, **known, **facts, seconds=seconds), there is None)

    def _facts(self, target: Path) -> Mapping[str, Any] | None:
        """Return what a result says of itself; None where there is none, and a damaged one is removed."""
        if not target.exists():
            return None
        try:
            return self.facts(target)
        except ValueError as error:
            logger.warning("%s is made again: %s", target, error)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            return None


def lost(part: Part) -> Outcome:
    """Return the outcome of a video on which processes died: what a decoder's crash does, or a want of memory."""
    error = "the process that read it died, again and again: its decoder crashed, or memory did not suffice"
    return Outcome(Record(None, part.path, FAILED, error), made=False)
