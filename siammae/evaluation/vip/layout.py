"""Where VIP puts its files: frames, their annotations, and lists of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.masks import read_mask
from siammae.annotations.tables import list_lines
from siammae.errors import DatasetError
from siammae.evaluation.runs import Tree, choose

_TREE = """\
{root}
├── Images/<video>/*.jpg
├── Annotations/Category_ids/<video>/*.png
└── lists/{split}_videos.txt"""


@dataclass(frozen=True, slots=True)
class VipVideo:
    """One video of the data set, all of whose files are there."""

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]  # one for each frame

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Return the ids of a frame ``(H, W)``."""
        return read_mask(self.annotations[index], binary=False)


@dataclass(frozen=True, slots=True)
class VipLayout:
    """Where the official archives put their files."""

    root: Path
    split: str

    def videos(self, wanted: Sequence[str] | None) -> list[VipVideo]:
        """Find the wanted videos, or all of the split."""
        path = self._tree.require(self.root / "lists" / f"{self.split}_videos.txt")
        listed = list(dict.fromkeys(" ".join(list_lines(path)).split()))
        if not listed:
            raise DatasetError(f"{path} lists no video. Get the official list again.")
        return [self._video(name) for name in choose(listed, wanted, kind="videos", split=self.split)]

    def _video(self, name: str) -> VipVideo:
        frames = self._tree.images(self.root / "Images" / name, "000000000001.jpg")
        masks = self.root / "Annotations" / "Category_ids" / name
        return VipVideo(name, frames, tuple(self._tree.require(masks / f"{frame.stem}.png") for frame in frames))

    @property
    def _tree(self) -> Tree:
        return Tree("VIP", _TREE.format(root=self.root, split=self.split), "Images")
