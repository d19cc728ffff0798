"""What token reuse keeps of a stream: keys, values and features of every patch, and which patches make one key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """Which patches are averaged to one key, on the whole frame's grid."""

    of_patch: Tensor  # (h*w,) int64: the cell of each patch
    members: Tensor  # (cells, side*side) int64: the patches of each cell; some twice where the border cuts it
    weights: Tensor  # (cells, side*side, 1): of the members, summing to 1

    @classmethod
    def on(cls, grid: tuple[int, int], side: int, device: torch.device) -> Cells:
        """Divide a grid into cells of ``side`` x ``side`` patches, fewer at the right and lower border."""
        rows, columns = (torch.arange(n, dtype=torch.int64, device=device) for n in grid)
        across = -(-grid[1] // side)
        of_patch = (rows[:, None] // side * across + columns // side).flatten()
        corner, step = (torch.arange(n, dtype=torch.int64, device=device) for n in (-(-grid[0] // side), side))
        y = (corner * side)[:, None, None, None] + step[:, None]  # (cells down, 1, side, 1)
        x = (torch.arange(across, dtype=torch.int64, device=device) * side)[None, :, None, None] + step
        inside = ((y < grid[0]) & (x < grid[1])).flatten(2).flatten(0, 1).float()
        members = (y.clamp(max=grid[0] - 1) * grid[1] + x.clamp(max=grid[1] - 1)).flatten(2).flatten(0, 1)
        return cls(of_patch, members, (inside / inside.sum(dim=1, keepdim=True))[:, :, None])


class KeptTokens:
    """What is kept of a stream of frames of one size.

    Args:
        grid: patches ``(h, w)``.
        side: patches on a side of a cell, whose mean is one key.
        prefix: tokens before the patches.
        depth: blocks.
        device: of the tokens.
    """

    def __init__(self, grid: tuple[int, int], side: int, prefix: int, depth: int, device: torch.device) -> None:
        self.grid, self.side, self.prefix = grid, side, prefix
        self.valid = torch.zeros(grid, dtype=torch.bool, device="cpu")  # patches that were computed
        self.cells = Cells.on(grid, side, device)
        self.inputs: list[Tensor | None] = [None] * depth  # of each block's keys and values, (h*w, C); averaged ones
        self.pairs: list[Tensor | None] = [None] * depth  # keys and values (prefix + cells, 2C)
        self.features: Tensor | None = None  # (h*w, D)

    def update(self, index: int, normed: Tensor, rows: Tensor, make_pairs: Callable[[Tensor], Tensor]) -> Tensor:
        """Keep what a block makes of the prefix and of some patches.

        Args:
            index: of the block.
            normed: its normed tokens ``(prefix + n, C)``.
            rows: the patches' numbers in the frame, ``(n,)``.
            make_pairs: turns tokens ``(m, C)`` into keys and values ``(m, 2C)``.

        Returns:
            Keys and values of the prefix and of all cells, ``(prefix + cells, 2C)``; 0 where nothing was made yet.
        """
        cells, means = self._means(index, normed[self.prefix :], rows)
        new = make_pairs(torch.cat([normed[: self.prefix], means]))
        kept = self.pairs[index]
        if kept is None:
            kept = self.pairs[index] = new.new_zeros(self.prefix + len(self.cells.members), new.shape[1])
        kept[: self.prefix] = new[: self.prefix]
        kept.index_copy_(0, self.prefix + cells, new[self.prefix :])
        return kept

    def _means(self, index: int, new: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what a block makes keys of; returns the cells that it changes and their means."""
        if self.side == 1:
            return rows, new
        kept = self.inputs[index]
        if kept is None:
            kept = self.inputs[index] = new.new_zeros(len(self.cells.of_patch), new.shape[1])
        kept.index_copy_(0, rows, new)
        touched = torch.unique(self.cells.of_patch[rows])
        return touched, (kept[self.cells.members[touched]] * self.cells.weights[touched].to(new.dtype)).sum(dim=1)

    def put_features(self, rows: Tensor, new: Tensor) -> None:
        """Keep the features of some patches."""
        if self.features is None:
            self.features = new.new_zeros(len(self.cells.of_patch), new.shape[1])
        self.features.index_copy_(0, rows, new)
