"""Labels of any format in and out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.annotations.formats.format import Feature, Format, Opening, Watch
from siammae.annotations.formats.registry import find_format, recognise
from siammae.annotations.model import Annotations
from siammae.errors import printable
from siammae.outputs import ResultFolder, claim_files, claim_folder, whole

if TYPE_CHECKING:
    from siammae.frames import PathLike

_log = logging.getLogger(__name__)
_ANY = r"[^./][^/]*(/.*)?"  # names of all files in a folder of labels, at any depth


@dataclass(frozen=True, slots=True)
class Written:
    """What came of writing labels.

    Attributes:
        path: of the file or folder.
        format: its name.
        frames: how many were written.
        lost: what the format has no place for, and how often it was met.
    """

    path: Path
    format: str
    frames: int
    lost: dict[Feature, int]


def read_annotations(
    path: PathLike,
    *,
    video: PathLike | None = None,
    size: tuple[int, int] | None = None,
    sequence: str | None = None,
    format: str | None = None,
) -> Annotations:
    """Read labels in any of the formats that ``siammae formats`` lists.

    Args:
        path: a file or folder.
        video: the labelled video, a file or folder of images: gives the frames' size, number and names.
        size: ``(H, W)`` of the frames, for formats that do not tell it; ``video`` makes it needless.
        sequence: which video is meant, where the labels are those of several.
        format: None = found by looking at the file.

    Returns:
        The labels; masks are decoded frame by frame while you walk through them, and faults in them show there.

    Raises:
        ValueError: the format is unknown or only written, or the file is not what it says.
        FileNotFoundError: there is nothing at a path.
        VideoReadError: the video or a mask cannot be decoded.
        ImportError: the format needs a package that is not installed.
    """
    path = Path(path)
    found = recognise(path) if format is None else find_format(format)
    if found.read is None:
        raise ValueError(f"{found.name} is written but not read.")
    if not path.exists():
        raise FileNotFoundError(f"no labels at {path}.")
    opening = _opening(video, size, sequence)
    try:
        return found.read(path, opening)
    except (TypeError, KeyError, AttributeError, IndexError) as error:  # a value of a kind that no one thought of
        raise ValueError(f"{path} is not laid out as {found.name}: {error}.") from error


def write_annotations(path: PathLike, annotations: Annotations, *, format: str, overwrite: bool = False) -> Written:
    """Write labels; a file appears whole or not at all, and a folder once all of its files are made.

    What the format has no place for is left out, logged as a warning and told in the result.

    Args:
        path: of the file or folder.
        annotations: as from :func:`read_annotations`.
        format: a name that ``siammae formats`` lists.
        overwrite: whether a file that is there may be replaced, or a folder in which siammae wrote everything.

    Returns:
        What was written and what was lost.

    Raises:
        ValueError: the format is unknown or only read, it holds nothing of these labels, or cannot hold a value; or
            there is something at the path that may not be replaced.
        BlockingIOError: another run is writing there; says which.
        OSError: it cannot be written.
        ImportError: the format needs a package that is not installed.
    """
    with claim_labels(path, format=format, overwrite=overwrite) as write:
        return write(annotations)


@contextmanager
def claim_labels(
    path: PathLike, *, format: str, inputs: Iterable[object] = (), overwrite: bool = False
) -> Iterator[Callable[[Annotations], Written]]:
    """Hold the place of labels from before they are read; yields what writes them.

    Arguments and errors are those of :func:`write_annotations`; ``inputs`` are never replaced.
    """
    place, target = Path(path), find_format(format)
    if target.write is None:
        raise ValueError(f"{target.name} is read but not written.")
    if target.is_folder:
        with claim_folder(place, "(?!)", numbered=_ANY, inputs=inputs, overwrite=overwrite) as results:
            yield lambda annotations: _write_folder(place, annotations, target, results)
    else:
        with claim_files(place, inputs=inputs, overwrite=overwrite):
            yield lambda annotations: _write_file(place, annotations, target)


def _write_file(path: Path, annotations: Annotations, target: Format) -> Written:
    with whole(path) as part:
        return _write(part, annotations, target, path)


def _write_folder(path: Path, annotations: Annotations, target: Format, results: ResultFolder) -> Written:
    with results.scratch() as part:
        written = _write(part, annotations, target, path)
        results.clear()
        results.take(part)
    return written


def _write(part: Path, annotations: Annotations, target: Format, path: Path) -> Written:
    watch = Watch(annotations, target)
    if target.write is not None:
        target.write(part, watch.annotations())
    for feature, count in watch.lost.items():
        _log.warning("%s: %s has no place for %s; left out (%d times).", printable(path), target.name, feature, count)
    return Written(path, target.name, watch.written, watch.lost)


def _opening(video: PathLike | None, size: tuple[int, int] | None, sequence: str | None) -> Opening:
    if video is None:
        return Opening(size=size, sequence=sequence)
    from siammae.frames import count_frames, read_frames
    from siammae.frames.images import list_pages

    height, width = next(iter(read_frames(video, stop=1))).shape[:2]
    if size is not None and size != (height, width):
        raise ValueError(f"size is {size} but the video has {(height, width)} (height, width). Leave it out.")
    pages = list_pages(Path(os.fspath(video))) or []
    return Opening((height, width), count_frames(video), tuple(page.path.stem for page in pages), sequence)
