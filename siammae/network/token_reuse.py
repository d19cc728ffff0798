"""A stream's features, in which a patch that has not changed keeps what was computed for it.

Of every patch the stream keeps the pixels it was last computed from, its keys and values in each block, and its
features. In a new frame only the patches whose pixels have changed since, their eight neighbours and the tokens before
the patches run through the network; they attend to the keys and values of all, new and kept. So a fixed camera's time
grows with what moves. Everything is computed anew every few frames, and where too much has changed, as at a cut or with
a moving camera: then features are the plain ones to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from siammae.network.changes import Reference
from siammae.network.cpu_layers import CpuAttention, attends_to_pairs, is_watched
from siammae.network.kept_tokens import KeptTokens
from siammae.network.wide_block import WideBlock, normed, widened

Region = tuple[int, int, int, int]  # top, left, bottom, right in patches; the last two are not part of it
_WHOLE = 0.6  # share of stale patches from which computing all costs little more
_LOOSE = 1.3  # of the region's size: so much larger it may stay than it would be chosen
_SHIFT = 1.5  # so much larger or smaller a region may become before what is kept was seen in too different a scene
_SNAP = 4  # patches: a region's borders lie at multiples, so that it stays while an object moves a little


class Trunk(Protocol):
    """What token reuse needs of a network; holds nothing but the extractor, so that copies share the weights."""

    @property
    def patch_size(self) -> int:
        """Pixels on a side of a patch."""
        ...

    @property
    def blocks(self) -> Sequence[Block]:
        """Those that are run."""
        ...

    @property
    def prefix(self) -> int:
        """Tokens before the patches, such as CLS."""
        ...

    def embed(self, frame: NDArray[np.uint8], region: Region) -> Tensor:
        """Turn a region of a frame ``(H, W, 3)`` into the first block's tokens ``(prefix + n, C)``."""
        ...

    def finish(self, tokens: Tensor) -> Tensor:
        """Turn the last block's tokens ``(n, C)`` into features ``(n, D)``."""
        ...

    def encode(self, frame: NDArray[np.uint8], region: Region | None, pool_keys: int) -> Tensor:
        """Return a frame's features ``(D, h, w)`` as the extractor gives them."""
        ...


def reuses_tokens(blocks: nn.Module | Sequence[nn.Module]) -> bool:
    """Tell whether blocks are timm's plain ones, which nobody watches: others mix tokens in ways not known here."""
    return all(  # a Sequential is iterable
        type(block) in (Block, WideBlock) and not is_watched(block) and attends_to_pairs(block.attn)
        for block in blocks  # type: ignore[union-attr]
    )


