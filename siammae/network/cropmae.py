"""CropMAE's decoder, under its own tensor names: so that its checkpoints predict pixels here as they do there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siammae.config import ModelConfig
from siammae.network.vit import resample_position, run_block, sincos_position

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


class CropMAEDecoder(nn.Module):
    """Predicts the pixels of every future patch; differs from :class:`siammae.network.vit.Decoder` in three ways.

    The blocks are post-norm and in another order; only the future tokens get positions, the past frame gets none; the
    final norm and the prediction see CLS too, which changes nothing.

    Args:
        config: the network's shape.

    Source:
        CropMAE, models/SiamMAE.py and models/components/DecoderBlock.py: the behaviour, stated anew.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, side = config.decoder_dim, config.grid_size
        self.config = config
        self.embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(CropMAEBlock(dim, config.decoder_heads) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, config.patch_size**2 * 3)
        table = F.pad(sincos_position((side, side), dim, extent=side), (0, 0, 1, 0))[None]  # (1, 1 + side*side, d)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, past: Tensor, future: Tensor, kept: Tensor, grid: tuple[int, int], past_kept: Tensor | None = None
    ) -> Tensor:
        """Predict pixels.

        Args:
            past: encoded past frame ``(B, 1 + h*w, C)``, or its visible patches ``(B, 1 + m, C)``.
            future: encoded visible patches of the future frame ``(B, 1 + n, C)``.
            kept: their places ``(B, n)`` int64.
            grid: patches ``(h, w)``.
            past_kept: places of the visible past patches; not used, since past tokens get no positions here.

        Returns:
            ``(B, h*w, P*P*3)``.
        """
        memory, seen = self.embed(past), self.embed(future)
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), grid[0] * grid[1], -1)
        patches = hidden.scatter(1, kept[:, :, None].expand(-1, -1, seen.shape[2]), seen[:, 1:])
        patches = patches + resample_position(self.pos_embed[:, 1:], self.config.grid_size, grid)
        x = torch.cat([seen[:, :1] + self.pos_embed[:, :1], patches], dim=1)  # (B, 1+h*w, d)
        for block in self.blocks:
            x = run_block(block, x, memory)
        pixels: Tensor = self.pred(self.norm(x[:, 1:]))
        return pixels
