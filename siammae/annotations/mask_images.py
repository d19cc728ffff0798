"""What the pixels of a mask's picture say: ids, grey levels, or nothing that can be told for sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siammae.errors import VideoReadError
from siammae.frames import open_page

_LOSSY = ("JPEG", "MPO")
_WAYS_OUT = (
    "For one object, say from which level it is the object: --threshold 128 on the command line, threshold=128 in "
    "siammae.read_mask. For ids, draw and resize the mask without smoothing and save it as PNG."
)
_SAVE_IDS = "Say which values are ids: siammae.write_mask('ids.png', array of ids) saves them."

_EVIDENCE = 16  # pixels: in fewer nothing can be told


def open_mask(path: Path) -> Image.Image:
    """Open a mask's file, turned upright by its EXIF tag as frames are.

    Raises:
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file does not decode, is too large (see :func:`siammae.read_frames`), or has several pages.
    """
    if not path.exists():
        raise FileNotFoundError(f"no mask at {path}: it must be a PNG.")
    try:
        return open_page(path)
    except VideoReadError as error:
        raise VideoReadError(str(error).replace("as an image", "as a mask", 1)) from error


def davis_colours() -> NDArray[np.uint8]:
    """Return the colours of PASCAL VOC and DAVIS: R, G, B for each of 256 ids, ``(256, 3)``.

    Bits 0, 1, 2 of an id go to the top bit of red, green, blue; bits 3, 4, 5 to the next bit; 6, 7 to the third.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        colours[:, place % 3] |= (ids >> place & 1) << (7 - place // 3)
    return colours.astype(np.uint8)


def values_of(values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the values that are there, ascending; bytes are counted, in half the time of sorting."""
    return np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)


def mask_pixels(
    image: Image.Image, take: Literal["ids", "levels"] | None
) -> tuple[NDArray[np.integer[Any]] | NDArray[np.bool_], bool]:
    """Take the ids or the grey levels out of a mask's picture.

    Args:
        image: of any mode.
        take: what the caller says that the pixels are; None tells it from the picture.

    Returns:
        The values ``(H, W)``, and whether they are ids for sure; else they may be grey levels too.

    Raises:
        ValueError: the picture has colours that are no ids, or it can be read in two ways.
    """
    if image.mode == "P":
        return _palette_pixels(image, take)
    if image.mode in ("L", "1") or image.mode.startswith("I"):
        values = np.asarray(image)
    elif image.mode in ("RGB", "RGBA", "LA", "PA"):
        values = _grey(image)
    else:
        raise _coloured(image, f"has mode {image.mode}")
    if take is None and image.format in _LOSSY and (levels := len(np.unique(values))) > 2:
        raise ValueError(f"the mask is a JPEG with {levels} grey levels: its compression changes ids. {_WAYS_OUT}")
    return values, False


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return the grey of a picture whose visible pixels have no other colour; what is transparent is background."""
    pixels = np.asarray(image.convert("RGBA"))
    visible = pixels[pixels[..., 3] > 0]
    if (visible[:, :3] != visible[:, :1]).any():
        count = len(np.unique(visible[:, :3], axis=0))
        raise _coloured(image, f"has mode {image.mode} and {count} colours")
    over_black = (pixels[..., 0].astype(np.uint16) * pixels[..., 3] + 127) // 255
    return np.asarray(over_black, np.uint8)


def _coloured(image: Image.Image, what: str) -> ValueError:
    return ValueError(
        f"the mask image {what}: it must be black and white, or a palette (P) or grey (L, 1, I) image whose pixel "
        f"values are object ids. {_SAVE_IDS}"
    )


def _palette_pixels(image: Image.Image, take: Literal["ids", "levels"] | None) -> tuple[NDArray[np.uint8], bool]:
    """Compare the palette with DAVIS's and with grey: tools that quantize pictures put it in another order."""
    indices = np.asarray(image)
    if take == "ids":
        return indices, True
    colours = np.zeros((256, 3), np.uint8)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours[: len(palette)] = palette
    used = values_of(indices)
    seen, davis = colours[used], davis_colours()
    grey = bool((seen == seen[:, :1]).all())
    black = used[(seen == 0).all(axis=1)]
    if take is None and (seen == davis[used]).all():
        return indices, True
    as_grey = grey and len(black) < 2 and ((seen[:, 0] == used).all() or np.isin(seen[:, 0], (0, 255)).all())
    if as_grey or (grey and take == "levels"):
        return np.take(colours[:, 0], indices), False
    if take == "levels":
        raise ValueError(f"the palette has the colours {_listed(used, seen)}: a threshold needs greys.")
    numbers = {tuple(colour): number for number, colour in enumerate(davis.tolist())}
    ids = [numbers.get(tuple(colour), -1) for colour in seen.tolist()]
    shuffled = min(ids) >= 0
    if shuffled and black.any() and len(black) == 1:  # the background is at another place, so the colours hold
        by_colour = np.zeros(256, np.uint8)
        by_colour[used] = ids
        return np.take(by_colour, indices), True
    background_is_0 = not black.any() and (0 in black or 0 not in used)
    if not background_is_0 or grey or (shuffled and np.count_nonzero(used) > 1):
        raise ValueError(
            f"the mask's palette can be read in two ways: it has the colours {_listed(used, seen)}. Neither are these "
            f"DAVIS's colours of the ids, nor is 0 alone black and the others of the file's own colours. {_SAVE_IDS}"
        )
    return indices, True


def _listed(used: NDArray[np.integer[Any]], seen: NDArray[np.uint8]) -> str:
    shown = [f"{value}: {tuple(colour)}" for value, colour in zip(used.tolist(), seen.tolist(), strict=True)]
    return ", ".join(shown[:6]) + ", ..." * (len(shown) > 6)


def check_levels(labels: NDArray[np.uint8]) -> None:
    """Refuse a soft mask: levels that lie between others where the mask has its edges, as smoothing makes them.

    Args:
        labels: ``(H, W)``, ids or grey levels.

    Raises:
        ValueError: at least half of the levels between 0 and the largest are soft, that is, most of their pixels have
            both a smaller and a larger one beside them.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    levels = np.flatnonzero(counts)
    middle = levels[(levels > 0) & (levels < levels[-1])]
    if not middle.size:
        return
    inside = (_extreme(labels, np.minimum) < labels) & (labels < _extreme(labels, np.maximum))
    between = np.bincount(labels[inside], minlength=256)
    soft = middle[2 * between[middle] > counts[middle]]
    least = 1 if levels[-1] == 255 else 2  # one thin object between two others is an outline, unless the last is void
    if len(soft) >= least and 2 * len(soft) >= len(middle) and between[soft].sum() >= _EVIDENCE:
        raise ValueError(
            f"the mask has soft edges, {len(levels)} grey levels such as {', '.join(map(str, soft[:4]))}: each would "
            f"be an object of its own. {_WAYS_OUT}"
        )


def _extreme(labels: NDArray[np.uint8], choose: np.ufunc) -> NDArray[np.uint8]:
    """Return the least or the largest of each pixel and its 8 neighbours."""
    rows, result = labels.copy(), labels.copy()
    choose(rows[1:], labels[:-1], out=rows[1:])
    choose(rows[:-1], labels[1:], out=rows[:-1])
    result[:] = rows
    choose(result[:, 1:], rows[:, :-1], out=result[:, 1:])
    choose(result[:, :-1], rows[:, 1:], out=result[:, :-1])
    return result
