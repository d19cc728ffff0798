"""oneDNN's product, which PyTorch's own layers leave to MKL: on AMD it is the faster of the two.

In float32, on an EPYC of Zen 5, 240 against 112 GFLOP/s with one thread and 480 against 225 with two; of Zen 4 200
against 160 to 190 with two, near the limit of its cores. On a Xeon with AVX-512 both are equal within 5 %.
Reached through the operator that PyTorch's compiler puts in place of linear layers. (1x1 convolutions reach it as
well, but with several threads only.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def available() -> bool:
    """Tell whether this PyTorch has the operator."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute what ``F.linear`` does, for float32 and bfloat16 on a CPU and without gradients.

    Args:
        x: ``(..., in)``.
        weight: ``(out, in)``.
        bias: ``(out,)``.
        gelu: go through the exact GELU besides, which saves an array of the output's size.
    """
    after, rule = ("gelu", "none") if gelu else ("none", "")
    # Matrices with gaps between their rows would fall to oneDNN's reference code, a thousand times slower.
    multiply = torch.ops.mkldnn._linear_pointwise
    return multiply(x.contiguous(), weight.contiguous(), bias, after, [], rule)  # type: ignore[no-any-return]


def coarse_precision() -> str | None:
    """Return the setting under which PyTorch's float32 products on a CPU may be rounded more coarsely, if one is on."""
    newer = getattr(torch.backends.mkldnn, "matmul", None)
    if newer is not None:  # then the older function may refuse to answer
        precision = str(newer.fp32_precision)
        return None if precision in ("none", "ieee") else f"torch.backends.mkldnn.matmul.fp32_precision = {precision!r}"
    precision = torch.get_float32_matmul_precision()
    return None if precision == "highest" else f"torch.set_float32_matmul_precision({precision!r})"
