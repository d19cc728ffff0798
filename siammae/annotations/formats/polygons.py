"""Polygons become masks as pycocotools fills them: corners lie on the grid whose lines are the edges of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.formats.guards import finite
from siammae.annotations.formats.rle import coco_tools, decode
from siammae.config.bounds import bound

_FAR = 4  # a corner may lie outside the frame, but not further than this many times its longer side


def fill_polygons(polygons: Sequence[Sequence[object]], size: tuple[int, int], place: object) -> NDArray[np.bool_]:
    """Fill polygons, given as x, y, x, y and so on with edges of pixels at whole numbers, into one mask ``(H, W)``.

    Raises:
        ValueError: one has less than three corners, or a corner is no place in or near the frame.
        ImportError: pycocotools is missing.
    """
    height, width = size
    mask = np.zeros(size, np.bool_)
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{place}: a polygon must be a list x, y, x, y and so on with three corners or more.")
        if len(polygon) > 2 * (most := bound("SIAMMAE_MAX_CORNERS")):  # pycocotools keeps all steps of the outline
            much = f"{len(polygon) // 2:,} corners: at most {most:,} are read"
            raise ValueError(f"{place}: a polygon has {much}. SIAMMAE_MAX_CORNERS allows more.")
        corners = [finite(value, "a corner", place) for value in polygon]
        if max(map(abs, corners)) > _FAR * max(size):
            raise ValueError(f"{place}: a polygon lies far outside the frame of {size} (height, width).")
        (filled,) = coco_tools().frPyObjects([corners], height, width)
        mask |= decode({"size": [height, width], "counts": filled["counts"].decode("ascii")}, size, place)
    return mask
