"""Features that a screen in 8 bits gets wrong by nearly as much as its bound allows."""

import torch
from torch import Tensor

CHANNELS, WIDTH, BETTER = 385, 40, 37


def deceptive(kind: str) -> tuple[Tensor, Tensor]:
    """Return a query ``(C, 1, w)`` and one frame ``(1, C, 1, w)``; its patch BETTER is the best, the others look it.

    The first channel is the largest and so fixes the scale: a channel of n/127 lies on the grid.
    """
    if kind == "keys":  # the better patch loses all that rounding can take, the others gain
        query = torch.full((CHANNELS,), 10.0)
        better = torch.full((CHANNELS,), 10.49)
        others = torch.full((CHANNELS,), 9.6)
        others[1:338] = 10.51  # in all they are 10.40
        query[0] = better[0] = others[0] = 127
    else:  # "query": what rounding takes from it points from the others to the better patch
        query = torch.full((CHANNELS,), 0.49)
        better, others = torch.full((CHANNELS,), 100.0), torch.full((CHANNELS,), -100.0)
        ahead = 2 * 0.93 * (0.49 / 127) * 100 * (CHANNELS - 1)  # in the screen; 7 % less than it really is behind
        query[0], others[0], better[0] = 127, ahead / 2, -ahead / 2
    frame = others[:, None].repeat(1, WIDTH)
    frame[:, BETTER] = better
    return query[:, None, None].repeat(1, 1, WIDTH) / 127, frame[None, :, None] / 127
