"""JHMDB's ``joint_positions.mat``: 15 joints of a person in each frame. Read only.

Source: jhmdb.is.tue.mpg.de, README of joint_positions: ``pos_img`` is ``(2, 15, frames)``, MATLAB's pixels from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from siammae.annotations.formats.format import Format, Opening
from siammae.annotations.formats.guards import check_bytes
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject

JOINTS = (
    *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow"),
    *("left elbow", "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle"),
)
_FIRST = 1  # the centre of MATLAB's first pixel
_V5, _HDF = b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".mat" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_V5)) in (_V5, _HDF)


def _read(path: Path, opening: Opening) -> Annotations:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("JHMDB's annotations are .mat files: pip install siammae[eval]") from error
    check_bytes(path)
    try:
        positions = loadmat(path, variable_names=["pos_img"]).get("pos_img", np.empty(0))
    except Exception as error:  # a damaged file ends in zlib.error, MatReadError, TypeError, ...
        raise ValueError(f"{path} cannot be read as MATLAB's: {str(error)[:200]}.") from error
    if positions.ndim != 3 or positions.shape[:2] != (2, len(JOINTS)) or positions.dtype.kind not in "fiu":
        raise ValueError(f"{path} has pos_img of shape {positions.shape}: it must be (2, {len(JOINTS)}, frames).")
    if not np.isfinite(positions).all():
        raise ValueError(f"{path} has joints that are not finite.")
    points = np.asarray(positions, np.float64).transpose(2, 1, 0) - _FIRST

    def frames() -> Iterator[FrameLabels]:
        for index, row in enumerate(points):
            yield FrameLabels(index, keypoints={1: Keypoints.of(row)}, by_person=True)

    return Annotations(frames, (VideoObject(1, category="person"),), JOINTS, size=opening.size, frame_count=len(points))


JHMDB = Format(
    name="jhmdb",
    title="JHMDB joint_positions.mat",
    pixels="the first pixel has its centre at 1 (MATLAB): 1 is taken off.",
    recognise=_recognise,
    read=_read,
    limits="15 joints of one person, all of them visible.",
)
