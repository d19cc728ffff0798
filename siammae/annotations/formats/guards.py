"""Files that lie are refused in one line, before they cost memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from siammae.config.bounds import bound

MAX_OBJECT_ID = 2**31 - 1
MAX_RECORD_ID = 2**63 - 1  # of images and rows in tables of several videos


def read_text(path: Path) -> str:
    """Read a text file that is not larger than any honest one.

    Raises:
        ValueError: it is too large, or no UTF-8.
    """
    check_bytes(path)
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}.") from None


def check_bytes(path: Path) -> None:
    """Refuse a file that would have to be held in memory and is too large for that.

    Raises:
        ValueError: it is larger than ``SIAMMAE_MAX_LABEL_BYTES``.
    """
    if (size := path.stat().st_size) > (most := bound("SIAMMAE_MAX_LABEL_BYTES")):
        raise ValueError(
            f"{path} has {size:,} bytes: at most {most:,} are read. Split it by video, or set SIAMMAE_MAX_LABEL_BYTES."
        )


def read_json(path: Path) -> Any:  # noqa: ANN401 -- any JSON value
    """Read JSON that is neither too large nor too deep.

    Raises:
        ValueError: it is, or it is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be labels.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from None


def top_keys(path: Path) -> frozenset[str]:
    """Return the keys of a JSON file's object, or of the first object in its list; none for other files.

    Raises:
        ValueError: it is called JSON and cannot be read.
    """
    if path.suffix.lower() != ".json" or not path.is_file():
        return frozenset()
    status = path.stat()
    return _top_keys(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _top_keys(path: Path, changed: int, size: int) -> frozenset[str]:
    del changed, size  # they make the cache forget a file that was written anew
    content = read_json(path)
    first = content[0] if isinstance(content, list) and content else content
    return frozenset(first) if isinstance(first, dict) else frozenset()


def check_size(height: object, width: object, place: object) -> tuple[int, int]:
    """Return a frame size that a file claims.

    Raises:
        ValueError: it is no size, or beyond any honest one.
    """
    sides = []
    for side in (height, width):
        if not isinstance(side, int | float) or isinstance(side, bool) or side % 1 != 0:  # so of infinity and NaN
            raise ValueError(f"{place} has the frame size {height!r} x {width!r}: both must be whole numbers.")
        sides.append(int(side))
    longest, most = bound("SIAMMAE_MAX_SIDE"), bound("SIAMMAE_MAX_PIXELS")
    if min(sides) < 1 or max(sides) > longest or sides[0] * sides[1] > most:
        size = " x ".join(str(side)[:20] for side in sides)
        raise ValueError(
            f"{place} has the frame size {size}: sides go from 1 to {longest}, and a frame has at most {most:,} "
            "pixels. SIAMMAE_MAX_SIDE and SIAMMAE_MAX_PIXELS allow more."
        )
    return sides[0], sides[1]


def same_size(claimed: tuple[int, int], known: tuple[int, int] | None, place: object) -> tuple[int, int]:
    """Return the size that a file claims, if it is that of the video.

    Raises:
        ValueError: it is not.
    """
    if known is not None and claimed != tuple(known):
        raise ValueError(
            f"{place} is for frames of {claimed} but the video has {tuple(known)} (height, width). Labels are those of "
            "one video, or choose a frame."
        )
    return claimed


def whole_number(value: object, what: str, place: object, *, least: int = 0, most: int = MAX_OBJECT_ID) -> int:
    """Return a number of frames, an id or the like.

    Raises:
        ValueError: it is no whole number in the range.
    """
    try:
        number = int(value)  # type: ignore[call-overload]
        exact = not isinstance(value, float) or number == value
    except (TypeError, ValueError, OverflowError):
        number, exact = least - 1, False
    if isinstance(value, bool) or not exact or not least <= number <= most:
        raise ValueError(f"{place}: {what} is {str(value)[:40]!r}: it must be a whole number from {least} to {most}.")
    return int(number)


def finite(value: object, what: str, place: object) -> float:
    """Return a coordinate or a score.

    Raises:
        ValueError: it is no finite number.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: {what} is {str(value)[:40]!r}: it must be a finite number.")
    return number


def entry(table: object, key: str, place: object, kind: type | tuple[type, ...] = object) -> Any:  # noqa: ANN401
    """Return an entry of a JSON object.

    Raises:
        ValueError: there is none, or it is of another kind.
    """
    if not isinstance(table, Mapping) or key not in table:
        raise ValueError(f"{place} has no {key!r}.")
    if not isinstance(table[key], kind):
        raise ValueError(f"{place}: {key!r} is of the wrong kind: {type(table[key]).__name__}.")
    return table[key]


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file or folder that a file names, one level below ``folder``.

    Raises:
        ValueError: the name leads elsewhere.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0") or (folder / name).is_symlink():
        raise ValueError(f"{name[:80]!r} is not the name of something in {folder}.")
    return folder / name
