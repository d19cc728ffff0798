"""A network's layers as a CPU computes them fastest without gradients; same weights, same sums to rounding."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from siammae.kernels import onednn
from siammae.kernels.native import attention as native_attention

# Queries whose scores are held at once: fewer lay the keys out anew too often, more leave the cache.
_QUERIES = 256
_ZEN_5 = 26  # family of these CPUs


@cache
def product_route(dtype: torch.dtype = torch.float32) -> Literal["linear", "onednn"]:
    """Return the route by which this machine's CPU multiplies matrices of a dtype.

    The CPU's make decides and no measurement, which a busy machine would turn: so every run gives the same features,
    bit by bit. oneDNN's products are the faster ones on AMD from Zen 4 on, the first to have instructions for bfloat16.
    """
    amd = "AMD" in _make()[0] and onednn.available() and multiplies_bfloat16()
    return "onednn" if amd and dtype in (torch.float32, torch.bfloat16) else "linear"


def attention_route(dtype: torch.dtype, width: int = 64) -> Literal["pytorch", "onednn", "native"]:
    """Return the route by which this machine's CPU attends, in a dtype and with heads of so many channels.

    On AMD it is the native kernel wherever that was built: on Zen 4 a frame through ViT-S/16 then takes 0.94 of the
    time it takes with PyTorch's in float32, 0.73 in bfloat16. Without it oneDNN's products make the faster attention in
    bfloat16, and in float32 from Zen 5 on.
    """
    vendor, family = _make()
    if "AMD" in vendor and native_attention.attends(dtype, width):
        return "native"
    faster = dtype == torch.bfloat16 or family >= _ZEN_5
    return "onednn" if product_route(dtype) == "onednn" and faster else "pytorch"


@cache
def _make(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, int]:
    """Return the CPU's maker as the system names it, such as AuthenticAMD, and its family; empty and 0 if unknown."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # Windows: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD"
        name = platform.processor()
        family = re.search(r"Family (\d+)", name)
        return name.rpartition(",")[2].strip(), int(family[1]) if family else 0
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    family_text = fields.get("cpu family", "")
    return fields.get("vendor_id", ""), int(family_text) if family_text.isdecimal() else 0


def _applies(x: Tensor) -> bool:
    """Tell whether a plain forward pass on a CPU is wanted; training, tracing and autocast go the ordinary way."""
    special = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and not special


def _by_onednn(x: Tensor) -> bool:
    return _applies(x) and x.numel() > 0 and product_route(x.dtype) == "onednn"


def _attend(qkv: Tensor) -> Tensor:
    """Attend within ``(B, N, 3, heads, D)`` by oneDNN; returns ``(B, N, heads, D)``.

    PyTorch's own kernel multiplies by MKL. Small arrays that stay in the cache, one head after the other: fresh large
    ones cost more than what fills them.
    """
    batch, n, _, heads, d = qkv.shape
    out = qkv.new_empty(batch, n, heads, d)
    for one, mixed in zip(qkv, out, strict=True):
        for head in range(heads):
            queries, keys, columns = (
                one[:, 0, head] * d**-0.5,
                one[:, 1, head].contiguous(),
                one[:, 2, head].T.contiguous(),
            )
            for some in range(0, n, _QUERIES):
                weights = onednn.linear(queries[some : some + _QUERIES], keys).softmax(dim=-1)
                mixed[some : some + _QUERIES, head] = onednn.linear(weights, columns)
    return out


def _drops_out(layer: nn.Module) -> bool:
    """Tell whether dropout would change what a layer gives; where none is set, training mode changes nothing."""
    return layer.training and any(part.p > 0 for part in layer.modules() if isinstance(part, nn.Dropout))


class CpuLinear(nn.Linear):
    """A linear layer that takes the machine's faster route."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        if _by_onednn(x):
            return onednn.linear(x, self.weight, self.bias)
        return super().forward(x)


class CpuAttention(Attention):
    """Self-attention that lays queries, keys and values out head by head first.

    PyTorch's CPU kernel reads them many times over, from rows three widths apart otherwise.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend within ``x`` ``(B, N, C)``; returns ``(B, N, C)``. The options are timm's."""
        if not _applies(x) or attn_mask is not None or is_causal or not self._is_plain():
            options = {"is_causal": True} if is_causal else {}  # older timm has no such option
            return super().forward(x, attn_mask, **options)
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, -1)
        route = attention_route(qkv.dtype, c // self.num_heads) if qkv.numel() else "pytorch"
        if route == "native":
            out = native_attention.attend(qkv)
        elif route == "onednn":
            out = _attend(qkv)
        else:
            parts = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B, heads, N, D)
            out = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2)
        return self.proj(out.reshape(b, n, c))  # type: ignore[no-any-return]

    def _is_plain(self) -> bool:
        """Tell whether there is nothing but two linear layers: no norms of queries and keys, no gate, no dropout."""
        extras = (self.q_norm, self.k_norm, getattr(self, "norm", None), getattr(self, "gate", None))
        bare = all(extra is None or isinstance(extra, nn.Identity) for extra in extras)
        return bare and self.fused_attn and not _drops_out(self)


class CpuMlp(Mlp):
    """An MLP whose first product goes through the GELU at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        gelu = type(self.act) is nn.GELU and self.act.approximate == "none" and isinstance(self.norm, nn.Identity)
        if not gelu or _drops_out(self) or not _by_onednn(x) or not isinstance(self.fc1, nn.Linear):
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        return self.fc2(onednn.linear(x, self.fc1.weight, self.fc1.bias, gelu=True))  # type: ignore[no-any-return]


_CPU_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: CpuLinear, Attention: CpuAttention, Mlp: CpuMlp}


def use_cpu_layers(network: nn.Module) -> None:
    """Let a network's linear layers, timm's self-attention and MLPs take the fast way; tensors and their names stay.

    Only layers of exactly these classes change, so that nobody's own subclass loses its behaviour.

    Args:
        network: changed in place. Gradients, GPUs and ``torch.compile`` see the ordinary layers.
    """
    for layer in network.modules():
        if type(layer) in _CPU_LAYERS:
            layer.__class__ = _CPU_LAYERS[type(layer)]


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX), else they are emulated.

    Emulated, they take longer than float32. PyTorch does not tell of ARM, which counts as without.
    """
    answers = (getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(answers)
