"""DAVIS: a folder of PNGs whose pixel values are object ids, one for each labelled frame."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import inside, same_size
from siammae.annotations.mask_images import davis_colours
from siammae.annotations.masks import MAX_OBJECTS, VOID, mask_ids, read_mask, write_mask
from siammae.annotations.model import Annotations, FrameLabels, VideoObject

_ROOTS = ("Annotations/480p", "Annotations/Full-Resolution", "Annotations")


def label_map(frame: FrameLabels, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint the objects of a frame, none of which overlap, into a map of ids ``(H, W)``.

    Raises:
        ValueError: an id is over 254.
    """
    labels = np.zeros(size, np.uint8)
    if frame.void is not None:
        labels[frame.void] = VOID
    for key, mask in frame.masks.items():
        if not 1 <= key <= MAX_OBJECTS:
            raise ValueError(f"object {key}: a palette PNG holds the ids 1 to {MAX_OBJECTS}. Take another format.")
        labels[mask] = key
    return labels


def describe_objects(ids: tuple[int, ...]) -> tuple[VideoObject, ...]:
    """Return objects with the colours of the palette."""
    colours = davis_colours().tobytes()
    return tuple(VideoObject(key, colour=_colour(colours, key)) for key in ids)


def read_folder(
    folder: Path, opening: Opening, binary: bool | None = None
) -> tuple[tuple[int, int], list[tuple[int, Path]]]:
    """Return the size of a folder's masks and its files by the index of their frame.

    Raises:
        ValueError: there are none, two are of one frame, or the first is not of the video's size.
    """
    files = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} has no PNG of masks. Name a sequence if it holds several.")
    placed: dict[int, Path] = {}
    for path in files:
        index = opening.frame_index(path.stem, folder)
        if index in placed:
            raise ValueError(f"{folder}: {placed[index].name} and {path.name} are both of frame {index}.")
        placed[index] = path
    first = read_mask(files[0], binary=binary)
    return same_size((first.shape[0], first.shape[1]), opening.size, folder), sorted(placed.items())


def walk(files: list[tuple[int, Path]], size: tuple[int, int]) -> Iterator[FrameLabels]:
    """Decode one mask after the other."""
    for index, path in files:
        labels = read_mask(path)
        same_size((labels.shape[0], labels.shape[1]), size, path)
        void = labels == VOID
        masks = {key: labels == key for key in mask_ids(labels)}
        yield FrameLabels(index, masks, void=void if void.any() else None, name=path.stem)


def write_folder(folder: Path, annotations: Annotations) -> dict[int, list[str]]:
    """Write a PNG for each labelled frame; returns the names of the frames in which each object is."""
    folder.mkdir(parents=True)
    seen: dict[int, list[str]] = {}
    for frame in annotations:
        size = next((mask.shape for mask in frame.masks.values()), annotations.size)
        if size is None:
            raise ValueError(f"frame {frame.index} is empty and no one says how large it is. Name the video.")
        name = frame.name or f"{frame.index:05d}"
        write_mask(inside(folder, f"{name}.png"), label_map(frame, (size[0], size[1])))
        for key in frame.masks:
            seen.setdefault(key, []).append(name)
    return seen


def _colour(palette: bytes, key: int) -> tuple[int, int, int]:
    return palette[3 * key], palette[3 * key + 1], palette[3 * key + 2]


def _sequence(path: Path, opening: Opening) -> Path:
    """Find the folder of one sequence in DAVIS's own tree, or take the folder as it is."""
    if opening.sequence is None:
        return path
    for root in (*_ROOTS, "."):
        if (folder := inside(path / root, opening.sequence)).is_dir():
            return folder
    raise ValueError(f"{path} has no sequence {opening.sequence!r}, neither in itself nor in {', '.join(_ROOTS)}.")


def _recognise(path: Path) -> bool:
    if not path.is_dir() or (path / "meta.json").exists():
        return False
    return any(path.glob("*.png")) or any((path / root).is_dir() for root in _ROOTS)


def _read(path: Path, opening: Opening) -> Annotations:
    size, files = read_folder(_sequence(path, opening), opening)
    return Annotations(partial(walk, files, size), size=size, frame_count=opening.frame_count)


def _write(path: Path, annotations: Annotations) -> None:
    write_folder(path, annotations)


DAVIS = Format(
    name="davis",
    title="DAVIS 2016 and 2017, YouTube-VOS without meta.json: folder of palette PNGs",
    pixels="none: pixel values are ids (davischallenge.org; palette of PASCAL VOC).",
    recognise=_recognise,
    read=_read,
    write=_write,
    holds=frozenset({Feature.MASKS, Feature.HOLES, Feature.ALIKE, Feature.VOID, Feature.EMPTY}),
    limits="ids 1 to 254; 0 and 255 alone are one object (DAVIS 2016). Frames are numbered by their file's name.",
)
