"""Options about files of labels, and what they take of such a file."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from siammae.annotations.formats.format import Opening
    from siammae.annotations.model import Annotations

_log = logging.getLogger(__name__)
Source = tuple[int | None, str]  # the frame that it is said to be of, and its path


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add what is meant of a file of labels."""
    group = parser.add_argument_group("files of labels", "siammae formats lists what can be read")
    group.add_argument("--input-format", metavar="NAME", help="that of the labels (found by looking at them)")
    group.add_argument(
        "--object",
        action="append",
        default=[],
        metavar="NAME[=ID]",
        help="an object to follow, by name, category or id, and the id that it gets; may be repeated (all of them)",
    )
    group.add_argument(
        "--frame",
        action="append",
        type=int,
        metavar="N",
        help="take the labels of frame N only; may be repeated (all labelled frames)",
    )
    group.add_argument("--sequence", metavar="NAME", help="which video, where the labels are those of several")


def numbered(text: str) -> Source:
    """Split ``40=later.csv``; None where there is no number."""
    found = None if Path(text).exists() else re.fullmatch(r"(\d+)=(.+)", text, re.DOTALL)
    return (int(found[1]), found[2]) if found else (None, text)


def mask_sources(named: Sequence[str], whole: str | None) -> list[Source]:
    """Take the values of ``--mask`` and ``--masks`` apart.

    Raises:
        ValueError: there is none.
    """
    sources = [numbered(text) for text in named]
    if whole is not None:
        sources.append((None, whole))
    if not sources:
        raise ValueError(
            "there is no mask: pass --mask PNG for the first frame, --mask N=PNG, or --mask FILE with labels."
        )
    return sources


