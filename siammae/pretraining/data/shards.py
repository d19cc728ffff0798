"""Shards: clips as encoded frames in uncompressed tar files, of which any frame is read by itself.

A tar follows WebDataset's naming, a sample a clip: ``00000012.json`` describes it, ``00000012.000030.jpg`` is its frame
30, counted in the original video. The description comes first and holds every frame's size in bytes, so that their
places follow; ``index.json`` beside the tars holds each clip's place.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from siammae.errors import DatasetError, VideoReadError
from siammae.frames import VideoEndError, decode_image
from siammae.pretraining.data.clips import Clip

INDEX_FILE, PROGRESS_FILE = "index.json", "progress.json"
LAYOUT = "siammae shards 1"
_BLOCK = tarfile.BLOCKSIZE


def find_index(folder: Path) -> Path | None:
    """Return the index of a folder of shards, None for any other folder.

    Raises:
        DatasetError: the shards were not finished, or are tars of another kind.
    """
    path = folder / INDEX_FILE
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if isinstance(content, dict) and content.get("layout") == LAYOUT:
            return path
    if (folder / PROGRESS_FILE).is_file():
        raise DatasetError(f"the shards in {folder} are unfinished: run siammae shard again, it goes on.")
    tars = sorted(folder.glob("*.tar"))
    if tars:
        raise DatasetError(
            f"{folder} holds {tars[0].name} but no {INDEX_FILE} of siammae's shards: make them with siammae shard, or "
            "restore that file."
        )
    return None


def read_index(path: Path) -> list[Clip]:
    """List the clips of a folder of shards, in the order of the videos they were made from.

    Raises:
        DatasetError: a tar is missing, or the index is damaged.
    """
    clips = []
    try:
        for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]:
            file = path.parent / Path(shard["file"]).name
            if not file.is_file():
                raise DatasetError(f"{path} names {file.name}, but it is not there. Restore it, or shard again.")
            clips += [Clip(str(name), file, kind="shard", offset=int(offset)) for name, offset in shard["clips"]]
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error!r}): delete it and shard again.") from error
    return clips


def scan_shard(path: Path) -> list[Clip]:
    """List the clips of one tar by its headers.

    Raises:
        DatasetError: it is no uncompressed tar, or holds no clips.
    """
    clips = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    description = _description(path, member.offset)
                    clips.append(Clip(str(description["name"]), path, kind="shard", offset=member.offset))
    except (tarfile.TarError, VideoReadError) as error:
        raise DatasetError(f"{path} is no shard of siammae's: {error}. Make shards with siammae shard.") from error
    if not clips:
        raise DatasetError(f"{path} holds no clips. Make shards with siammae shard.")
    return clips


def _description(path: Path, offset: int) -> dict[str, Any]:
    with path.open("rb") as file:
        return _read_description(file, path, offset)[0]


def _read_description(file: BinaryIO, path: Path, offset: int) -> tuple[dict[str, Any], int]:
    """Read what stands before a clip's frames, and return it with the place of the first one's header."""
    file.seek(offset)
    try:
        header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "strict")
        content = json.loads(file.read(header.size))
        ours = content["layout"] == LAYOUT and all(isinstance(size, int) and size >= 0 for size in content["bytes"])
    except (tarfile.HeaderError, ValueError, LookupError, TypeError) as error:
        raise VideoReadError(f"{path} holds no clip of siammae's at byte {offset} ({error!r})") from error
    if not ours:
        raise VideoReadError(f"{path} holds a description of another layout at byte {offset}")
    return content, offset + member_bytes(header.size)


def member_bytes(size: int) -> int:
    """Return what a member of so many bytes takes in a tar: a header before, zeros behind."""
    return _BLOCK + -(-size // _BLOCK) * _BLOCK


def describe(
    name: str, *, frame_rate: float, count: int, length: int, step: int, size: Sequence[int], data: Sequence[bytes]
) -> Mapping[str, Any]:
    """Return a clip's description.

    Args:
        name: the clip's.
        frame_rate: per second, 0 where it is unknown.
        count: frames by the video's header; pairs are drawn by it first, as from the video itself.
        length: frames that the video really had.
        step: every step-th of them is kept.
        size: (H, W) of the kept frames.
        data: the kept frames, encoded.
    """
    return {
        "layout": LAYOUT,
        "name": name,
        "fps": frame_rate,
        "count": count,
        "length": length,
        "step": step,
        "size": list(size),
        "frames": len(data),
        "bytes": [len(frame) for frame in data],
    }


class ShardedClip:
    """Frames of one clip in a shard, read each by itself; as :class:`siammae.frames.FrameReader` otherwise.

    Args:
        clip: of kind ``"shard"``.

    Raises:
        VideoReadError: the shard is not as it was when its index was written.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._file = clip.path.open("rb")
        try:
            content, place = _read_description(self._file, clip.path, clip.offset)
            self._bytes = list(content["bytes"])
            self.frame_count, self._length = int(content["count"]), int(content["length"])
            self.frame_rate, self.step = float(content["fps"]), int(content["step"])
        except (VideoReadError, LookupError, ValueError):
            self.close()
            raise
        if content["name"] != clip.name:
            self.close()
            raise VideoReadError(f"{clip.path} holds {content['name']!r} where {clip.name!r} should be. Shard again.")
        taken = [member_bytes(size) for size in self._bytes]
        self._places = place + np.cumsum([0, *taken[:-1]]) + _BLOCK  # of each frame's first byte

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers in the original video, which rise and are multiples of ``step``."""
        for number in numbers:
            if number >= self._length:
                raise VideoEndError(self._length)
            kept, rest = divmod(number, self.step)
            if rest:
                raise ValueError(f"frame {number} is not in {self._clip.path}: it keeps every {self.step}th.")
            self._file.seek(int(self._places[kept]))
            data = self._file.read(self._bytes[kept])
            yield number, decode_image(io.BytesIO(data), f"frame {number} of {self._clip.name}", number)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
