"""The networks: a ViT encoder from timm's blocks under timm's names, and the decoders that look at the past frame."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from siammae.config import ModelConfig
from siammae.network.cpu_layers import use_cpu_layers

_layer_norm = partial(nn.LayerNorm, eps=1e-6)  # timm's ViT


def sincos_position(grid: tuple[int, int], dim: int, *, extent: int) -> Tensor:
    """Compute the fixed 2-D sine-cosine position embedding of MAE at any grid size.

    The grid is stretched over the training grid: patch ``i`` of ``n`` sits at ``(i + 0.5) * extent / n - 0.5``. So
    the network sees only positions it was trained on, whatever the frame's size.

    Args:
        grid: patches ``(h, w)``.
        dim: width, a multiple of 4; the first half encodes x, the second y.
        extent: patches on a side of the training grid.

    Returns:
        ``(h*w, dim)`` float32.

    Source:
        MAE, util/pos_embed.py (which names the halves the other way round but fills them so).
    """
    y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) * extent / n - 0.5 for n in grid)
    return _sincos(x[None], y[None], dim)[0]


def placed_position(grid: tuple[int, int], dim: int, placing: Tensor) -> Tensor:
    """Compute the sine-cosine position embedding of grids that each lie somewhere else.

    Args:
        grid: patches ``(h, w)``.
        dim: width, a multiple of 4.
        placing: ``(B, 2, 2)``: for x, then y, the place of the first patch and the step to the next.

    Returns:
        ``(B, h*w, dim)`` float32.
    """
    first, step = placing.double().unbind(-1)  # each (B, 2)
    x, y = (
        first[:, axis, None] + step[:, axis, None] * torch.arange(n, device=placing.device)
        for axis, n in ((0, grid[1]), (1, grid[0]))
    )
    return _sincos(x, y, dim)


def _sincos(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Encode places ``(B, w)`` and ``(B, h)``, float64, as ``(B, h*w, dim)`` float32."""
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64, device=x.device) / (dim // 4))
    across, down = (
        torch.cat([angle.sin(), angle.cos()], dim=2) for angle in (x[:, :, None] * omega, y[:, :, None] * omega)
    )  # (B, w, dim/2) and (B, h, dim/2)
    h, w = y.shape[1], x.shape[1]
    both = [across[:, None].expand(-1, h, -1, -1), down[:, :, None].expand(-1, -1, w, -1)]
    return torch.cat(both, dim=3).flatten(1, 2).float()


def resample_position(
    table: Tensor, side: int, grid: tuple[int, int], *, offset: float = 0.0, antialias: bool = False
) -> Tensor:
    """Interpolate a square position table bicubically.

    Args:
        table: ``(1, side*side, C)``.
        side: patches on a side of the training grid.
        grid: wanted patches ``(h, w)``.
        offset: added to ``h`` and ``w`` in the scale only, which moves the samples a little towards the first patch.
        antialias: average where the grid becomes smaller.

    Returns:
        ``(1, h*w, C)``; the table itself where the grid is the training grid.

    Source:
        The offset of 0.1 is DINO's, vision_transformer.py, interpolate_pos_encoding; which family takes which rule is
        said in siammae.convert.families.
    """
    if grid == (side, side):
        return table
    square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()  # (1, C, side, side)
    if offset:
        scale = ((grid[0] + offset) / side, (grid[1] + offset) / side)
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        resized = F.interpolate(square, grid, mode="bicubic", antialias=antialias)
    return resized.to(table.dtype).flatten(2).transpose(1, 2)


def _initialise(module: nn.Module) -> None:
    """Initialise as MAE does: Xavier-uniform matrices, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run_block(block: nn.Module, *tokens: Tensor) -> Tensor:
    """Run a block; where :func:`set_recompute` asks for it, the backward pass computes its inside again."""
    if getattr(block, "recompute", False) and torch.is_grad_enabled():
        return checkpoint(block, *tokens, use_reentrant=False)  # type: ignore[no-any-return]
    out: Tensor = block(*tokens)
    return out


class Encoder(nn.Module):
    """A ViT whose tensors have the names and shapes of timm's ``VisionTransformer`` without a head.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, grid = config.embed_dim, config.grid_size
        self.config = config
        self.patch_embed = PatchEmbed(None, config.patch_size, 3, dim, strict_img_size=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        registers = config.registers
        self.reg_token = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        rows = grid**2 if registers else 1 + grid**2  # as in timm: with registers CLS has no row of its own
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, dim), requires_grad=config.position == "learned")
        scale = 1e-5 if config.layer_scale else None
        self.blocks = nn.Sequential(
            *(
                Block(dim, config.num_heads, config.mlp_ratio, qkv_bias=True, init_values=scale, norm_layer=_layer_norm)  # type: ignore[arg-type]
                for _ in range(config.depth)
            )
        )
        self.norm = _layer_norm(dim)
        self.apply(_initialise)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        if self.reg_token is not None:
            nn.init.normal_(self.reg_token, std=0.02)
        if config.position == "sincos":
            self.pos_embed.data[0, 1:] = sincos_position((grid, grid), dim, extent=grid)
        else:
            nn.init.normal_(self.pos_embed, std=0.02)
        use_cpu_layers(self)

    def position(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding ``(1, h*w, C)`` of a grid, without the CLS token's."""
        side = self.config.grid_size
        if self.config.position == "sincos" and grid != (side, side):
            return sincos_position(grid, self.config.embed_dim, extent=side).to(self.pos_embed)[None]
        table = self.pos_embed[:, -(side**2) :]
        rule = self.config
        return resample_position(table, side, grid, offset=rule.position_offset, antialias=rule.position_antialias)

    def embed(self, images: Tensor, placing: Tensor | None = None) -> Tensor:
        """Turn normalised images ``(B, 3, H, W)`` into patch tokens ``(B, h*w, C)`` with their positions.

        ``placing`` puts each image somewhere else, see :func:`placed_position`; None = it fills the training grid.
        """
        p = self.config.patch_size
        grid = images.shape[-2] // p, images.shape[-1] // p
        tokens: Tensor = self.patch_embed(images)
        if placing is None:
            return tokens + self.position(grid).to(tokens.dtype)
        return tokens + placed_position(grid, self.config.embed_dim, placing).to(tokens.dtype)

    def forward(self, tokens: Tensor, *, layer: int = -1, norm: bool = True) -> Tensor:
        """Run the blocks over patch tokens.

        Args:
            tokens: ``(B, n, C)`` from :meth:`embed`, any subset of patches.
            layer: the last block run, as a Python index; later blocks are not computed.
            norm: apply the final layer norm.

        Returns:
            ``(B, 1 + n, C)``; the first token is CLS, registers are left out.
        """
        cls = self.cls_token if self.reg_token is not None else self.cls_token + self.pos_embed[:, :1]
        prefix = cls if self.reg_token is None else torch.cat([cls, self.reg_token], dim=1)  # (1, 1+R, C)
        x = torch.cat([prefix.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)  # (B, 1+R+n, C)
        for block in list(self.blocks)[: self.check_layer(layer) + 1]:
            x = run_block(block, x)
        if self.reg_token is not None:
            x = torch.cat([x[:, :1], x[:, prefix.shape[1] :]], dim=1)
        return self.norm(x) if norm else x

    def check_layer(self, layer: int) -> int:
        """Return the block's index counted from 0.

        Raises:
            ValueError: there is no such block.
        """
        depth = self.config.depth
        if not -depth <= layer < depth:
            raise ValueError(f"layer is {layer}: the encoder has {depth} blocks, so it must be in [{-depth}, {depth}).")
        return layer % depth


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
        self.norm_cross = _layer_norm(dim)
        self.norm_memory = _layer_norm(dim)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm_self = _layer_norm(dim) if self_attention else None
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=True) if self_attention else None
        self.norm_mlp = _layer_norm(dim)
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


class Decoder(nn.Module):
    """Predicts the pixels of every future patch from the past frame and the visible future patches.

    Args:
        config: the network's shape; ``config.decoder`` picks the variant.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads, grid = config.decoder_dim, config.decoder_heads, config.grid_size
        self.config = config
        self.embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        # Joint attention cannot tell the frames apart by position: a learned vector for past and future does.
        self.frame_embed = nn.Parameter(torch.zeros(2, 1, dim)) if config.decoder == "joint" else None
        self.blocks = nn.ModuleList(
            Block(dim, heads, config.mlp_ratio, qkv_bias=True, norm_layer=_layer_norm)  # type: ignore[arg-type]
            if config.decoder == "joint"
            else CrossBlock(dim, heads, config.mlp_ratio, self_attention=config.decoder == "cross-self")
            for _ in range(config.decoder_depth)
        )
        self.norm = _layer_norm(dim)
        self.pred = nn.Linear(dim, config.patch_size**2 * 3)
        self.register_buffer("position", sincos_position((grid, grid), dim, extent=grid), persistent=False)
        self.apply(_initialise)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.frame_embed is not None:
            nn.init.normal_(self.frame_embed, std=0.02)

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """Return ``(1, 1 + h*w, C)``: zeros for CLS, then the patches' positions."""
        side = self.config.grid_size
        table: Tensor = self.get_buffer("position")
        if grid != (side, side):
            table = sincos_position(grid, self.config.decoder_dim, extent=side).to(table)
        return F.pad(table, (0, 0, 1, 0))[None]

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
        position = self._position(grid)
        memory = self.embed(past) + (position if past_kept is None else _position_at(position, past_kept))
        seen = self.embed(future)  # (B, 1+n, d)
        places = kept[:, :, None].expand(-1, -1, seen.shape[2])
        hidden = self.mask_token.to(seen.dtype).expand(seen.shape[0], grid[0] * grid[1], -1)
        x = torch.cat([seen[:, :1], hidden.scatter(1, places, seen[:, 1:])], dim=1) + position  # (B, 1+h*w, d)
        x = self._run_blocks(x, memory)
        pixels: Tensor = self.pred(self.norm(x[:, 1:]))
        return pixels

    def _run_blocks(self, x: Tensor, memory: Tensor) -> Tensor:
        if self.frame_embed is None:
            for block in self.blocks:
                x = run_block(block, x, memory)
            return x
        both = torch.cat([memory + self.frame_embed[0], x + self.frame_embed[1]], dim=1)
        for block in self.blocks:
            both = run_block(block, both)
        return both[:, memory.shape[1] :]


def set_fused_attention(module: nn.Module, fused: bool) -> None:
    """Switch every attention in a network between PyTorch's fused kernel and plain products; the result is the same.

    Fused is the default and right for inference, on GPUs and in float32. For training in bfloat16 on a CPU plain
    products win: forward and backward take 8 ms against 39 ms (96 samples, 3 heads, 65 tokens, width 64; 2 cores of an
    Intel Xeon with AMX, torch 2.14).
    """
    for part in module.modules():
        if isinstance(part, (Attention, CrossAttention)):
            setattr(part, "fused_attn", fused)  # noqa: B010 -- timm marks it Final, for TorchScript only


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Let every block of encoder and decoder keep its input only and compute the rest again when gradients are taken.

    Gradients are the same, bit by bit.
    """
    for part in model.modules():
        if isinstance(blocks := getattr(part, "blocks", None), nn.Sequential | nn.ModuleList):
            for block in blocks:
                setattr(block, "recompute", recompute)  # noqa: B010 -- a plain flag that no module declares
