"""Shards: clips as encoded frames in uncompressed tar files, of which any frame is read by itself.

A tar follows WebDataset's naming, a sample a clip: ``00000012.json`` describes it, ``00000012.000030.jpg`` is its frame
30, counted in the original video. The description comes first and holds every frame's size in bytes, so that their
places follow; ``index.json`` beside the tars holds each clip's place.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from siammae.clips.clip import Clip
from siammae.config.bounds import bound
from siammae.errors import DatasetError, VideoReadError
from siammae.frames import VideoEndError, decode_image

INDEX_FILE, PROGRESS_FILE = "index.json", "progress.json"
LAYOUT = "siammae shards 1"
_BLOCK = tarfile.BLOCKSIZE
_MOST_FRAMES = 2**40  # sums and draws of frame numbers stay within 64 bits


def find_index(folder: Path) -> Path | None:
    """Return the index of a folder of shards, None for any other folder.

    Raises:
        DatasetError: the shards were not finished, or are tars of another kind.
    """
    path, unreadable = folder / INDEX_FILE, ""
    if path.is_file():
        try:
            if load_index(path).get("layout") == LAYOUT:
                return path
        except DatasetError as error:  # it may be another program's
            unreadable = f" ({error})"
    if (folder / PROGRESS_FILE).is_file():
        raise DatasetError(f"the shards in {folder} are unfinished: run siammae shard again, it goes on.")
    tars = sorted(folder.glob("*.tar"))
    if tars:
        raise DatasetError(
            f"{folder} holds {tars[0].name} but no {INDEX_FILE} of siammae's shards{unreadable}: make them with "
            "siammae shard, or restore that file."
        )
    return None


def load_index(path: Path) -> dict[str, Any]:
    """Parse an index, or what is there of an unfinished one.

    Raises:
        DatasetError: it is damaged, or too long.
    """
    try:
        _bounded("its size in bytes", path.stat().st_size, "SIAMMAE_MAX_INDEX_BYTES")
        return dict(_parsed(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}): if siammae shard made it, delete it and shard again."
        ) from error


def read_index(path: Path) -> list[Clip]:
    """List the clips of a folder of shards, in the order of the videos they were made from.

    Raises:
        DatasetError: a tar is missing, or the index is damaged.
    """
    clips = []
    try:
        for shard in load_index(path)["shards"]:
            file = path.parent / Path(shard["file"]).name
            if not file.is_file():
                raise DatasetError(f"{path} names {file.name}, but it is not there. Restore it, or shard again.")
            size = file.stat().st_size
            for name, offset in shard["clips"]:
                place = _whole_number("a clip's place", offset, size)
                clips.append(Clip(_text("a clip's name", name), file, kind="shard", offset=place))
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
        with path.open("rb") as file:
            for member, offset in _members(file):
                if member.endswith(".json"):
                    description = _read_description(file, path, offset)[0]
                    clips.append(Clip(description.name, path, kind="shard", offset=offset))
    except (tarfile.TarError, VideoReadError) as error:
        raise DatasetError(f"{path} is no shard of siammae's: {error}. Make shards with siammae shard.") from error
    if not clips:
        raise DatasetError(f"{path} holds no clips. Make shards with siammae shard.")
    return clips


def _members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield the names in a tar with their places; tarfile itself would follow a negative size back for ever."""
    offset, end = 0, _size(file)
    while offset < end:
        file.seek(offset)
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):  # the end of a tar
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        yield header.name, offset
        offset += member_bytes(_member_size(header, offset, end))


def _member_size(header: tarfile.TarInfo, offset: int, end: int) -> int:
    if not 0 <= header.size <= end - offset - _BLOCK:
        raise tarfile.HeaderError(f"the member at byte {offset} has a size of {header.size}, the file has {end} bytes")
    return header.size


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


@dataclass(frozen=True, slots=True)
class _Description:
    """What :func:`describe` says, checked: nothing in it is larger than the file."""

    name: str
    frame_rate: float
    count: int
    length: int
    step: int
    sizes: Sequence[int]  # of the frames, in bytes


