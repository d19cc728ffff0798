"""A network's layers as a CPU computes them fastest without gradients; same weights, same sums to rounding."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn


@cache
def product_route() -> Literal["linear", "convolution"]:
    """Return the route by which this machine's CPU multiplies float32 matrices.

    PyTorch's linear layers call MKL, which takes no AVX-512 path on AMD; 1x1 convolutions over channels-last tokens
    call oneDNN, in true float32 as well: 426 against 122 to 157 GFLOP/s on an EPYC (Zen 5). On Intel both are equal
    (within 5 % on a Xeon with AVX-512). The vendor decides and no measurement, which a busy machine would turn: so
    every run gives the same features, bit by bit.
    """
    return "convolution" if "AMD" in _vendor() else "linear"


def _vendor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's maker as the system names it, such as AuthenticAMD; empty where it does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().rpartition(",")[2].strip()  # Windows: "AMD64 Family 26 ..., AuthenticAMD"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute what ``F.linear`` does, as a 1x1 convolution over a picture one token wide."""
    picture = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, N, 1), channels last
    out = F.conv2d(picture, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _applies(x: Tensor) -> bool:
    """Tell whether a plain forward pass on a CPU is wanted; training and tracing go the ordinary way."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class QuickLinear(nn.Linear):
    """A linear layer that takes the machine's faster route."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        if _applies(x) and x.dtype == torch.float32 and x.numel() and product_route() == "convolution":
            return _convolve(x, self.weight, self.bias)
        return super().forward(x)


class QuickAttention(Attention):
    """Self-attention that lays queries, keys and values out head by head first.

    PyTorch's CPU kernel reads them many times over, from rows three widths apart otherwise.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend within ``x`` ``(B, N, C)``; returns ``(B, N, C)``. The options are timm's."""
        if not _applies(x) or attn_mask is not None or is_causal or not self._is_plain():
            options = {"is_causal": True} if is_causal else {}  # older timm has no such option
            return super().forward(x, attn_mask, **options)
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        out = F.scaled_dot_product_attention(*qkv.unbind(0))  # (B, heads, N, C/heads)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]

    def _is_plain(self) -> bool:
        """Tell whether there is nothing but two linear layers: no norms of queries and keys, no gate, no dropout."""
        extras = (self.q_norm, self.k_norm, getattr(self, "norm", None), getattr(self, "gate", None))
        bare = all(extra is None or isinstance(extra, nn.Identity) for extra in extras)
        return bare and self.fused_attn and not self.training


_QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: QuickLinear, Attention: QuickAttention}


def quicken(network: nn.Module) -> None:
    """Let a network's linear layers and timm's self-attention take the fast way; tensors and their names stay.

    Only layers of exactly these classes change, so that nobody's own subclass loses its behaviour.

    Args:
        network: changed in place. Gradients, GPUs and ``torch.compile`` see the ordinary layers.
    """
    for layer in network.modules():
        if type(layer) in _QUICK:
            layer.__class__ = _QUICK[type(layer)]


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX), else they are emulated.

    Emulated, they take longer than float32. PyTorch does not tell of ARM, which counts as without.
    """
    answers = (getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(answers)
