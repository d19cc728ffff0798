"""How fast each weight learns: warm-up, cosine decay, weight-decay groups."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from siammae.config import PretrainConfig
from siammae.network.model import SiamMAE


def total_steps(config: PretrainConfig, videos: int) -> int:
    """Return the optimiser steps of a run: epochs times pairs over the batch, rounded up.

    An epoch visits each video once and draws ``samples_per_video`` pairs from it. Papers count pairs a video instead:
    400 of their epochs with a repeated sampling of 2 are 200 here.
    """
    return math.ceil(config.epochs * videos * config.samples_per_video / config.batch_size)


def learning_rate(step: int, config: PretrainConfig, total: int) -> float:
    """Return the rate of one step: linear warm-up, then half a cosine down to 0.

    Args:
        step: from 0.
        config: gives base rate, batch size and warm-up.
        total: steps of the whole run.

    Source:
        MAE, util/lr_sched.py; rate = base_lr * batch_size / 256.
    """
    peak = config.base_lr * config.batch_size / 256
    warmup = total * config.warmup_epochs / config.epochs
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)  # never 0: the first step shall count
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def parameter_groups(model: SiamMAE, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Split trainable weights by their weight decay and their learning rate.

    Matrices decay; biases, norms, tokens and a learned position table do not. MAE lets the CLS and the mask token
    decay, by timm's rule that all but vectors do.

    Args:
        model: the network, not wrapped by anything that renames its weights.
        weight_decay: of matrices.
        layer_decay: the learning rate of encoder block ``i`` of ``L``, counted from 0, is ``layer_decay ** (L - i)``
            times the decoder's; that of what comes before the blocks (patch embedding, tokens, positions)
            ``layer_decay ** (L + 1)`` times. 1 = one rate for all.

    Returns:
        Groups for an optimiser, slowest first, each with ``params``, ``weight_decay`` and ``lr_scale``: the factor of
        :func:`learning_rate`, to be applied at every step.

    Source:
        MAE, util/lr_decay.py, after BEiT, optim_factory.py: the rule for fine-tuning; the encoder's last norm and what
        follows it, there the head, here the decoder, has factor 1.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            is_matrix = weight.ndim >= 2 and min(weight.shape[:2]) > 1
            groups.setdefault((layer_decay ** _distance(name, model.config.depth), is_matrix), []).append(weight)
    return [
        {"params": groups[scale, is_matrix], "weight_decay": weight_decay if is_matrix else 0.0, "lr_scale": scale}
        for scale, is_matrix in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]


def _distance(name: str, depth: int) -> int:
    """Count the layers that a weight lies below the decoder."""
    part, _, rest = name.partition(".")
    if part == "frame_embed":
        return depth + 1
    if part != "encoder" or rest.startswith("norm."):
        return 0
    return depth - int(rest.split(".")[1]) if rest.startswith("blocks.") else depth + 1