def _read_description(file: BinaryIO, path: Path, offset: int) -> tuple[_Description, int]:
    """Read what stands before a clip's frames, and return it with the place of the first one's header."""
    end = _size(file)
    file.seek(offset)
    try:
        header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        size = _member_size(header, offset, end)
        _bounded("the size of the description", size, "SIAMMAE_MAX_DESCRIPTION_BYTES")
        content = _parsed(file.read(size))
        if content["layout"] == LAYOUT:
            place = offset + member_bytes(size)
            return _checked(content, end - place), place
    except (tarfile.HeaderError, ValueError, LookupError, TypeError) as error:
        raise VideoReadError(f"{path} holds no clip of siammae's at byte {offset} ({error!r})") from error
    raise VideoReadError(f"{path} holds a description of another layout at byte {offset}")


def _checked(content: Any, room: int) -> _Description:  # noqa: ANN401 -- any JSON
    """Return a description that fits into ``room`` bytes.

    Raises:
        ValueError: it says what cannot be.
        LookupError, TypeError: it is of another kind.
    """
    count, length = (_whole_number(name, content[name], _MOST_FRAMES) for name in ("count", "length"))
    step = _whole_number("step", content["step"], _MOST_FRAMES)
    rate = content["fps"]
    if step < 1 or type(rate) not in (int, float) or not 0 <= rate <= _MOST_FRAMES:
        raise ValueError(f"step is {step} and fps {str(rate)[:40]}: they must be at least 1, and a number from 0 up")
    sizes = [_whole_number("a frame's size", size, room) for size in content["bytes"]]
    if len(sizes) != -(-length // step) or sum(map(member_bytes, sizes)) > room:
        raise ValueError(f"it tells of {length} frames, every {step}. kept, and of {len(sizes)} in {sum(sizes)} bytes")
    return _Description(_text("name", content["name"]), float(rate), count, length, step, sizes)


def _parsed(content: bytes) -> Any:  # noqa: ANN401 -- any JSON
    """Parse JSON; raises ValueError alone."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error


def _whole_number(what: str, value: Any, most: int) -> int:  # noqa: ANN401 -- any JSON
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{what} is {str(value)[:40]}: it must be a whole number from 0 to {most}")
    return value


def _bounded(what: str, value: int, name: str) -> None:
    if value > (most := bound(name)):
        raise ValueError(f"{what} is {value:,}: at most {most:,} are read; {name} allows more")


def _text(what: str, value: Any) -> str:  # noqa: ANN401 -- any JSON
    if not isinstance(value, str):
        raise TypeError(f"{what} is {str(value)[:40]}: it must be a text")
    return value


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

    What the shard says of itself is bounded before it is believed: no frame is larger than the file, and no description
    than 16 MiB.

    Args:
        clip: of kind ``"shard"``.

    Raises:
        VideoReadError: the shard is not as it was when its index was written.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._file = clip.path.open("rb")
        try:
            self._said, place = _read_description(self._file, clip.path, clip.offset)
        except VideoReadError:
            self.close()
            raise
        if self._said.name != clip.name:
            self.close()
            raise VideoReadError(f"{clip.path} holds {self._said.name!r} where {clip.name!r} should be. Shard again.")
        self.frame_count, self.frame_rate, self.step = self._said.count, self._said.frame_rate, self._said.step
        starts = accumulate(map(member_bytes, self._said.sizes), initial=place + _BLOCK)
        self._places = list(starts)  # of each frame's first byte, and one behind them

    @property
    def extent(self) -> tuple[int, int]:
        """The clip's first byte in the file, and the one behind its last."""
        return self._clip.offset, self._places[-1] - _BLOCK

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield frames with their numbers in the original video, which rise and are multiples of ``step``."""
        for number in numbers:
            if number >= self._said.length:
                raise VideoEndError(self._said.length)
            kept, rest = divmod(number, self.step)
            if rest:
                raise ValueError(f"frame {number} is not in {self._clip.path}: it keeps every {self.step}th.")
            self._file.seek(self._places[kept])
            data = self._file.read(self._said.sizes[kept])
            yield number, decode_image(io.BytesIO(data), f"frame {number} of {self._clip.name}", number)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