class Reading:
    """What the options say about all files of labels."""

    def __init__(self, args: argparse.Namespace, sources: Sequence[Source]) -> None:
        self._args, self._files = args, [text for _, text in sources]
        self._opened: Opening | None = None
        self._objects = _wanted(args.object)

    def opening(self) -> Opening:
        """Look at the video, once."""
        if self._opened is None:
            from siammae.annotations.files import open_video

            args = self._args
            self._opened = open_video(args.video, sequence=args.sequence, reader=args.reader, leave_out=self._files)
        return self._opened

    def names(self) -> tuple[str, ...]:
        """Return the names of the video's images."""
        return self.opening().frame_names if Path(self._args.video).is_dir() else ()

    def pictures(self, frame: int | None, path: Path) -> dict[int, Path]:
        """Return the pictures of masks that a path means, by frame; none where it means labels of another kind."""
        from siammae.frames import IMAGE_SUFFIXES

        if self._args.input_format is not None:
            return {}
        if not path.exists():
            raise FileNotFoundError(f"no mask at {path}: it must be a picture, or a file or folder of labels.")
        if path.is_dir():
            return self._numbered(frame, path)
        if path.suffix.lower() not in IMAGE_SUFFIXES or _has_pages(path):
            return {}
        if self._args.frame:
            raise ValueError(f"{path} is of one frame, and --frame chooses among several: say --mask N={path} instead.")
        return {frame or 0: path}

    def _numbered(self, frame: int | None, folder: Path) -> dict[int, Path]:
        """Return a folder's pictures by their numbers."""
        from siammae.annotations.formats.davis import DAVIS
        from siammae.annotations.formats.registry import recognise

        if self._args.sequence or recognise(folder) is not DAVIS or not any(folder.glob("*.png")):
            return {}
        if frame is not None:
            raise ValueError(f"{folder} is a folder of masks, which have their numbers: leave {frame}= out.")
        files: dict[int, Path] = {}
        for file in sorted(file for file in folder.iterdir() if file.name[0] != "."):
            if file.suffix.lower() != ".png" or not file.stem.isdecimal():
                raise ValueError(f"{folder} holds {file.name}: masks are named by their frames, as 00040.png. Move it.")
            if (index := int(file.stem)) in files:
                raise ValueError(f"frame {index} has two masks: {files[index]} and {file}.")
            if self._args.frame is None or index in self._args.frame:
                files[index] = file
        if gone := [index for index in self._args.frame or () if index not in files]:
            raise ValueError(f"{folder} has no mask of frame {gone[0]}.")
        names = self.names()
        if apart := [file for index, file in files.items() if file.stem in names and names.index(file.stem) != index]:
            index = int(apart[0].stem)
            _log.warning(
                "%s is taken for frame %d, counted from 0, not for the image %s. --input-format davis goes by names.",
                *(printable(apart[0]), index, apart[0].stem),
            )
        return files

    def is_table(self, path: Path) -> bool:
        """Say whether keypoints are in our own table, with or without frames, and not in labels of another kind."""
        from siammae.annotations.formats.deeplabcut import DEEPLABCUT

        return self._args.input_format is None and path.suffix.lower() == ".csv" and not DEEPLABCUT.recognise(path)

    def of_tables(self, frames: Mapping[int, NDArray[np.float64]]) -> Mapping[int, NDArray[np.float64]]:
        """Take what is meant of tables."""
        if self._objects:
            raise ValueError("--object chooses among objects, and a table of name,x,y has one: leave it out.")
        wanted = self._args.frame
        if wanted and (gone := [index for index in wanted if index not in frames]):
            raise ValueError(f"the table has no keypoint of frame {gone[0]}.")
        return {index: points for index, points in frames.items() if not wanted or index in wanted}

    def picture(self, file: Path) -> NDArray[np.uint8]:
        """Read a picture's ids."""
        import numpy as np

        from siammae.annotations.masks import VOID, mask_ids, read_mask

        ids = read_mask(file, threshold=self._args.threshold)
        if not self._objects:
            return ids
        new = np.zeros(256, np.uint8)
        new[VOID] = VOID
        for name, wanted in self._objects.items():
            if not (name.isdecimal() and int(name) in mask_ids(ids)):
                known = ", ".join(map(str, mask_ids(ids)))
                raise ValueError(f"{file} has no object {name!r}: a picture has numbers only, here {known}.")
            new[int(name)] = int(name) if wanted is None else wanted
        return new[ids]

    def labels(self, frame: int | None, path: Path) -> Annotations:
        """Read labels and take what is meant of them; ``frame`` is that of the video of which they are said to be."""
        from dataclasses import replace

        from siammae.annotations.files import read_labels
        from siammae.annotations.selection import choose

        if getattr(self._args, "threshold", None) is not None:
            raise ValueError(f"--threshold is for pictures of masks, and {path} is none: leave it out.")
        wanted = None if self._args.frame is None else frozenset(self._args.frame)
        labels = choose(
            read_labels(path, replace(self.opening(), frames=wanted), self._args.input_format), self._objects
        )
        if frame is None:
            return labels
        frames = [one for one in labels if one.masks or one.keypoints]
        if len(frames) != 1:
            raise ValueError(
                f"{path} has labels of {len(frames)} frames, not of one: choose with --frame, not {frame}=."
            )
        moved = replace(frames[0], index=frame)
        return replace(labels, frames=lambda: iter([moved]))


def _wanted(texts: Sequence[str]) -> dict[str, int | None]:
    """Take the values of ``--object`` apart; a name may have an ``=`` in it."""
    from siammae.annotations.masks import MAX_OBJECTS

    wanted: dict[str, int | None] = {}
    for text in texts:
        found = re.fullmatch(r"(.+)=(\d{1,9})", text, re.DOTALL)
        name, number = (found[1], int(found[2])) if found else (text, None)
        if name in wanted:
            raise ValueError(f"--object {name} is given twice: give it once.")
        if number is not None and not 1 <= number <= MAX_OBJECTS:
            raise ValueError(f"--object {text}: ids go from 1 to {MAX_OBJECTS}.")
        wanted[name] = number
    return wanted


def _has_pages(path: Path) -> bool:
    """Say whether a picture is a stack, which is read as labels of as many frames."""
    from siammae.frames.images import list_pages

    return path.suffix.lower() in (".tif", ".tiff") and len(list_pages(path) or ()) > 1
