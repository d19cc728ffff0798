"""Ids of results: of a video's content and of the settings, never of its place or name."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from siammae.clips.clip import Clip
from siammae.clips.shards import ShardedClip
from siammae.frames.images import list_pages

_CHUNK = 2**20
ID_LENGTH = 32  # hexadecimal digits, 128 bits


def path_of(clip: Clip) -> str:
    """Return how a clip is called in a manifest: its absolute path, with the part of the file that it is."""
    path = str(clip.path.absolute())
    if clip.kind == "shard":
        return f"{path}#{clip.name}"
    if clip.start is None and clip.stop is None:
        return path
    return f"{path}@{clip.start or 0:.12g}-" + ("" if clip.stop is None else f"{clip.stop:.12g}")


def look(clip: Clip) -> tuple[int, int]:
    """Return size in bytes and time of change in nanoseconds of the clip's file, or of a folder's images together.

    Raises:
        OSError: there is none.
    """
    files = [page.path for page in list_pages(clip.path) or []] if clip.kind == "frames" else [clip.path]
    stats = [file.stat() for file in dict.fromkeys(files)]
    return sum(one.st_size for one in stats), max(one.st_mtime_ns for one in stats)


def checksum(clip: Clip) -> str:
    """Return the SHA-256 of a clip's file; of a folder, of its images' names and theirs; in a shard, of its part.

    Raises:
        OSError: it cannot be read.
    """
    if clip.kind == "shard":
        with closing(ShardedClip(clip)) as opened:
            start, stop = opened.extent
        return _hash_file(clip.path, start, stop)
    if clip.kind != "frames":
        return _hash_file(clip.path)
    digest = hashlib.sha256()
    for file in dict.fromkeys(page.path for page in list_pages(clip.path) or []):
        digest.update(f"{_hash_file(file)} {file.name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _hash_file(path: Path, start: int = 0, stop: int = sys.maxsize) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(min(_CHUNK, stop - file.tell())):
            digest.update(chunk)
    return digest.hexdigest()


def result_id(content: str, clip: Clip, settings: Mapping[str, Any]) -> str:
    """Return the id of what the settings make of a content.

    Args:
        content: its checksum.
        clip: which part of it.
        settings: JSON-ready.
    """
    said = {"content": content, "cut": [clip.start, clip.stop], "settings": settings}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]
