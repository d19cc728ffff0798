"""Whether the clips suit the settings of a training."""

from __future__ import annotations

from collections.abc import Sequence

from siammae.clips.clip import Clip
from siammae.config import PretrainConfig
from siammae.frames import require_reader


def check_clips(clips: Sequence[Clip], config: PretrainConfig) -> None:
    """Refuse settings that do not fit the clips, before anything is read.

    Args:
        clips: of :func:`siammae.clips.listing.find_clips`.
        config: gives ``still_share`` and ``reader``.

    Raises:
        ValueError: all clips are single images, as where a video lies in frames, but not all pairs are to be still.
        ImportError: the reader is not installed, or cannot load.
    """
    if config.still_share < 1 and all(clip.is_image for clip in clips):
        raise ValueError(
            f"{config.videos} holds only single images ({clips[0].name}) but still_share is {config.still_share}: an "
            "image has no second frame. Set still_share to 1 for pictures; pass a video's frames as a video."
        )
    if any(clip.kind == "video" for clip in clips):
        require_reader(config.reader)
