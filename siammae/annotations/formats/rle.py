"""COCO's run lengths: pixels column by column, runs of background and object in turn, background first.

Written by pycocotools. Read here: its decoder trusts the text and reads past the end of one that is cut off. Source of
both forms: cocodataset/cocoapi, common/maskApi.c, ``rleToString``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.guards import check_size, entry, same_size

_FIRST, _MORE, _SIGN, _VALUE = 48, 0x20, 0x10, 0x1F
_ROWS = 32  # turned at a time: a fifth of the time of np.asfortranarray at 1080p (2 cores of an AMD EPYC), by the cache


def coco_tools() -> Any:  # noqa: ANN401 -- a module
    """Return ``pycocotools.mask``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("this format needs pycocotools: pip install siammae[formats]") from error
    return mask


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask ``(H, W)`` as ``{"size": [H, W], "counts": text}``."""
    columns = np.empty(mask.shape[::-1], np.uint8)
    for top in range(0, len(mask), _ROWS):
        columns[:, top : top + _ROWS] = mask[top : top + _ROWS].T
    packed = coco_tools().encode(columns.T)
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode("ascii")}


def decode(rle: object, size: tuple[int, int] | None, place: object) -> NDArray[np.bool_]:
    """Return the mask ``(H, W)`` of an RLE object with counts as text or as a list.

    Args:
        rle: a JSON value.
        size: ``(H, W)`` that it must have.
        place: for the message.

    Raises:
        ValueError: it is none, is of another size, or its runs do not fill the frame exactly.
    """
    sides = entry(rle, "size", place, list)
    if len(sides) != 2:
        raise ValueError(f"{place}: an RLE's size has {len(sides)} numbers: it must be height, width.")
    height, width = same_size(check_size(sides[0], sides[1], place), size, place)
    counts = entry(rle, "counts", place, (str, list))
    runs = text_runs(counts, place) if isinstance(counts, str) else list_runs(counts, place)
    return fill(runs, height * width, place).reshape(width, height).T


def text_runs(text: str, place: object) -> NDArray[np.int64]:
    """Unpack the compressed form: 5 bits a character, from the second object run on as differences.

    Raises:
        ValueError: a character is none of it, the text ends within a number, or a number is too long.
    """
    codes = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - _FIRST
    if not codes.size:
        return np.zeros(0, np.int64)
    more = (codes & _MORE) != 0
    if codes.min() < 0 or codes.max() > 2 * _MORE - 1 or more[-1]:
        raise ValueError(f"{place}: an RLE has characters that are none, or breaks off.")
    starts = np.flatnonzero(np.concatenate([[True], ~more[:-1]]))
    lengths = np.diff(np.append(starts, codes.size))
    if lengths.max() > 6:  # 30 bits, more than any frame has pixels
        raise ValueError(f"{place}: an RLE has a run that is longer than any frame.")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & _VALUE) << shifts, starts)
    negative = (codes[starts + lengths - 1] & _SIGN) != 0
    values -= negative.astype(np.int64) << (5 * lengths)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def list_runs(counts: Sequence[object], place: object) -> NDArray[np.int64]:
    """Check runs that are given as a list.

    Raises:
        ValueError: one is no whole number.
    """
    if not all(type(count) is int and abs(count) < 2**40 for count in counts):
        raise ValueError(f"{place}: an RLE has runs that are no whole numbers.")
    return np.array(counts, np.int64)


def fill(runs: NDArray[np.int64], pixels: int, place: object) -> NDArray[np.bool_]:
    """Lay runs of False and True in turn, False first, one after the other.

    Raises:
        ValueError: one is negative, or together they are not ``pixels``.
    """
    if runs.size and (runs.min() < 0 or runs.max() > pixels):
        raise ValueError(f"{place}: an RLE has a run of {int(runs.min())} to {int(runs.max())} of {pixels} pixels.")
    if (total := int(runs.sum())) != pixels:
        raise ValueError(f"{place}: an RLE has {total} pixels but the frame {pixels}.")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs)


def runs_of(flat: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs of False and True in turn, False first."""
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else list(runs)
