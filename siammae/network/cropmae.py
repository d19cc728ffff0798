"""CropMAE's decoder, under its own tensor names: so that its checkpoints predict pixels here as they do there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siammae.config import ModelConfig
from siammae.network.decoder import PixelDecoder
from siammae.network.vit import resample_position, sincos_position

FEED_FORWARD = 2048  # whatever the width
_DROPOUT = 0.1


class CropMAEBlock(nn.Module):
    """Post-norm decoder block: cross-attention to the past frame, feed-forward, self-attention, in this order."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=_DROPOUT, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, dropout=_DROPOUT, batch_first=True)
        self.linear1 = nn.Linear(dim, FEED_FORWARD)
        self.linear2 = nn.Linear(FEED_FORWARD, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Refine future tokens ``(B, N, C)`` with past tokens ``(B, M, C)``."""
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory, memory, need_weights=False)[0]))
        x = self.norm3(x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x))))))
        out: Tensor = self.norm1(x + self.dropout(self.self_attn(x, x, x, need_weights=False)[0]))
        return out


class CropMAEDecoder(PixelDecoder):
    """Predicts the pixels of every future patch; differs from :class:`siammae.network.decoder.Decoder` in three ways.

    The blocks are post-norm and in another order; only the future tokens get positions, the past frame gets none; the
    final norm and the prediction see CLS too, which changes nothing.

    Args:
        config: the network's shape.

    Source:
        CropMAE, models/SiamMAE.py and models/components/DecoderBlock.py: the behaviour, stated anew.
    """

    def __init__(self, config: ModelConfig) -> None:
        dim, side = config.decoder_dim, config.grid_size
        super().__init__(config, (CropMAEBlock(dim, config.decoder_heads) for _ in range(config.decoder_depth)))
        table = F.pad(sincos_position((side, side), dim, extent=side), (0, 0, 1, 0))[None]  # (1, 1 + side*side, d)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        nn.init.normal_(self.mask_token, std=0.02)

    def position(self, grid: tuple[int, int]) -> Tensor:
        """Return the stored table, resampled to the grid."""
        patches = resample_position(self.pos_embed[:, 1:], self.config.grid_size, grid)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def remember(self, past: Tensor, position: Tensor, past_kept: Tensor | None) -> Tensor:
        """Embed the past tokens, which get no positions here."""
        return self.embed(past)  # type: ignore[no-any-return]