class TokenStream:
    """Turns the frames of one stream into features, and computes only what has changed.

    Attributes:
        region: that the last frame was encoded in; see :meth:`extract`.
        computed: patches that ran through the network so far.
        asked: patches that would have without reuse.

    Args:
        trunk: the network.
        threshold: grey levels from which a patch counts as changed; 0 = any change computes the whole frame.
        refresh: everything is computed anew in every so many frames, at least 1.
        pool_keys: see :meth:`siammae.SiamMAE.extract`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, trunk: Trunk, *, threshold: float, refresh: int = 30, pool_keys: int = 1) -> None:
        if not 0 <= threshold <= 255:
            raise ValueError(f"threshold is {threshold}: it must be 0 to 255 grey levels.")
        if refresh < 1:
            raise ValueError(f"refresh is {refresh}: it must be at least 1 frame (1 = everything in every frame).")
        if pool_keys < 1:
            raise ValueError(f"pool_keys is {pool_keys}: it must be at least 1 (1 = every patch is a key of its own).")
        self._trunk, self._threshold, self._refresh, self._side = trunk, threshold, refresh, pool_keys
        self._kept: KeptTokens | None = None
        self._reference = Reference(trunk.patch_size)
        self._frame = np.zeros((0, 0, 3), np.uint8)  # the last one computed, where the threshold is 0
        self._age = 0  # frames since everything was computed and kept
        self._basis = 0  # size of the region where that was done
        self._seen: tuple[int, int] | None = None  # grid of the last frame
        self.region: Region | None = None
        self.computed = self.asked = 0

    @torch.no_grad()
    def extract(self, frame: NDArray[np.uint8], *, region: Region | None = None) -> Tensor:
        """Return the features of the next frame.

        Args:
            frame: RGB ``(H, W, 3)`` uint8, sides multiples of the patch size. Another size begins anew.
            region: the patches that are wanted, ``(top, left, bottom, right)``; None = all. A little more may be
                encoded: the attribute ``region`` says what; it stays while the wanted ones lie in it and fill it well.

        Returns:
            ``(D, h, w)`` on the network's device, in its dtype; 0 outside the attribute ``region``.
        """
        patch = self._trunk.patch_size
        grid = (frame.shape[0] // patch, frame.shape[1] // patch)
        try:
            return self._next(frame, region or (0, 0, *grid), grid)
        except BaseException:
            self._kept = self._seen = None  # half of the blocks may know the frame
            raise

    def _next(self, frame: NDArray[np.uint8], wanted: Region, grid: tuple[int, int]) -> Tensor:
        if self._seen != grid or self._age >= self._refresh:
            self._kept = None
        before, self.region = self.region, self._settled(wanted, grid)
        if not self._basis / _SHIFT <= _area(self.region) <= self._basis * _SHIFT:
            self._kept = None
        stale = self._inside(grid)
        if self._seen == grid:
            changed = stale & self._changed(frame, moved=self.region != before)
            if int(changed.sum()) > _WHOLE * _area(self.region):
                return self._plainly(frame, wanted, grid)
            stale = stale if self._kept is None else changed
        self._age, self._basis = (1, _area(self.region)) if self._kept is None else (self._age + 1, self._basis)
        count = int(stale.sum())
        if count:
            self._compute(frame, stale)
        self._count(count)
        self._seen = grid
        return self._maps(grid)

    def _plainly(self, frame: NDArray[np.uint8], wanted: Region, grid: tuple[int, int]) -> Tensor:
        """Encode what is wanted as without reuse, and keep nothing: while a camera moves that would be for nothing."""
        self._kept, self._age, self.region = None, 0, wanted
        self._note(frame, None)
        self._count(_area(wanted))
        return self._trunk.encode(frame, None if wanted == (0, 0, *grid) else wanted, self._side)

    def _count(self, computed: int) -> None:
        self.computed, self.asked = self.computed + computed, self.asked + _area(self.region or (0, 0, 0, 0))

    def _note(self, frame: NDArray[np.uint8], computed: Tensor | None) -> None:
        """Remember the pixels of some patches, None = of all."""
        if self._threshold == 0:
            self._frame = frame.copy()
        elif computed is None:
            self._reference.begin(frame)
        else:
            self._reference.remember(computed)

    def _inside(self, grid: tuple[int, int]) -> Tensor:
        """Return the region as ``(h, w)`` bool."""
        top, left, bottom, right = self.region or (0, 0, *grid)
        inside = torch.zeros(grid, dtype=torch.bool, device="cpu")
        inside[top:bottom, left:right] = True
        return inside

    def _settled(self, wanted: Region | None, grid: tuple[int, int]) -> Region:
        """Return the region to encode: the last one where it still serves, else the wanted one rounded outwards."""
        h, w = grid
        if wanted is None:
            return 0, 0, h, w
        step = -(-_SNAP // self._side) * self._side  # means of keys never lie across a border
        top, left, bottom, right = wanted
        top, left = top // step * step, left // step * step
        snapped = top, left, min(-(-bottom // step) * step, h), min(-(-right // step) * step, w)
        held = self.region
        if held is None or self._kept is None:
            return snapped
        serves = held[0] <= wanted[0] and held[1] <= wanted[1] and held[2] >= wanted[2] and held[3] >= wanted[3]
        return held if serves and _area(held) <= _LOOSE * _area(snapped) else snapped

    def _changed(self, frame: NDArray[np.uint8], *, moved: bool) -> Tensor:
        """Tell which patches must be computed, ``(h, w)`` bool."""
        if self._threshold == 0:  # one pixel of difference, and every patch may see it
            same = not moved and np.array_equal(frame, self._frame)
            return torch.full(self._seen or (0, 0), not same, dtype=torch.bool, device="cpu")
        changed = self._reference.changes(frame) > self._threshold
        near = F.max_pool2d(changed[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
        return near if self._kept is None else near | ~self._kept.valid

    def _compute(self, frame: NDArray[np.uint8], stale: Tensor) -> None:
        """Run the stale patches through the network."""
        trunk, (top, left, bottom, right) = self._trunk, self.region or (0, 0, *stale.shape)
        tokens = trunk.embed(frame, (top, left, bottom, right))
        device, prefix = tokens.device, trunk.prefix
        begins = self._kept is None
        blocks = trunk.blocks
        kept = self._kept = self._kept or KeptTokens(
            (stale.shape[0], stale.shape[1]), self._side, prefix, len(blocks), device
        )
        rows = stale.flatten().nonzero().flatten().to(device)  # on the frame's grid
        some = stale[top:bottom, left:right].flatten().nonzero().flatten().to(device)  # on the region's
        keys = self._keys(kept, device)
        x = widened(torch.cat([tokens[:prefix], tokens[prefix + some]]))
        for index, block in enumerate(blocks):
            x = _run(block, x, kept, index, rows, keys)
        kept.put_features(rows, trunk.finish(x[prefix:]))
        kept.valid |= stale
        self._note(frame, None if begins else stale)

    def _keys(self, kept: KeptTokens, device: torch.device) -> Tensor | None:
        """Return which of the kept keys lie in the region, after the prefix; None = all."""
        top, left, bottom, right = self.region or (0, 0, *kept.grid)
        if (top, left, bottom, right) == (0, 0, *kept.grid):
            return None
        side, across = self._side, -(-kept.grid[1] // self._side)
        down = torch.arange(top // side, -(-bottom // side), dtype=torch.int64, device=device)
        along = torch.arange(left // side, -(-right // side), dtype=torch.int64, device=device)
        cells = (down[:, None] * across + along).flatten()
        prefix = torch.arange(self._trunk.prefix, dtype=torch.int64, device=device)
        return torch.cat([prefix, self._trunk.prefix + cells])

    def _maps(self, grid: tuple[int, int]) -> Tensor:
        features = cast(KeptTokens, self._kept).features
        maps = cast(Tensor, features).view(*grid, -1)
        top, left, bottom, right = self.region or (0, 0, *grid)
        if (top, left, bottom, right) == (0, 0, *grid):
            return maps.clone().permute(2, 0, 1)
        shown = torch.zeros_like(maps)
        shown[top:bottom, left:right] = maps[top:bottom, left:right]
        return shown.permute(2, 0, 1)


def _run(block: Block, x: Tensor, kept: KeptTokens, index: int, rows: Tensor, keys: Tensor | None) -> Tensor:
    """Run a block over the prefix and some patches ``(prefix + n, C)``, which attend to all that is kept.

    Args:
        block: of the network.
        x: the tokens.
        kept: gets what the block makes of them.
        index: of the block.
        rows: the patches' numbers in the frame, ``(n,)``.
        keys: the kept keys that are looked at; None = all.
    """
    attention = cast(CpuAttention, block.attn)
    dtype = attention.qkv.weight.dtype
    inputs = normed(block.norm1, x, dtype)
    pairs = kept.update(index, inputs, rows, attention.make_pairs)
    pairs = pairs if keys is None else pairs.index_select(0, keys)
    x = x + block.ls1(attention.attend_to_pairs(inputs[None], pairs[None])[0])
    out: Tensor = x + block.ls2(block.mlp(normed(block.norm2, x, dtype)))
    return out


def _area(region: Region) -> int:
    return (region[2] - region[0]) * (region[3] - region[1])
