"""A project's folder: held by one server at a time, and of one video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siammae.config.bounds import bound
from siammae.errors import printable
from siammae.outputs import hold_folder
from siammae.outputs.temporary import sweep

INDEX, VERSION = "project.json", 1
ANNOTATED, FOLLOWED, EXPORTS, POINTS = "annotated", "followed", "exports", "keypoints.csv"


@contextmanager
def hold_project(folder: Path, video: Path | None = None) -> Iterator[None]:
    """Hold a project's folder from before it is opened to the end: one server at a time.

    Raises:
        ValueError: the folder is a file, the video, or holds something that is no project.
        BlockingIOError: another server has it; says which.
        OSError: it cannot be written.
    """
    if folder.is_dir() and not (folder / INDEX).exists():
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise ValueError(
                f"{folder} holds {printable(others[0])} but no {INDEX}: it is no project. Choose another with -o."
            )
    try:
        with hold_folder(folder, inputs=[video]):
            for place in (folder, *(folder / name for name in (ANNOTATED, FOLLOWED, EXPORTS))):
                if place.is_dir():
                    sweep(place)
            yield
    except BlockingIOError as error:
        raise BlockingIOError(str(error).replace("another run is writing", "another server has opened", 1)) from error


def read_index(folder: Path) -> dict[str, Any]:
    """Read a project's ``project.json``; empty where there is none.

    Raises:
        ValueError: it is no such file, or of a newer version.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    most = bound("SIAMMAE_MAX_LABEL_BYTES")
    if path.stat().st_size > most:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: at most {most} are read (SIAMMAE_MAX_LABEL_BYTES).")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): it is damaged, or no project of siammae.") from error
    if not isinstance(index, dict) or not isinstance(index.get("video"), dict):
        raise ValueError(f"{path} describes no video: it is no project of siammae.")
    if index.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {printable(index.get('version'))}: this siammae reads version {VERSION}. Update it."
        )
    return index


def check_same(folder: Path, known: Mapping[str, Any], video: Mapping[str, Any]) -> None:
    """Refuse another video than the one that the project is of."""
    fields = ("size", "sha256", "frames", "height", "width")
    if any(known.get(field) != video[field] for field in fields):
        raise ValueError(
            f"{folder} is a project of {printable(known.get('name'))} ({known.get('size')} bytes, checksum "
            f"{printable(known.get('sha256'))[:12]}), but {video['name']} is another video ({video['size']} bytes, "
            f"checksum {video['sha256'][:12]}). Choose another project with -o."
        )
