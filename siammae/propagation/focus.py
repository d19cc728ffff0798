"""Where the objects can be in the next frame: the only patches that need to be encoded.

A network that sees only what is near the objects compares them with their surroundings and not with the whole scene,
and its time grows with the patches it sees. Positions stay those of the whole frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Region = tuple[int, int, int, int]  # top, left, bottom, right in patches; the last two are not part of it
_FRAMES = 3  # whose boxes count: an object that was half hidden comes out where it was
_WHOLE = 0.8  # share of the frame from which looking at all of it costs little more


class Focus:
    """Remembers where each object was, and says where to look; the whole frame where it is not sure.

    Args:
        margin: patches around an object's box.
        cells: of the labels, see ``PropagationConfig.label_cells``.
    """

    def __init__(self, margin: int, cells: int) -> None:
        self._margin, self._cells = margin, cells
        self._boxes: deque[list[Region | None]] = deque(maxlen=_FRAMES)  # of each object; None = not there
        self._seen = 0  # objects in the last frame

    def reset(self) -> None:
        """Forget where objects were."""
        self._boxes.clear()
        self._seen = 0

    def look(self, grid: tuple[int, int]) -> Region | None:
        """Return the region of the next frame to encode; None = all of it."""
        region = self._around([box for boxes in self._boxes for box in boxes if box], grid)
        if region is None:
            return None
        top, left, bottom, right = region
        return region if (bottom - top) * (right - left) <= _WHOLE * grid[0] * grid[1] else None

    def keep_near(self, scores: Tensor) -> Tensor:
        """Give the background what soft labels ``(1 + objects, h, w)`` have of an object away from where it was.

        Somebody who comes into the picture elsewhere looks more like an object than like anything behind it. One
        object alone needs nothing: what is looked at is what is near it.
        """
        if len(scores) <= 2 or not self._boxes or len(self._boxes[-1]) != len(scores) - 1:
            return scores
        kept, cells = scores.clone(), self._cells
        grid = (scores.shape[1] // cells, scores.shape[2] // cells)
        for layer, boxes in zip(kept[1:], zip(*self._boxes, strict=True), strict=True):
            if (region := self._around([box for box in boxes if box], grid)) is not None:
                top, left, bottom, right = (side * cells for side in region)
                near = torch.zeros_like(layer, dtype=torch.bool)
                near[top:bottom, left:right] = True
                layer.masked_fill_(~near, 0)
        kept[0] += (scores[1:] - kept[1:]).sum(dim=0)
        return kept

    def _around(self, boxes: Sequence[Region], grid: tuple[int, int]) -> Region | None:
        """Return the box around boxes and their margin."""
        if not boxes:
            return None
        tops, lefts, bottoms, rights = zip(*boxes, strict=True)
        top, left = max(0, min(tops) - self._margin), max(0, min(lefts) - self._margin)
        return top, left, min(grid[0], max(bottoms) + self._margin), min(grid[1], max(rights) + self._margin)

    def learn(self, scores: Tensor, *, given: bool) -> None:
        """Take a frame's soft labels ``(1 + objects, h, w)``; with an object lost, all is looked at until it is found.

        Args:
            scores: of the frame.
            given: the frame is annotated: what is not there now has left, and is not lost.
        """
        labels = F.max_pool2d(scores[None, 1:], self._cells)[0] if self._cells > 1 else scores[1:]
        background = -F.max_pool2d(-scores[None, :1], self._cells)[0] if self._cells > 1 else scores[:1]
        there = labels > background  # (objects, h, w): patches of which a part may be the object's
        boxes = [_box(patches) for patches in there]
        seen = sum(box is not None for box in boxes)
        if given or (self._boxes and len(self._boxes[-1]) != len(boxes)):
            self._boxes.clear()
        if not seen or (seen < self._seen and not given):
            self._boxes.clear()
            return
        self._seen = seen
        self._boxes.append(boxes)


def _box(patches: Tensor) -> Region | None:
    rows, columns = patches.any(dim=1).nonzero(), patches.any(dim=0).nonzero()
    return (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else None
