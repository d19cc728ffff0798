"""Result files that grow while frames come: safetensors and zarr."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np

from siammae.corpus.packing import Stored

_TYPES = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}  # safetensors' names
_MOST = 10**15  # frames; a header has room for so many
_ALIGNED = 8


class Writer(Protocol):
    """A file that is being written; the first axis of all tensors is that of frames."""

    def write(self, parts: Mapping[str, Stored]) -> None:
        """Append frames of every tensor."""

    def finish(self) -> None:
        """Complete the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_writer(path: Path, kind: str, metadata: Mapping[str, str]) -> Writer:
    """Begin a file.

    Args:
        path: of a file or folder that is not there.
        kind: ``"safetensors"`` or ``"zarr"``.
        metadata: stored with the tensors.

    Raises:
        ImportError: zarr is not installed.
    """
    return ZarrWriter(path, metadata) if kind == "zarr" else SafetensorsWriter(path, metadata)


class SafetensorsWriter:
    """Safetensors of which the number of frames is known at the end only.

    The format puts a header with all shapes before the data. It may end in spaces, so room for any number of frames is
    left, and the header is written last. Data of a second tensor waits in a file beside, as it comes after all of the
    first.

    Args:
        path: of the file.
        metadata: texts by name.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path, self._metadata = path, dict(sorted(metadata.items()))
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._files: dict[str, BinaryIO] = {}
        self._frames = self._room = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, parts: Mapping[str, Stored]) -> None:
        """Append frames of every tensor; shapes and types are those of the first call."""
        if not self._files:
            self._begin(parts)
        for name, values in parts.items():
            self._files[name].write(np.ascontiguousarray(values).data)
        self._frames += len(next(iter(parts.values())))

    def _begin(self, parts: Mapping[str, Stored]) -> None:
        self._shapes = {name: (_TYPES[str(values.dtype)], values.shape[1:]) for name, values in parts.items()}
        self._room = -(-(8 + len(self._header(_MOST))) // _ALIGNED) * _ALIGNED - 8
        for number, name in enumerate(parts):
            place = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            self._files[name] = self._open.enter_context(place.open("w+b"))
        self._files[next(iter(parts))].write(bytes(8 + self._room))

    def _header(self, frames: int) -> bytes:
        content: dict[str, Any] = {"__metadata__": self._metadata}
        place = 0
        for number, (name, (kind, shape)) in enumerate(self._shapes.items()):
            size = frames * int(np.prod(shape)) * _size(kind)
            if number and (rest := -place % _ALIGNED):  # the format allows no holes, and readers like even addresses
                content["padding"] = {"dtype": "U8", "shape": [rest], "data_offsets": [place, place + rest]}
                place += rest
            content[name] = {"dtype": kind, "shape": [frames, *shape], "data_offsets": [place, place + size]}
            place += size
        if frames == _MOST and len(self._shapes) > 1:
            content.setdefault("padding", {"dtype": "U8", "shape": [7], "data_offsets": [place, place]})
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()

    def finish(self) -> None:
        """Append the other tensors and write the header."""
        header = self._header(self._frames)
        main, *others = self._files.values()
        if others:
            main.write(bytes(-(main.tell() - 8 - self._room) % _ALIGNED))
        for other in others:
            other.seek(0)
            shutil.copyfileobj(other, main, 2**20)
        main.seek(0)
        main.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        main.flush()
        self._open.close()
        for number in range(1, len(self._files)):
            os.unlink(self._path.with_name(f"{self._path.name}.{number}"))  # noqa: PTH108


def _size(kind: str) -> int:
    return {"F32": 4, "F16": 2, "I8": 1, "U8": 1}[kind]


def load_zarr() -> Any:  # noqa: ANN401 -- a module
    """Import zarr.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise ImportError('zarr files need zarr: pip install "siammae[zarr]".') from error
    return zarr


class ZarrWriter:
    """A zarr group with an array a tensor, one chunk a frame.

    Args:
        path: of the folder.
        metadata: becomes the group's attributes.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._group = load_zarr().create_group(str(path), zarr_format=3)
        self._group.attrs.update(dict(sorted(metadata.items())))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, parts: Mapping[str, Stored]) -> None:
        """Append frames of every tensor; shapes and types are those of the first call."""
        for name, values in parts.items():
            if name not in self._group:
                self._group.create_array(
                    name, shape=(0, *values.shape[1:]), chunks=(1, *values.shape[1:]), dtype=values.dtype
                )
            self._group[name].append(np.ascontiguousarray(values))

    def finish(self) -> None:
        """Everything is written already."""
