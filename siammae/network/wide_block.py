"""timm's block with float32 between its layers on CPUs: what few bits compute is added up without losing bits.

A network in bfloat16 multiplies in bfloat16, and so does this one. Were its tokens kept in bfloat16 too, each of a
block's two sums would round them to 8 bits, which doubles the error of the features (siammae-ti8: 1 - cosine to those
in float32 0.00006, so 0.00003) and saves no time. Norms read the float32 tokens and give their layer what it takes. On
GPUs, where more and wider operations cost launches and memory and nothing was measured, it is timm's block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from siammae.network.cpu_layers import is_watched


def widened(x: Tensor) -> Tensor:
    """Return tokens in the dtype in which they are added up: float32 on CPUs."""
    return x.float() if x.device.type == "cpu" else x


def normed(norm: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Norm tokens for a layer of ``dtype``, in float32 where they are in float32.

    Args:
        norm: PyTorch's layer norm; any other module, or one with hooks, gets the tokens in ``dtype``.
        x: tokens ``(..., C)``.
        dtype: of the layer and of the norm's weights.
    """
    if x.dtype == dtype or type(norm) is not nn.LayerNorm or is_watched(norm) or not norm.elementwise_affine:
        return norm(x.to(dtype))  # type: ignore[no-any-return]
    bias = norm._parameters["bias"]
    weights = norm.weight.float(), None if bias is None else bias.float()
    return F.layer_norm(x, norm.normalized_shape, *weights, norm.eps).to(dtype)


class WideBlock(Block):
    """timm's block, whose tokens are float32 from the first sum on; in float32 and on GPUs it is timm's own."""

    def forward(self, x: Tensor, **options: Any) -> Tensor:  # type: ignore[override]  # noqa: ANN401 -- timm's vary
        """Map tokens ``(B, N, C)``; they come and go in float32, but for those before the first block."""
        dtype = next(self.norm1.parameters()).dtype
        if dtype == torch.float32 or x.device.type != "cpu":
            return super().forward(x, **options)
        x = widened(x) + self.drop_path1(self.ls1(self.attn(normed(self.norm1, x, dtype), **options)))
        out: Tensor = x + self.drop_path2(self.ls2(self.mlp(normed(self.norm2, x, dtype))))
        return out
