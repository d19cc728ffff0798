"""SiamMAE's encoder as token reuse runs it: tokens of a part of a frame, and features of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block
from torch import Tensor

from siammae.features import normalize, to_batch
from siammae.network.wide_block import normed

if TYPE_CHECKING:
    from siammae.network.model import SiamMAE


@dataclass(frozen=True, slots=True)
class SiamTrunk:
    """See :class:`siammae.network.token_reuse.Trunk`."""

    model: SiamMAE
    pixel_std: tuple[float, float, float] | None

    @property
    def patch_size(self) -> int:
        """Pixels on a side of a patch."""
        return self.model.patch_size

    @property
    def blocks(self) -> Sequence[Block]:
        """All of the encoder's."""
        return cast(Sequence[Block], list(self.model.encoder.blocks))

    @property
    def prefix(self) -> int:
        """CLS and registers."""
        return 1 + self.model.config.registers

    def embed(self, frame: NDArray[np.uint8], region: tuple[int, int, int, int]) -> Tensor:
        """Turn a region of a frame into tokens with their places in the whole frame, after the prefix."""
        model, patch = self.model, self.patch_size
        grid = (frame.shape[0] // patch, frame.shape[1] // patch)
        top, left, bottom, right = region
        part = to_batch([frame[top * patch : bottom * patch, left * patch : right * patch]], model.device)
        pixels = normalize(part, model.config.pixel_mean, self.pixel_std or model.config.pixel_std, model.dtype)
        place = model.encoder.position(grid)[0].unflatten(0, grid)[top:bottom, left:right].flatten(0, 1)  # type: ignore[no-untyped-call]
        tokens = model.encoder.patch_embed(pixels)[0] + place.to(model.dtype)
        if model.frame_embed is not None:
            tokens = tokens + model.frame_embed[0]
        return torch.cat([model.encoder.prefix()[0].to(model.dtype), tokens])

    def encode(self, frame: NDArray[np.uint8], region: tuple[int, int, int, int] | None, pool_keys: int) -> Tensor:
        """Extract plainly."""
        features = self.model.extract(frame[None], region=region, pool_keys=pool_keys, pixel_std=self.pixel_std)[0]
        return features.to(self.model.dtype)

    def finish(self, tokens: Tensor) -> Tensor:
        """Norm, adapt and whiten."""
        features = normed(self.model.encoder.norm, tokens, self.model.dtype)
        for map_features in self.model.feature_maps():
            features = map_features(features)
        return features
