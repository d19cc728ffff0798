"""Where the objects can be in the next frame: the only patches that need to be encoded.

A network that sees only what is near the objects compares them with their surroundings and not with the whole scene,
and its time grows with the patches it sees. Positions stay those of the whole frame.
"""

from __future__ import annotations

from collections import deque

import torch.nn.functional as F
from torch import Tensor

Region = tuple[int, int, int, int]  # top, left, bottom, right in patches; the last two are not part of it
_FRAMES = 3  # whose boxes count: an object that was half hidden comes out where it was
_WHOLE = 0.8  # share of the frame from which looking at all of it costs little more


class Focus:
    """Remembers where objects were, and says where to look; the whole frame where it is not sure.

    Args:
        margin: patches around the objects' box.
        cells: of the labels, see ``PropagationConfig.label_cells``.
    """

    def __init__(self, margin: int, cells: int) -> None:
        self._margin, self._cells = margin, cells
        self._boxes: deque[Region] = deque(maxlen=_FRAMES)
        self._seen = 0  # objects in the last frame

    def reset(self) -> None:
        """Forget where objects were."""
        self._boxes.clear()
        self._seen = 0

    def look(self, grid: tuple[int, int]) -> Region | None:
        """Return the region of the next frame to encode; None = all of it."""
        if not self._boxes:
            return None
        tops, lefts, bottoms, rights = zip(*self._boxes, strict=True)
        top, left = max(0, min(tops) - self._margin), max(0, min(lefts) - self._margin)
        bottom, right = min(grid[0], max(bottoms) + self._margin), min(grid[1], max(rights) + self._margin)
        if (bottom - top) * (right - left) > _WHOLE * grid[0] * grid[1]:
            return None
        return top, left, bottom, right

    def learn(self, scores: Tensor, *, given: bool) -> None:
        """Take a frame's soft labels ``(1 + objects, h, w)``; with an object lost, all is looked at until it is found.

        Args:
            scores: of the frame.
            given: the frame is annotated: what is not there now has left, and is not lost.
        """
        labels = F.max_pool2d(scores[None, 1:], self._cells)[0] if self._cells > 1 else scores[1:]
        background = -F.max_pool2d(-scores[None, :1], self._cells)[0] if self._cells > 1 else scores[:1]
        there = labels > background  # (objects, h, w): patches of which a part may be the object's
        seen = int(there.flatten(1).any(dim=1).sum())
        if given:
            self._boxes.clear()
        if not seen or (seen < self._seen and not given):
            self._boxes.clear()
            return
        self._seen = seen
        patches = there.any(dim=0)
        rows, columns = patches.any(dim=1).nonzero(), patches.any(dim=0).nonzero()
        self._boxes.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
