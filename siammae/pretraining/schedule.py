"""How fast each weight learns: warm-up, cosine decay, weight-decay groups."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from siammae.config import PretrainConfig


def total_steps(config: PretrainConfig, videos: int) -> int:
    """Return the optimiser steps of a run: epochs times pairs over the batch, rounded up."""
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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable weights: matrices decay; biases, norms and tokens do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim >= 2 and min(p.shape[:2]) > 1]
    rest = [p for p in trainable if not (p.ndim >= 2 and min(p.shape[:2]) > 1)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
