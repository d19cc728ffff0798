"""Where JHMDB puts its files: clips with their joints, and lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.tables import list_lines
from siammae.errors import DatasetError
from siammae.evaluation.runs import Tree, choose

JOINTS = (
    *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow"),
    *("left elbow", "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle"),
)
_TREE = """\
{root}
├── Rename_Images/<action>/<clip>/00001.png ...
├── joint_positions/<action>/<clip>/joint_positions.mat
└── splits/<action>_test_{split}.txt"""


@dataclass(frozen=True, slots=True, eq=False)
class JhmdbClip:
    """One video of the data set, all of whose files are there."""

    name: str
    frames: tuple[Path, ...]
    truth: NDArray[np.float64]  # (T, 15, 2) x, y; pixel (0, 0) has its centre at 0.0


@dataclass(frozen=True, slots=True)
class JhmdbLayout:
    """Where the official archives put their files."""

    root: Path
    split: str

    def clips(self, wanted: Sequence[str] | None) -> list[JhmdbClip]:
        """Find the wanted clips, or all test clips of the split."""
        ending = f"_test_{self.split}.txt"
        lists = sorted((self.root / "splits").glob(f"[!.]*{ending}"))
        if not lists:
            self._tree.require(self.root / "splits" / f"brush_hair{ending}")
        listed = [f"{path.name.removesuffix(ending)}/{clip}" for path in lists for clip in _test_clips(path)]
        if not listed:
            raise DatasetError(f"{lists[0].parent} lists no test clip in *{ending}. Get the official lists again.")
        return [self._clip(name) for name in choose(listed, wanted, kind="clips", split=self.split)]

    def _clip(self, name: str) -> JhmdbClip:
        frames = self._tree.images(self.root / "Rename_Images" / name, "00001.png")
        path = self._tree.require(self.root / "joint_positions" / name / "joint_positions.mat")
        truth = _read_joints(path)
        if len(frames) < len(truth):
            raise DatasetError(
                f"{frames[0].parent} has {len(frames)} frames but {path} has {len(truth)}. Get both again."
            )
        return JhmdbClip(name, frames[: len(truth)], truth)  # frames without annotation are not followed

    @property
    def _tree(self) -> Tree:
        return Tree("JHMDB", _TREE.format(root=self.root, split=self.split), "Rename_Images")


def _test_clips(path: Path) -> Iterator[str]:
    """Yield the test clips of one action's list."""
    for number, line in enumerate(list_lines(path), start=1):
        match line.rsplit(maxsplit=1):
            case []:
                continue
            case [clip, "1" | "2" as part] if clip.endswith(".avi"):
                if part == "2":
                    yield clip.removesuffix(".avi")
            case _:
                raise DatasetError(f"{path}, line {number}: {line!r} is no '<clip>.avi 1' or '<clip>.avi 2' (test).")


def _read_joints(path: Path) -> NDArray[np.float64]:
    """Return the annotated joints ``(T, 15, 2)``; the file counts pixels from 1."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("JHMDB annotations are .mat files: pip install siammae[eval]") from error
    try:
        positions = loadmat(path, variable_names=["pos_img"]).get("pos_img", np.empty(0))
    except Exception as error:  # a damaged file ends in zlib.error, MatReadError, TypeError, ...
        raise DatasetError(f"{path} cannot be read: {error}. Get it again.") from error
    known = positions.ndim == 3 and positions.shape[:2] == (2, len(JOINTS)) and positions.shape[2] > 0
    if not (known and np.isfinite(positions).all()):
        raise DatasetError(
            f"{path} has pos_img of shape {positions.shape}: it must be (2, {len(JOINTS)}, frames), all finite."
        )
    return np.asarray(positions, np.float64).transpose(2, 1, 0) - 1
