"""Labels of any format in and out."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from siammae.annotations.formats.format import Feature, Format, Opening, Watch
from siammae.annotations.formats.registry import find_format, recognise
from siammae.annotations.model import Annotations
from siammae.annotations.selection import choose
from siammae.config.bounds import bound
from siammae.errors import printable
from siammae.outputs import MARKER, claim_files, claim_folder, whole

if TYPE_CHECKING:
    from siammae.frames import Backend, PathLike

_log = logging.getLogger(__name__)
_AT_ANY_DEPTH = r"[^./][^/]*(/.*)?"  # names of files in a folder of labels


@dataclass(frozen=True, slots=True)
class Written:
    """What came of writing labels.

    Attributes:
        path: of the file or folder.
        format: its name.
        frames: how many were written.
        lost: what the format has no place for, and how many frames or objects lost it.
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
    frames: Collection[int] | None = None,
    format: str | None = None,
) -> Annotations:
    """Read labels in any of the formats that ``siammae formats`` lists.

    Args:
        path: a file or folder.
        video: the labelled video, a file or folder of images: gives the frames' size, number and names.
        size: ``(H, W)`` of the frames, for formats that do not tell it; ``video`` makes it needless.
        sequence: which video is meant, where the labels are those of several.
        frames: take these only; None = all. Of one frame, objects need not be told apart from those of the next.
        format: None = found by looking at the file.

    Returns:
        The labels; masks are decoded frame by frame while you walk through them, and faults in them show there.

    Raises:
        ValueError: the format is unknown or only written, or the file is not what it says.
        FileNotFoundError: there is nothing at a path.
        VideoReadError: the video or a mask cannot be decoded.
        ImportError: the format needs a package that is not installed.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import siammae
        >>> Path("masks").mkdir()
        >>> siammae.write_mask("masks/00000.png", np.array([[0, 1], [2, 2]]))
        >>> labels = siammae.read_annotations("masks")
        >>> sorted(next(labels.frames()).masks)  # the objects of the first frame
        [1, 2]
    """
    opening = Opening(size=size, sequence=sequence)
    if video is not None:
        opening = open_video(video, size=size, sequence=sequence, leave_out=[path])
    return read_labels(Path(path), replace(opening, frames=None if frames is None else frozenset(frames)), format)


def read_labels(path: Path, opening: Opening, format: str | None = None) -> Annotations:
    """Read labels of a video that is known already; else as :func:`read_annotations`."""
    found = recognise(path) if format is None else find_format(format)
    if found.read is None:
        raise ValueError(f"{found.name} is written but not read.")
    if not path.exists():
        raise FileNotFoundError(f"no labels at {path}.")
    try:
        labels = found.read(path, opening)
    except (TypeError, KeyError, AttributeError, IndexError) as error:  # a value of a kind that no one thought of
        raise ValueError(f"{path} is not laid out as {found.name}: {error}.") from error
    return labels if opening.frames is None else choose(labels, frames=opening.frames)


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

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> square = np.zeros((48, 64), bool)
        >>> square[16:32, 16:32] = True
        >>> frames = [siammae.FrameLabels(index, {1: square}) for index in range(3)]
        >>> labels = siammae.Annotations(lambda: iter(frames), size=(48, 64), frame_count=3)
        >>> written = siammae.write_annotations("masks", labels, format="davis")
        >>> [frame.index for frame in siammae.read_annotations("masks").frames()]
        [0, 1, 2]
    """
    with claim_labels(path, format=format, overwrite=overwrite) as write:
        return write(annotations)


class LabelWriter(Protocol):
    """Writes labels to a place that is held."""

    def __call__(self, annotations: Annotations, said: Collection[Feature] = ()) -> Written:
        """Write; ``said`` are losses that need no warning any more."""


@contextmanager
def claim_labels(
    path: PathLike, *, format: str, inputs: Iterable[object] = (), overwrite: bool = False
) -> Iterator[LabelWriter]:
    """Hold the place of labels from before they are read; yields what writes them.

    Arguments and errors are those of :func:`write_annotations`; ``inputs`` are never replaced.
    """
    place, target = Path(path), find_writable(format)
    if target.suffix:
        with claim_files(place, inputs=inputs, overwrite=overwrite):
            yield partial(_write, place, target)
        return
    with claim_folder(place, "(?!)", numbered=_AT_ANY_DEPTH, inputs=inputs, overwrite=overwrite):
        yield partial(_write, place, target)


def find_writable(name: str) -> Format:
    """Return the format of that name.

    Raises:
        ValueError: there is none, or it is only read.
    """
    target = find_format(name)
    if target.write is None:
        raise ValueError(f"{target.name} is read but not written: siammae formats says which are.")
    return target


def _write(path: Path, target: Format, annotations: Annotations, said: Collection[Feature] = ()) -> Written:
    watch = Watch(annotations, target)
    with whole(path) as scratch:
        if target.write is not None:
            watch.add(target.write(scratch, watch.annotations()) or {})
        if scratch.is_dir():
            names = [file.relative_to(scratch).as_posix() for file in sorted(scratch.rglob("*")) if file.is_file()]
            (scratch / MARKER).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            if (there := Path(os.path.realpath(path))).is_dir():
                there.rename(scratch.with_name("old"))  # goes with the temporary folder that it is in now
    for feature, count in watch.lost.items():
        if feature not in said:
            _log.warning(
                "%s: %s has no place for %s; left out (%d times).", printable(path), target.name, feature, count
            )
    if target.suffix and (size := path.stat().st_size) > (most := bound("SIAMMAE_MAX_LABEL_BYTES")):
        _log.warning(
            "%s has %d MB: it is read again with SIAMMAE_MAX_LABEL_BYTES=%d only (%d). Another format may be shorter.",
            *(printable(path), size // 10**6, size, most),
        )
    return Written(path, target.name, watch.written, watch.lost)


def open_video(
    video: PathLike,
    *,
    size: tuple[int, int] | None = None,
    sequence: str | None = None,
    reader: Backend = "auto",
    leave_out: Collection[PathLike] = (),
) -> Opening:
    """Look at a video whose labels are read: the frames' size, number and names.

    Args:
        video: file or folder of images.
        size: ``(H, W)`` that it must have.
        sequence: passed on.
        reader: see :func:`siammae.read_frames`.
        leave_out: files in a folder of images that are no frames.

    Raises:
        ValueError: it has another size.
        FileNotFoundError: there is nothing at the path.
        VideoReadError: it cannot be decoded.
    """
    from siammae.frames import count_frames, read_frames
    from siammae.frames.images import list_pages

    height, width = next(iter(read_frames(video, stop=1, reader=reader, leave_out=leave_out))).shape[:2]
    if size is not None and size != (height, width):
        raise ValueError(f"size is {size} but the video has {(height, width)} (height, width). Leave it out.")
    pages = list_pages(Path(os.fspath(video)), leave_out) or []
    count = count_frames(video, reader=reader, leave_out=leave_out)
    return Opening((height, width), count, tuple(page.path.stem for page in pages), sequence)
