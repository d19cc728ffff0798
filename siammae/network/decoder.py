"""The decoders' common way, and SiamMAE's own: pixels of the future frame, by looking at the past one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from siammae.config import ModelConfig
from siammae.network.vit import initialise, layer_norm, run_block, sincos_position


class CrossAttention(nn.Module):
    """Multi-head attention whose queries come from one sequence, keys and values from another."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = True
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Attend from ``x`` ``(B, N, C)`` to ``memory`` ``(B, M, C)``; returns ``(B, N, C)``."""
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.num_heads, -1).transpose(1, 2)  # (B, heads, N, C/heads)
        kv = self.kv(memory).reshape(b, memory.shape[1], 2, self.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, heads, M, C/heads)
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


class CrossBlock(nn.Module):
    """Pre-norm decoder block: cross-attention to the past frame, self-attention (unless cross-only), MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, self_attention: bool) -> None:
        super().__init__()
        self.norm_cross = layer_norm(dim)
        self.norm_memory = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm_self = layer_norm(dim) if self_attention else None
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=True) if self_attention else None
        self.norm_mlp = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Refine future tokens ``(B, N, C)`` with past tokens ``(B, M, C)``."""
        x = x + self.cross_attn(self.norm_cross(x), self.norm_memory(memory))
        if self.attn is not None and self.norm_self is not None:
            x = x + self.attn(self.norm_self(x))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


def _position_at(position: Tensor, kept: Tensor) -> Tensor:
    """Take CLS's and some patches' positions ``(B, 1 + m, C)`` out of ``(1, 1 + h*w, C)``; ``kept`` is ``(B, m)``."""
    return position[0, F.pad(kept + 1, (1, 0))]


class PixelDecoder(nn.Module):
    """Predicts the pixels of every future patch from the past frame and the visible future patches.

    Args:
        config: the network's shape.
        blocks: made after the embedding, so that equal seeds give equal weights.
    """

    def __init__(self, config: ModelConfig, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.config = config
        self.embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(self.embed.weight.new_zeros(1, 1, dim))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, config.patch_size**2 * 3)

    def position(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions of CLS and all patches ``(1, 1 + h*w, d)``."""
        raise NotImplementedError

    def remember(self, past: Tensor, position: Tensor, past_kept: Tensor | None) -> Tensor:
        """Return what the blocks look at, ``(B, 1 + m, d)``; arguments as in :meth:`forward`."""
        raise NotImplementedError

    def run_blocks(self, x: Tensor, memory: Tensor) -> Tensor:
        """Refine future tokens ``(B, 1 + h*w, d)``."""
        for block in self.blocks:
            x = run_block(block, x, memory)
        return x

    def forward(
        self, past: Tensor, future: Tensor, kept: Tensor, grid: tuple[int, int], past_kept: Tensor | None = None
    ) -> Tensor:
        """Predict pixels.

        Args:
            past: encoded past frame ``(B, 1 + h*w, C)``, or its visible patches ``(B, 1 + m, C)``.
            future: encoded visible patches of the future frame ``(B, 1 + n, C)``.
            kept: their places ``(B, n)`` int64.
            grid: patches ``(h, w)``.
            past_kept: places of the visible past patches ``(B, m)`` int64; None = all are visible.

        Returns:
            ``(B, h*w, P*P*3)``.
        """
        position = self.position(grid)
        memory = self.remember(past, position, past_kept)
        seen = self.embed(future)  # (B, 1+n, d)
        places = kept[:, :, None].expand(-1, -1, seen.shape[2])
        hidden = self.mask_token.to(seen.dtype).expand(seen.shape[0], grid[0] * grid[1], -1)
        x = torch.cat([seen[:, :1], hidden.scatter(1, places, seen[:, 1:])], dim=1) + position  # (B, 1+h*w, d)
        pixels: Tensor = self.pred(self.norm(self.run_blocks(x, memory)[:, 1:]))
        return pixels


class Decoder(PixelDecoder):
    """SiamMAE's decoder: pre-norm blocks of cross- and self-attention, positions on both frames.

    Args:
        config: the network's shape; ``config.decoder`` picks the variant.
    """

    def __init__(self, config: ModelConfig) -> None:
        dim, heads, grid = config.decoder_dim, config.decoder_heads, config.grid_size
        joint = config.decoder == "joint"
        blocks = (
            Block(dim, heads, config.mlp_ratio, qkv_bias=True, norm_layer=layer_norm)  # type: ignore[arg-type]
            if joint
            else CrossBlock(dim, heads, config.mlp_ratio, self_attention=config.decoder == "cross-self")
            for _ in range(config.decoder_depth)
        )
        super().__init__(config, blocks)
        # Joint attention cannot tell the frames apart by position: a learned vector for past and future does.
        self.frame_embed = nn.Parameter(self.embed.weight.new_zeros(2, 1, dim)) if joint else None
        self.register_buffer("table", sincos_position((grid, grid), dim, extent=grid), persistent=False)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.frame_embed is not None:
            nn.init.normal_(self.frame_embed, std=0.02)

    def position(self, grid: tuple[int, int]) -> Tensor:
        """Return zeros for CLS, then the patches' positions."""
        side = self.config.grid_size
        table: Tensor = self.get_buffer("table")
        if grid != (side, side):
            table = sincos_position(grid, self.config.decoder_dim, extent=side).to(table)
        return F.pad(table, (0, 0, 1, 0))[None]

    def remember(self, past: Tensor, position: Tensor, past_kept: Tensor | None) -> Tensor:
        """Embed the past tokens, each with its position."""
        placed: Tensor = self.embed(past) + (position if past_kept is None else _position_at(position, past_kept))
        return placed

    def run_blocks(self, x: Tensor, memory: Tensor) -> Tensor:
        """Refine future tokens; joint attention refines the past tokens with them."""
        if self.frame_embed is None:
            return super().run_blocks(x, memory)
        both = torch.cat([memory + self.frame_embed[0], x + self.frame_embed[1]], dim=1)
        for block in self.blocks:
            both = run_block(block, both)
        refined: Tensor = both[:, memory.shape[1] :]
        return refined
