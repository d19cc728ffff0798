"""Attention weights as the network computes them, from the inputs of its layers: the fast path stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn

from siammae.features import FeatureExtractor
from siammae.frames import VideoSource
from siammae.network.cpu_layers import CpuAttention
from siammae.network.cropmae import CropMAEBlock
from siammae.network.decoder import CrossAttention, CrossBlock
from siammae.network.model import SiamMAE
from siammae.network.timm_extractor import TimmExtractor


class PairAttention(NamedTuple):
    """Where the decoder looks in the past frame while it predicts the future one."""

    weights: Tensor  # (B, depth, heads, n, 1 + h*w) float32, rows sum to 1; the first column is the past frame's CLS
    hidden: Tensor  # (B, h*w) bool, True = patch of the future frame that the network did not see


def attention_weights(
    layer: nn.Module, x: Tensor, memory: Tensor | None = None, *, rows: slice | Tensor = slice(None)
) -> Tensor:
    """Compute an attention layer's weights from its inputs, in float32.

    Args:
        layer: timm's ``Attention``, this package's ``CrossAttention``, or PyTorch's ``MultiheadAttention`` with biases,
            batches first and nothing unusual.
        x: what queries are made of, ``(B, N, C)``.
        memory: what keys are made of, ``(B, M, C)``; None = ``x``.
        rows: the queries wanted, a slice or indices ``(n,)``; None are computed besides.

    Returns:
        ``(B, heads, n, M)`` float32; rows sum to 1.

    Raises:
        ValueError: the layer is of another kind, which may compute its weights in another way.
    """
    memory = x if memory is None else memory
    if isinstance(layer, CrossAttention):
        queries, keys = layer.q(x[:, rows]), layer.kv(memory).chunk(2, dim=2)[0]
    elif isinstance(layer, nn.MultiheadAttention) and _is_plain_multihead(layer):
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        queries, keys = F.linear(x[:, rows], weights[0], biases[0]), F.linear(memory, weights[1], biases[1])
    elif _is_plain(layer):
        queries, keys = layer.qkv(memory).chunk(3, dim=2)[:2]  # type: ignore[operator]
        queries = queries[:, rows]
    else:
        raise ValueError(
            f"attention of the kind {type(layer).__name__} may compute its weights in its own way: only timm's "
            "Attention, CrossAttention and MultiheadAttention are known."
        )
    heads: Any = layer.num_heads
    queries, keys = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (queries, keys))  # (B, heads, N, D)
    if isinstance(layer, Attention):
        queries, keys = layer.q_norm(queries), layer.k_norm(keys)
    queries = queries.float() * queries.shape[-1] ** -0.5
    return (queries @ keys.float().transpose(-2, -1)).softmax(dim=-1)  # type: ignore[no-any-return]


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer is timm's self-attention and no class made from it, which may compute otherwise."""
    return type(layer) in (Attention, CpuAttention)


def _is_plain_multihead(layer: nn.MultiheadAttention) -> bool:
    """Tell whether keys are as wide as queries, batches come first, and no token is added to the keys."""
    one_width = layer.kdim == layer.vdim == layer.embed_dim and hasattr(layer.in_proj_bias, "chunk")
    return one_width and layer.batch_first and layer.bias_k is None and not layer.add_zero_attn


