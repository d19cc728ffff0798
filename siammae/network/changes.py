"""How much each patch of a frame has changed since it was last computed, in grey levels.

Means over cells of about 4 x 4 pixels are compared, per colour, after the whole frame's brightness was brought to that
of the last frame that was computed whole; a patch's change is the largest of its cells'. Means of cells hold little of
a sensor's and a codec's noise, and much of an edge that moves; of the rules that were measured (benchmarks/README.md)
this one leaves features nearest to the plain ones for the same number of patches computed. What drifts slowly, as a
shadow does, adds up, since a patch is compared with what it was last computed from.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_CELL = 4  # pixels on a side, or the divisor of the patch size nearest to that
_GAINS = (0.85, 1.18)  # of the brightness that are evened out; beyond, features would no longer be the same
_DARK = 16.0  # grey levels below which a cell says nothing about the gain


class Reference:
    """What each patch was last computed from.

    Args:
        patch_size: pixels on a side of a patch.
    """

    def __init__(self, patch_size: int) -> None:
        divisors = (side for side in range(1, patch_size + 1) if patch_size % side == 0)
        self._cell = min(divisors, key=lambda side: abs(side - _CELL))
        self._per_patch = patch_size // self._cell
        self._anchor = torch.zeros(0, dtype=torch.float32, device="cpu")  # cells of the last frame computed whole
        self._known = self._anchor  # of each patch, (3, h*n, w*n), at the anchor's brightness
        self._new = self._anchor  # of the frame last asked about, likewise

    def changes(self, frame: NDArray[np.uint8]) -> Tensor:
        """Return how far each patch is from what is known of it, ``(h, w)`` float32 grey levels.

        Args:
            frame: ``(H, W, 3)`` uint8, of the size of those before.
        """
        cells = self._cells(frame)
        self._new = cells / self._gain(cells)
        apart = (self._new - self._known).abs_().amax(dim=0)
        return F.max_pool2d(apart[None, None], self._per_patch)[0, 0]

    def begin(self, frame: NDArray[np.uint8]) -> None:
        """Take a frame that was computed whole: nothing is known from before, and its brightness is the measure."""
        self._anchor = self._known = self._new = self._cells(frame)

    def remember(self, computed: Tensor) -> None:
        """Take what some patches, ``(h, w)`` bool, were just computed from: the frame last asked about."""
        fine = computed.repeat_interleave(self._per_patch, 0).repeat_interleave(self._per_patch, 1)
        self._known = torch.where(fine, self._new, self._known)

    def _cells(self, frame: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        return F.avg_pool2d(pixels, self._cell)[0]

    def _gain(self, cells: Tensor) -> Tensor:
        """Return how much brighter a frame is than the anchor, for each colour ``(3, 1, 1)``: the median of cells."""
        bright = (self._anchor > _DARK) & (cells > 0)
        ratio = torch.where(bright, cells / self._anchor, torch.nan)[:, ::2, ::2].flatten(1)  # enough for a median
        gain = ratio.nanmedian(dim=1).values.nan_to_num_(1.0).clamp(*_GAINS)
        few = bright.flatten(1).sum(dim=1) < bright[0].numel() // 4
        return torch.where(few, 1.0, gain)[:, None, None]
