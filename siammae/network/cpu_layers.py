"""A network's layers as a CPU computes them fastest without gradients; same weights, same sums to rounding."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from siammae.kernels import onednn
from siammae.kernels.native import attention as native_attention
from siammae.network.pooled_keys import KeyPooling, key_pooling

# Queries whose scores are held at once: fewer lay the keys out anew too often, more leave the cache.
_QUERIES = 256
_ZEN_5 = 26  # family of these CPUs
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
    """Tell whether a plain forward pass on a CPU is wanted; what differentiates or watches goes the ordinary way."""
    if type(x) is not Tensor or x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    special = (
        torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or torch.is_autocast_enabled("cpu")
    )
    return not special and not _transformed()


def _transformed() -> bool:
    """Tell whether operators mean something else now: in vmap, forward derivatives, or a mode that sees each one."""
    functorch = torch._C._functorch.peek_interpreter_stack() is not None
    dispatched = torch._C._len_torch_dispatch_stack() or torch.autograd.forward_ad._current_level >= 0
    return functorch or bool(dispatched) or any(type(mode) not in _BLIND_MODES for mode in _function_modes())


def _function_modes() -> list[object]:
    return [torch._C._get_function_stack_at(place) for place in range(torch._C._len_torch_function_stack())]


def is_watched(layer: nn.Module) -> bool:
    """Tell whether a call of a layer does more than its class's forward: hooks, or a forward put in its place."""
    hooks = (getattr(layer, name) for name in _HOOKS)
    everywhere = (getattr(nn.modules.module, f"_global{name}") for name in _HOOKS)
    replaced = "forward" in layer.__dict__ or "_compiled_call_impl" in layer.__dict__
    return replaced or any(hooks) or any(everywhere)


def _is_plain_linear(layer: object) -> TypeGuard[nn.Linear]:
    """Tell whether a layer is PyTorch's own with its own kind of weights, and nobody watches it."""
    if type(layer) is not nn.Linear or is_watched(layer):
        return False
    return {type(layer.weight), type(layer.bias)} <= {Tensor, nn.Parameter, type(None)}


def _are_idle(layers: Iterable[nn.Module | None]) -> bool:
    """Tell whether layers give back what they get and nobody watches them, so that they can be left out."""
    return all(layer is None or (_gives_back(layer) and not is_watched(layer)) for layer in layers)


def _gives_back(layer: nn.Module) -> bool:
    return type(layer) is nn.Identity or (type(layer) is nn.Dropout and not (layer.training and layer.p > 0))


def _others(layer: nn.Module, *names: str) -> Iterable[nn.Module | None]:
    """Return the parts of a layer but for some."""
    return [part for name, part in layer._modules.items() if name not in names]


def _by_onednn(x: Tensor) -> bool:
    return _applies(x) and x.numel() > 0 and product_route(x.dtype) == "onednn"


