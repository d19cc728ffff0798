"""What a pass over the videos of a split is made of: find their files, choose, follow, write whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.masks import mask_image, write_mask
from siammae.errors import DatasetError
from siammae.frames import read_frames
from siammae.outputs import whole
from siammae.parallel.processes import Tick
from siammae.propagation.labels import FrameMasks
from siammae.propagation.propagator import Propagator

LabelMaps = Iterable[NDArray[np.uint8]]
_SHOWN_NAMES = 60


class Video(Protocol):
    """What a pass needs to know of a video."""

    @property
    def name(self) -> str:
        """The name in the scores."""
        ...

    @property
    def frames(self) -> Sequence[Path]:
        """Its images."""
        ...


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the official archive of a data set puts its files, shown wherever one is missing.

    Attributes:
        dataset: its name.
        drawing: the folders, as a picture.
        top: a folder that lies directly in the root.
    """

    dataset: str
    drawing: str
    top: str

    def require(self, path: Path) -> Path:
        """Return the path of a file that must be there.

        Raises:
            DatasetError: it is not.
        """
        if not path.is_file():
            raise DatasetError(
                f"no {path}: {self.dataset} is expected as\n{self.drawing}\nGive the folder above {self.top}."
            )
        return path

    def images(self, folder: Path, first: str) -> tuple[Path, ...]:
        """Return the images of a folder by name, hidden files left out.

        Args:
            folder: of one video.
            first: name of the first image, which gives the suffix and is named where there is none.

        Raises:
            DatasetError: there is no image.
        """
        return tuple(sorted(folder.glob(f"[!.]*{Path(first).suffix}"))) or (self.require(folder / first),)


def choose(listed: Sequence[str], wanted: Sequence[str] | None, *, kind: str, split: str) -> list[str]:
    """Return the wanted names once each, or all that are listed; no name leads out of a folder that it is put below.

    Args:
        listed: names of the split.
        wanted: some of them; None takes all.
        kind: the argument that named them, for the messages.
        split: for the messages.

    Raises:
        DatasetError: a listed name is not a plain relative path.
        ValueError: a name is not listed, or ``wanted`` is empty.
    """
    for name in listed:
        _check_name(name, split)
    if wanted is None:
        return list(listed)
    if unknown := [name for name in wanted if name not in listed]:
        more = f" and {len(listed) - _SHOWN_NAMES} more" if len(listed) > _SHOWN_NAMES else ""
        raise ValueError(f"unknown {kind} {unknown}: {split} has {', '.join(listed[:_SHOWN_NAMES])}{more}.")
    if not wanted:
        raise ValueError(f"{kind} is empty: name at least one, or pass None for the whole split.")
    return list(dict.fromkeys(wanted))


def _check_name(name: str, split: str) -> None:
    """Refuse what would be read, or written, outside the folders of the data set and of the results."""
    path = PurePosixPath(name)
    plain = str(path) == name != "." and not path.is_absolute() and ".." not in path.parts
    if not plain or "\\" in name or "\0" in name:
        raise DatasetError(
            f"{split} lists {name!r}: a name becomes a path, so it must be one that stays inside a folder, without "
            "'..', '.' or '\\' and not from '/' on. Get the official list again."
        )


def follow_masks(frames: Sequence[Path], first_mask: NDArray[np.uint8], propagator: Propagator) -> Iterator[FrameMasks]:
    """Yield the masks of every image of a video."""
    for index, path in enumerate(frames):
        yield propagator.step(next(read_frames(path)), mask=mask_image(first_mask) if index == 0 else None)


def ticking(items: Iterable[_T], tick: Tick) -> Iterator[_T]:
    """Yield the items and call ``tick`` after each."""
    for item in items:
        yield item
        tick()


def write_masks(folders: Sequence[Path], names: Iterable[str], masks: Iterable[Sequence[NDArray[np.uint8]]]) -> None:
    """Write one PNG for each name into every folder; the folders appear once all are in them.

    Args:
        folders: of one video, each with its own rendering.
        names: of the files.
        masks: for each name a label map ``(H, W)`` for every folder.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(whole(folder)) for folder in folders]
        for part in parts:
            part.mkdir()
        for name, renderings in zip(names, masks, strict=True):
            for part, labels in zip(parts, renderings, strict=True):
                write_mask(part / name, labels)
