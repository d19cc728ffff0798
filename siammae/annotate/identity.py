"""Which video a project is of: told by size and checksum, wherever the file lies by now."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from siammae.frames.images import list_pages

_BLOCK, _BLOCKS = 2**20, 64  # what is read of a file: all of it up to 64 MiB, else so many pieces all over it
_PICTURES = 32  # of a folder whose bytes are read; of the others name and size


def fingerprint(video: Path) -> dict[str, object]:
    """Return the size in bytes and a SHA-256 of a video file or a folder of images.

    The checksum is over the name-free content: all of a file up to 64 MiB, else 64 pieces of 1 MiB spread over it, so
    that a long video is opened at once. Of a folder it is over the names and sizes of all images and the bytes of 32.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: a folder does not hold the images of one video.
    """
    pages = list_pages(video)
    digest = hashlib.sha256()
    if pages is None or not video.is_dir():
        size = video.stat().st_size
        with video.open("rb") as opened:
            _add(opened, size, digest)
        return {"size": size, "sha256": digest.hexdigest()}
    files = list(dict.fromkeys(page.path for page in pages))
    sizes = [file.stat().st_size for file in files]
    for file, size in zip(files, sizes, strict=True):
        digest.update(f"{file.name}\0{size}\0".encode(errors="surrogateescape"))
    for place in sorted({round(i * (len(files) - 1) / (_PICTURES - 1)) for i in range(_PICTURES)}):
        digest.update(files[place].read_bytes())
    return {"size": sum(sizes), "sha256": digest.hexdigest()}


def _add(file: BinaryIO, size: int, digest: hashlib._Hash) -> None:
    """Feed a checksum with a file, or with pieces of a large one."""
    if size <= _BLOCK * _BLOCKS:
        while block := file.read(_BLOCK):
            digest.update(block)
        return
    for place in range(_BLOCKS):
        file.seek(place * (size - _BLOCK) // (_BLOCKS - 1))
        digest.update(file.read(_BLOCK))
