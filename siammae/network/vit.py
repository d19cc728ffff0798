"""The encoder: a ViT of timm's blocks under timm's names, and its position embeddings at any grid size."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from siammae.config import ModelConfig
from siammae.network.cpu_layers import use_cpu_layers
from siammae.network.wide_block import WideBlock, normed

layer_norm = partial(nn.LayerNorm, eps=1e-6)  # timm's ViT


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
    y, x = ((torch.arange(n, dtype=torch.float64, device="cpu") + 0.5) * extent / n - 0.5 for n in grid)
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
        first[:, axis, None] + step[:, axis, None] * torch.arange(n, dtype=torch.int64, device=placing.device)
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


def initialise(module: nn.Module) -> None:
    """Initialise as MAE does: Xavier-uniform matrices, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run_block(block: nn.Module, *tokens: Tensor) -> Tensor:
    """Run a block; where ``set_recompute`` asks for it, the backward pass computes its inside again."""
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
        zeros = self.patch_embed.proj.weight.new_zeros  # as the layers are: so says PyTorch's default
        self.cls_token = nn.Parameter(zeros(1, 1, dim))
        registers = config.registers
        self.reg_token = nn.Parameter(zeros(1, registers, dim)) if registers else None
        rows = grid**2 if registers else 1 + grid**2  # as in timm: with registers CLS has no row of its own
        self.pos_embed = nn.Parameter(zeros(1, rows, dim), requires_grad=config.position == "learned")
        scale = 1e-5 if config.layer_scale else None
        self.blocks = nn.Sequential(
            *(
                WideBlock(
                    dim,
                    config.num_heads,
                    config.mlp_ratio,
                    qkv_bias=True,
                    init_values=scale,
                    norm_layer=layer_norm,  # type: ignore[arg-type]
                )
                for _ in range(config.depth)
            )
        )
        self.norm = layer_norm(dim)
        self.apply(initialise)
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

    def prefix(self) -> Tensor:
        """Return the tokens before the patches, ``(1, 1 + registers, C)``: CLS and registers."""
        cls = self.cls_token if self.reg_token is not None else self.cls_token + self.pos_embed[:, :1]
        return cls if self.reg_token is None else torch.cat([cls, self.reg_token], dim=1)

    def forward(self, tokens: Tensor, *, layer: int = -1, norm: bool = True) -> Tensor:
        """Run the blocks over patch tokens.

        Args:
            tokens: ``(B, n, C)`` from :meth:`embed`, any subset of patches.
            layer: the last block run, as a Python index; later blocks are not computed.
            norm: apply the final layer norm.

        Returns:
            ``(B, 1 + n, C)``; the first token is CLS, registers are left out.
        """
        prefix = self.prefix()
        x = torch.cat([prefix.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)  # (B, 1+R+n, C)
        for block in list(self.blocks)[: self.check_layer(layer) + 1]:
            x = run_block(block, x if isinstance(block, WideBlock) else x.to(tokens.dtype))
        if self.reg_token is not None:
            x = torch.cat([x[:, :1], x[:, prefix.shape[1] :]], dim=1)
        return normed(self.norm, x, tokens.dtype) if norm else x.to(tokens.dtype)

    def check_layer(self, layer: int) -> int:
        """Return the block's index counted from 0.

        Raises:
            ValueError: there is no such block.
        """
        depth = self.config.depth
        if not -depth <= layer < depth:
            raise ValueError(f"layer is {layer}: the encoder has {depth} blocks, so it must be in [{-depth}, {depth}).")
        return layer % depth
