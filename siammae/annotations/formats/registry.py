"""All formats, in the order in which a file is held against them."""

from __future__ import annotations

from pathlib import Path

from siammae.annotations.formats.badja import BADJA
from siammae.annotations.formats.coco import COCO
from siammae.annotations.formats.cvat import CVAT
from siammae.annotations.formats.davis import DAVIS
from siammae.annotations.formats.deeplabcut import DEEPLABCUT
from siammae.annotations.formats.deeplabcut_h5 import DEEPLABCUT_H5
from siammae.annotations.formats.format import Format
from siammae.annotations.formats.jhmdb import JHMDB
from siammae.annotations.formats.label_studio import LABEL_STUDIO
from siammae.annotations.formats.labelme import LABELME
from siammae.annotations.formats.mots import MOTS
from siammae.annotations.formats.sleap import SLEAP
from siammae.annotations.formats.stacks import NPY, TIFF
from siammae.annotations.formats.tracks_csv import TRACKS
from siammae.annotations.formats.yolo import YOLO
from siammae.annotations.formats.youtube_vis import YOUTUBE_VIS
from siammae.annotations.formats.youtube_vos import YOUTUBE_VOS

FORMATS: tuple[Format, ...] = (
    YOUTUBE_VOS,
    DAVIS,
    COCO,
    YOUTUBE_VIS,
    MOTS,
    CVAT,
    DEEPLABCUT,
    DEEPLABCUT_H5,
    TRACKS,
    NPY,
    TIFF,
    LABELME,
    YOLO,
    LABEL_STUDIO,
    SLEAP,
    BADJA,
    JHMDB,
)


def find_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        ValueError: there is none.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    raise ValueError(f"no format {name!r}: known are {', '.join(one.name for one in FORMATS)}.")


def recognise(path: Path) -> Format:
    """Return the format that a file or folder is in, by looking at it.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it looks like none of them.
    """
    if not path.exists():
        raise FileNotFoundError(f"no labels at {path}.")
    for one in FORMATS:
        if one.read is not None and one.recognise(path):
            return one
    raise ValueError(f"{path} looks like no known format of labels. Name one: siammae formats lists them.")
