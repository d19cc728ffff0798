"""What clips there are: a folder, a list, a table of cuts, or shards become a list of clips in a fixed order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from siammae.annotations.tables import list_lines, table_rows
from siammae.clips.clip import PAGES, Clip
from siammae.clips.shards import INDEX_FILE, find_index, read_index, scan_shard
from siammae.frames import IMAGE_SUFFIXES, PICTURE_SUFFIXES, PathLike, count_frames

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv")
_ANY_BYTES = "surrogateescape"  # names of files need not be UTF-8
_COLUMNS = ("path", "start", "stop")


def find_clips(source: PathLike, *, folders: bool = False) -> list[Clip]:
    """List the clips of a folder, a list, a table, shards or a single file.

    Args:
        source: a folder, searched with all its subfolders for videos, or where there are none for images, each a clip
            of one frame, or of its pages where a GIF, TIFF, WebP or PNG has several: ``a.tif@pages`` (hidden files are
            left out, and images beside videos, which may be their masks: a list takes both); a folder of shards written
            by ``siammae shard``, or one of its ``.tar`` files; a ``.txt`` file with one path a line; a ``.csv`` file
            with the header ``path,start,stop``, the times in seconds and empty where a clip begins or ends with its
            file; or one video or image. The paths of a list or a table are relative to it and inside its folder, by
            their text: ``..`` may not lead out of it. Links to files are followed wherever they lead, in a folder and
            in a list, and the clip is named after the link; linked folders are not searched. Names of any bytes will
            do; FIFOs and devices are no clips.
        folders: a folder of images is one video, in a list and where a folder holds no videos, and what a list names
            need not be there: reading it will say so. For passes over whole videos; False makes each image a clip.

    Returns:
        Clips in sorted order (folder), or as listed. Their names differ, and stay when the whole source is moved.

    Raises:
        FileNotFoundError: the source or a listed file does not exist.
        ValueError: there is no clip in it, it is neither file nor folder, a listed path leaves the list's folder, a
            clip is listed twice, or a line of a table is malformed.
        DatasetError: a folder of shards is unfinished, or a shard damaged.
    """
    root = Path(source)
    if not root.exists():
        raise FileNotFoundError(f"no file or folder {root}: pass a folder of videos, a .txt or .csv list or a video.")
    if not root.is_dir() and not root.is_file():
        raise ValueError(f"{root} is neither a file nor a folder: pass a folder of videos, a list or a video.")
    if root.is_dir():
        clips = read_index(index) if (index := find_index(root)) else _search(root, folders)
    elif root.suffix == ".tar":
        clips = scan_shard(root)
    elif root.suffix in (".txt", ".csv"):
        clips = list(_read_list(root, folders) if root.suffix == ".txt" else _read_table(root, folders))
        _check_names(root, clips)
    else:
        clips = [_clip(root.name, root)]
    if not clips:
        known = f"{', '.join(VIDEO_SUFFIXES)}, images {', '.join(sorted(PICTURE_SUFFIXES))}"
        raise ValueError(f"{root} holds no video: known are {known}, and shards with {INDEX_FILE}.")
    return clips


def _clip(name: str, path: Path, start: float | None = None, stop: float | None = None) -> Clip:
    if path.is_dir():
        return Clip(name, path, kind="frames")
    image = path.suffix.lower() in IMAGE_SUFFIXES
    if image and _has_pages(path):
        name, image = f"{name}{PAGES}", False
    return Clip(name, path, kind="image" if image else "video", start=start, stop=stop)


def _has_pages(path: Path) -> bool:
    try:
        return (count_frames(path) or 0) > 1
    except (OSError, ValueError):  # reading it will say what is wrong
        return False


def _search(root: Path, folders: bool) -> list[Clip]:
    files = sorted(path for path in root.rglob("*") if path.name[0] != "." and path.is_file())
    for suffixes in (VIDEO_SUFFIXES, PICTURE_SUFFIXES):
        if found := [path for path in files if path.suffix.lower() in suffixes]:
            if folders and suffixes is PICTURE_SUFFIXES:
                found = sorted({path.parent for path in found})
            return [_clip(path.relative_to(root).as_posix(), path) for path in found]
    return []


def _read_list(file: Path, folders: bool) -> Iterator[Clip]:
    for line in list_lines(file, errors=_ANY_BYTES):
        if (name := line.strip()) and not name.startswith("#"):
            yield _clip(*listed_path(file, name, must_exist=not folders))


def listed_path(file: Path, name: str, *, must_exist: bool = True) -> tuple[str, Path]:
    """Return name and path of what a list or table names.

    The name may not leave the list's folder; a link may, as in a folder that is searched.

    Raises:
        ValueError: it leaves it.
        FileNotFoundError: there is no such file, and it must exist.
    """
    folder = file.parent.absolute()
    path = Path(os.path.normpath(folder / name))
    if path.is_relative_to(folder.resolve()):  # an absolute name, where the folder itself was reached by a link
        folder = folder.resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{file} lists {name!r}, which leaves {folder}. Put the list above the videos.")
    if "\0" in name or not (path.is_file() or not must_exist):
        raise FileNotFoundError(f"{file} lists {name!r}, but there is no file {path}.")
    return path.relative_to(folder).as_posix(), path


def _read_table(file: Path, folders: bool) -> Iterator[Clip]:
    for where, row in table_rows(file, ("path",), ",".join(_COLUMNS), known=_COLUMNS, errors=_ANY_BYTES):
        if surplus := set(row) - set(_COLUMNS):
            raise ValueError(f"{file} has the column {min(surplus)!r}: there may be {', '.join(_COLUMNS)}.")
        if not (row["path"] or "").strip():
            raise ValueError(f"{where} has no path: it must be {','.join(_COLUMNS)}.")
        name, path = listed_path(file, (row["path"] or "").strip(), must_exist=not folders)
        start, stop = (_seconds(row.get(column), column, where) for column in ("start", "stop"))
        if stop is not None and stop <= (start or 0):
            raise ValueError(f"{where} stops at {stop:g} s: it must be after the start, {start or 0:g} s.")
        if start is not None or stop is not None:
            name += f"@{start or 0:.12g}-" + ("" if stop is None else f"{stop:.12g}")
            if path.suffix.lower() in IMAGE_SUFFIXES or path.is_dir():
                kind = "a folder of images" if path.is_dir() else "an image"
                raise ValueError(f"{where} cuts {path.name} in time: it is {kind}. Leave start and stop empty.")
        yield _clip(name, path, start, stop)


def _seconds(text: str | None, name: str, where: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where} has {name} {text.strip()!r}: it must be seconds from 0 up, or empty.")
    return seconds


def _check_names(file: Path, clips: Iterable[Clip]) -> None:
    seen = set()
    for clip in clips:
        if clip.name in seen:
            raise ValueError(f"{file} lists {clip.name!r} twice: a clip may be listed once. Remove a line.")
        seen.add(clip.name)
