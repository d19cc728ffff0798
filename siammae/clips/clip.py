"""A clip: a video, a part of one, or an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from siammae.errors import printable
from siammae.frames import IMAGE_SUFFIXES, VideoEndError

PAGES = "@pages"  # ends the name of a clip that is all pages of an image


class Skipped(NamedTuple):
    """A clip that could not be read."""

    name: str
    reason: str


def said(error: Exception) -> str:
    """Return what an error says, in one line, and its kind where that is not one that explains itself."""
    text = printable(" ".join(str(error).split()))
    return (
        text if text and isinstance(error, OSError | ValueError | VideoEndError) else f"{type(error).__name__}: {text}"
    )


@dataclass(frozen=True, slots=True)
class Clip:
    """What is read as one video.

    Attributes:
        name: unique in its source, and the same wherever the source lies; a part of a file is ``a.mp4@1.5-3``, the
            pages of an image are ``a.tif@pages``.
        path: the file.
        kind: what the file is; ``"frames"`` is a folder of images, which only passes over whole videos have.
        start: where the clip begins in a video, in seconds; None = with the file.
        stop: where it ends, in seconds, exclusive; None = with the file.
        offset: where it begins in a shard, in bytes.
    """

    name: str
    path: Path
    kind: Literal["video", "image", "shard", "frames"] = "video"
    start: float | None = None
    stop: float | None = None
    offset: int = 0

    @property
    def is_image(self) -> bool:
        """Whether it is a single image, which has no second frame; a shard keeps the name of what it was made from."""
        return Path(self.name).suffix.lower() in IMAGE_SUFFIXES