@contextmanager
def _recorded(layers: Sequence[nn.Module], note: Callable[[nn.Module, Any], Tensor]) -> Iterator[list[Tensor]]:
    """Collect what ``note`` makes of the inputs of each call of these layers; what they compute stays the same."""
    notes: list[Tensor] = []

    def look(layer: nn.Module, inputs: Any) -> None:  # noqa: ANN401 -- a tuple, as PyTorch hands it over
        notes.append(note(layer, inputs))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield notes
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def class_attention(
    model: FeatureExtractor,
    frames: VideoSource,
    *,
    layer: int = -1,
    resize: int | tuple[int, int] | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Return how much the CLS token attends to each patch: what the network takes a frame to be about.

    Args:
        model: a :class:`SiamMAE`, or a :class:`TimmExtractor` of a plain ViT with a CLS token.
        frames: as in :meth:`SiamMAE.extract`.
        layer: the block whose attention is taken, as a Python index.
        resize: as in :meth:`SiamMAE.extract`.
        batch_size: frames encoded at once.

    Returns:
        ``(T, heads, h, w)`` float32. A map sums to less than 1: CLS attends to itself and to registers too.

    Raises:
        ValueError: the network has no CLS token or another kind of attention, or frames or options are refused.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> model = siammae.SiamMAE.from_pretrained()
        >>> attention = siammae.class_attention(model, np.zeros((1, 48, 64, 3), np.uint8))
        >>> tuple(attention.shape)  # frames, heads, patches
        (1, 3, 6, 8)
    """
    attention, prefix = _class_layer(model, layer)

    def of_class(part: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return attention_weights(part, inputs[0], rows=slice(0, 1))[:, :, 0, prefix:]  # (B, heads, h*w)

    with _recorded([attention], of_class) as maps:
        features = model.extract(frames, layer=layer, resize=resize, batch_size=batch_size)  # type: ignore[call-arg]
    return torch.cat(maps).unflatten(2, features.shape[-2:])  # type: ignore[no-any-return, no-untyped-call]


def _class_layer(model: FeatureExtractor, layer: int) -> tuple[nn.Module, int]:
    """Return the attention of a block, and how many tokens come before the patches."""
    if isinstance(model, SiamMAE):
        return model.encoder.blocks[model.encoder.check_layer(layer)].attn, 1 + model.config.registers  # type: ignore[return-value]
    if not isinstance(model, TimmExtractor):
        raise ValueError(f"{type(model).__name__} has no CLS token: pass a SiamMAE, or a ViT of timm with one.")
    if getattr(model.model, "cls_token", None) is None:
        raise ValueError(f"{model.name} has no CLS token, so nothing attends for the frame as a whole. Try another.")
    block = model.model.blocks[model.check_layer(layer)]
    return getattr(block, "attn", block), model.model.num_prefix_tokens


def has_class_attention(model: FeatureExtractor) -> bool:
    """Tell whether :func:`class_attention` can be had of a network."""
    try:
        return _is_plain(_class_layer(model, 0)[0])
    except ValueError:
        return False


def has_cross_attention(model: SiamMAE) -> bool:
    """Tell whether :func:`cross_attention` can be had of a network."""
    return model.config.decoder in ("cross-self", "cross", "cropmae")


@torch.no_grad()
def cross_attention(
    model: SiamMAE,
    past: Tensor,
    future: Tensor,
    *,
    mask_ratio: float = 0.95,
    generator: torch.Generator | None = None,
    rows: Tensor | None = None,
) -> PairAttention:
    """Return where the decoder looks in the past frame for each patch of the future frame.

    Args:
        model: with a decoder ``cross-self``, ``cross`` or ``cropmae``, in eval mode.
        past: ``(B, 3, H, W)``, as in :meth:`SiamMAE.forward`.
        future: the same shape.
        mask_ratio: part of the future frame's patches that is hidden.
        generator: source of the mask, on the CPU; None = torch's global one.
        rows: numbers of the future patches wanted, ``(n,)`` int64, row by row; None = all ``h*w``.

    Returns:
        The weights of every decoder block and head, and which patches were hidden.

    Raises:
        ValueError: the network's decoder has no cross-attention, or frames or options are refused.

    Example:
        >>> import siammae
        >>> import torch
        >>> model = siammae.SiamMAE(siammae.ModelConfig.vit("tiny", image_size=48, depth=2)).eval()
        >>> past, future = torch.rand(2, 1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        >>> found = siammae.cross_attention(model, past, future)
        >>> tuple(found.weights.shape)  # pairs, blocks, heads, future patches, CLS and past patches
        (1, 4, 8, 9, 10)
    """
    if model.decoder is None or not has_cross_attention(model):
        raise ValueError(
            f'{model.name} has no cross-attention (config.decoder is "{model.config.decoder}"): the decoder must be '
            "cross-self, cross or cropmae."
        )

    def of_patches(part: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        chosen = slice(1, None) if rows is None else rows.to(inputs[0].device) + 1  # CLS comes first
        return attention_weights(part, inputs[0], inputs[1], rows=chosen)

    layers = [_cross_layer(block) for block in model.decoder.blocks]
    with _recorded(layers, of_patches) as weights:
        frames = (frame.to(model.device) for frame in (past, future))
        hidden = model(*frames, mask_ratio=mask_ratio, generator=generator).mask
    return PairAttention(torch.stack(weights, dim=1), hidden)


def _cross_layer(block: nn.Module) -> nn.Module:
    if isinstance(block, CropMAEBlock):
        return block.multihead_attn
    return block.cross_attn if isinstance(block, CrossBlock) else block