def _multiply(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a linear layer by the machine's faster route; any other layer as it is."""
    if _is_plain_linear(layer) and _by_onednn(x):
        return onednn.linear(x, layer.weight, layer.bias)
    return layer(x)  # type: ignore[no-any-return]


def _rows(layer: nn.Linear, x: Tensor, rows: slice) -> Tensor:
    """Compute some of a plain linear layer's outputs."""
    weight, bias = layer.weight[rows], layer._parameters["bias"]
    part = None if bias is None else bias[rows]
    return onednn.linear(x, weight, part) if _by_onednn(x) else F.linear(x, weight, part)


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


class _FasterProducts(TorchFunctionMode):
    """Lets the linear layers of any network take the machine's faster route."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run an operator; PyTorch calls this for each one."""
        plain = func is F.linear and not kwargs and all(type(part) in (Tensor, nn.Parameter) for part in args)
        return onednn.linear(*args) if plain and _by_onednn(args[0]) else func(*args, **(kwargs or {}))


def faster_products(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which linear layers of a dtype take the faster route, where this machine has one.

    For networks whose layers :func:`use_cpu_layers` does not know.
    """
    return _FasterProducts() if product_route(dtype) == "onednn" else nullcontext()


_BLIND_MODES = (DeviceContext, _FasterProducts)  # the default device looks at no product


class CpuAttention(Attention):
    """Self-attention that lays queries, keys and values out head by head first.

    PyTorch's CPU kernel reads them many times over, from rows three widths apart otherwise.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend within ``x`` ``(B, N, C)``; returns ``(B, N, C)``. The options are timm's."""
        if (pooling := key_pooling()) is not None:
            return self._attend_to_means(x, pooling)
        if not _applies(x) or attn_mask is not None or is_causal or not self._is_plain():
            options = {"is_causal": True} if is_causal else {}  # older timm has no such option
            return super().forward(x, attn_mask, **options)
        b, n, c = x.shape
        qkv = _multiply(self.qkv, x).view(b, n, 3, self.num_heads, -1)
        route = attention_route(qkv.dtype, c // self.num_heads) if qkv.numel() else "pytorch"
        if route == "native":
            out = native_attention.attend(qkv)
        elif route == "onednn":
            out = _attend(qkv)
        else:
            parts = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B, heads, N, D)
            q, k, v = parts.unbind(0)
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return _multiply(self.proj, out.reshape(b, n, c))

    def _attend_to_means(self, x: Tensor, pooling: KeyPooling) -> Tensor:
        """Attend to averaged keys and values, with and without gradients."""
        if not self._is_plain():
            raise ValueError("pool_keys needs plain attention: this layer has norms, a gate or dropout of its own.")
        c = x.shape[2]
        if _is_plain_linear(self.qkv):  # the mean of products is the product of the mean
            q, kv = _rows(self.qkv, x, slice(0, c)), _rows(self.qkv, pooling.pool(x), slice(c, None))
        else:
            qkv = self.qkv(x)
            q, kv = qkv[..., :c], pooling.pool(qkv[..., c:])
        return self._from_pairs(q, kv)

    def make_pairs(self, x: Tensor) -> Tensor:
        """Make keys and values of tokens: ``(..., C)`` to ``(..., 2C)``."""
        return _rows(self.qkv, x, slice(x.shape[-1], None))

    def attend_to_pairs(self, x: Tensor, pairs: Tensor) -> Tensor:
        """Attend from tokens ``(B, N, C)`` to keys and values ``(B, M, 2C)``; returns ``(B, N, C)``."""
        return self._from_pairs(_rows(self.qkv, x, slice(0, x.shape[-1])), pairs)

    def _from_pairs(self, q: Tensor, kv: Tensor) -> Tensor:
        (b, n, c), heads = q.shape, self.num_heads
        q, kv = q.reshape(b, n, 1, heads, -1), kv.reshape(b, kv.shape[1], 2, heads, -1)
        if _applies(q) and attention_route(q.dtype, q.shape[-1]) == "native":
            out = native_attention.attend_to(q, kv)
        else:
            (queries,), (keys, values) = (part.permute(2, 0, 3, 1, 4).contiguous() for part in (q, kv))
            out = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        return _multiply(self.proj, out.reshape(b, n, c))

    def _is_plain(self) -> bool:
        """Tell whether there is nothing but two linear layers: no norms of queries and keys, no gate, no dropout."""
        return self.fused_attn and _are_idle(_others(self, "qkv", "proj"))


class CpuMlp(Mlp):
    """An MLP whose first product goes through the GELU at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        act, fc1 = self.act, self.fc1
        gelu = type(act) is nn.GELU and act.approximate == "none" and not is_watched(act)
        plain = gelu and _is_plain_linear(fc1) and _are_idle(_others(self, "fc1", "act", "fc2"))
        if not plain or not _by_onednn(x):
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        return _multiply(self.fc2, onednn.linear(x, fc1.weight, fc1.bias, gelu=True))


def pools_keys(layer: object) -> bool:
    """Tell whether an attention layer can attend to averaged keys."""
    return type(layer) is CpuAttention and layer._is_plain()


def attends_to_pairs(layer: object) -> bool:
    """Tell whether an attention layer can attend to keys and values that were made before."""
    return type(layer) is CpuAttention and not is_watched(layer) and layer._is_plain() and _is_plain_linear(layer.qkv)


_CPU_LAYERS: dict[type[nn.Module], type[nn.Module]] = {Attention: CpuAttention, Mlp: CpuMlp}


def use_cpu_layers(network: nn.Module) -> None:
    """Let timm's self-attention and MLPs in a network take the fast way; tensors and their names stay.

    Only layers of exactly these classes change, and linear layers stay PyTorch's: what is put in their place or hooked
    to them later is respected, by the ordinary way.

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


def bfloat16_is_faster() -> bool:
    """Tell whether this CPU multiplies bfloat16 faster than float32: with AMX, and on AMD with AVX512-BF16.

    Intel's AVX512-BF16 alone does not: it halves the numbers and the rate. On a Xeon with it and without AMX a frame
    through the bundled network takes 1.5 times as long as in float32, on an EPYC of Zen 4 0.6 times.
    """
    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return bool(amx) or ("AMD" in _make()[0] and multiplies_bfloat16())
