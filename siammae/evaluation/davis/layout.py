"""Where DAVIS puts its files: sequences of frames with their annotations, and lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.masks import VOID, read_mask
from siammae.annotations.tables import list_lines
from siammae.errors import DatasetError
from siammae.evaluation.runs import Tree, choose

_TREE = """\
{root}
├── JPEGImages/{resolution}/<sequence>/00000.jpg ...
├── Annotations/{resolution}/<sequence>/00000.png ...
└── ImageSets/{year}/{split}.txt"""


@dataclass(frozen=True, slots=True)
class DavisSequence:
    """One video of the data set, all of whose files are there."""

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]  # one for each frame
    binary: bool

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Return the ids of a frame ``(H, W)``; void is background, as in the official semi-supervised task."""
        labels = read_mask(self.annotations[index], binary=self.binary)
        return np.where(labels == VOID, np.uint8(0), labels)

    def object_count(self) -> int:
        """Return the largest id of the first annotation; ids that turn up later are not scored."""
        count = int(self.truth(0).max())
        if count == 0:
            raise DatasetError(f"{self.annotations[0]} shows no object: the first annotation must show all of them.")
        return count

    def result(self, path: Path) -> NDArray[np.uint8]:
        """Return the ids of a ready result."""
        return read_mask(path, binary=self.binary)


@dataclass(frozen=True, slots=True)
class DavisLayout:
    """Where the official archives put their files."""

    root: Path
    year: int
    split: str
    resolution: str

    def __post_init__(self) -> None:
        if self.year not in (2016, 2017):
            raise ValueError(f"year is {self.year!r}: DAVIS years are 2016 and 2017.")

    def sequences(self, wanted: Sequence[str] | None) -> list[DavisSequence]:
        """Find the wanted sequences, or all of the split."""
        names = choose(self._listed(), wanted, kind="sequences", split=f"{self.split} of {self.year}")
        return [self._sequence(name) for name in names]

    def _listed(self) -> list[str]:
        """Read the split; a line is a name, or as in 2016 the paths of one frame and its annotation."""
        path = self._tree.require(self.root / "ImageSets" / str(self.year) / f"{self.split}.txt")
        first_words = [line.split()[0] for line in list_lines(path) if line.strip()]
        names = [PurePosixPath(word).parent.name if "/" in word else word for word in first_words]
        if not names:
            raise DatasetError(f"{path} lists no sequence. Get the official list again.")
        return list(dict.fromkeys(names))

    def _sequence(self, name: str) -> DavisSequence:
        folder = self.root / "JPEGImages" / self.resolution / name
        frames = self._tree.images(folder, "00000.jpg")
        masks = self.root / "Annotations" / self.resolution / name
        annotations = tuple(self._tree.require(masks / f"{frame.stem}.png") for frame in frames)
        if len(frames) < 3:
            raise DatasetError(
                f"{folder} has {len(frames)} frames: 3 are needed, as the first and last are not scored."
            )
        return DavisSequence(name, frames, annotations, binary=self.year == 2016)

    @property
    def _tree(self) -> Tree:
        drawing = _TREE.format(root=self.root, resolution=self.resolution, year=self.year, split=self.split)
        return Tree(f"DAVIS-{self.year}", drawing, "JPEGImages")
