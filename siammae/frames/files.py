"""Paths of frames: what a source may be, and where a video ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from siammae.errors import VideoReadError

PathLike: TypeAlias = str | os.PathLike[str]


def require_regular(path: Path) -> None:
    """Refuse what is there but no file, before something waits for it to be written.

    Raises:
        VideoReadError: a pipe, a socket or a device lies there.
    """
    if path.exists() and not path.is_file():
        raise VideoReadError(
            f"{path} is a pipe, a socket, a device or a folder: frames are read from files. Save it as one first."
        )


class VideoEndError(IndexError):
    """A frame was asked for by number, but the video ends before it.

    Attributes:
        frame_count: the frames that the video really has.
    """

    def __init__(self, frame_count: int) -> None:
        super().__init__(frame_count)
        self.frame_count = frame_count

    def __str__(self) -> str:
        return f"the video ends after {self.frame_count} frames."
