"""The network in training, its optimiser, and one step of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siammae.config import PretrainConfig
from siammae.model import SiamMAE
from siammae.pretraining.crops import Pairs
from siammae.pretraining.schedule import parameter_groups
from siammae.quickening import multiplies_bfloat16
from siammae.vit import set_fused_attention, set_recompute


def choose_precision(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """Settle ``precision="auto"``, so that the saved settings say what was computed."""
    if config.precision != "auto":
        return config
    return config.replace(precision="bf16" if device.type != "cpu" or multiplies_bfloat16() else "fp32")


def build(config: PretrainConfig, device: torch.device, *, resumed: bool) -> tuple[SiamMAE, torch.optim.Optimizer]:
    """Make the network, from random weights or ``init``, and its optimiser."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = config.init is None or resumed  # a saved state holds all weights
        model = SiamMAE(config.model) if fresh else SiamMAE.from_pretrained(config.init or "")
    model.drop_whitening()  # it belongs to the weights before training
    if model.config != config.model:
        raise ValueError(f"init={config.init!r} is a network of {model.config}, but model is {config.model}.")
    model = model.to(device).train()
    set_fused_attention(model, device.type != "cpu" or config.precision == "fp32")
    set_recompute(model, config.recompute)
    if config.compile:
        for part in (model.encoder, model.decoder):
            if part is not None:
                part.compile(dynamic=False)  # shapes never change: one graph for whole frames, one for visible patches
    groups = parameter_groups(model, config.weight_decay)
    return model, torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)


def _precision(config: PretrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()


def train_step(
    model: SiamMAE, optimizer: torch.optim.Optimizer, pairs: Pairs, config: PretrainConfig, step: int, rate: float
) -> dict[str, Tensor]:
    """Make one optimiser step and return the losses; the mask depends on seed and step alone."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((config.seed, step)).generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = rate
    with _precision(config, pairs.frames.device):
        output = model(
            pairs.frames[:, 0],
            pairs.frames[:, 1],
            mask_ratio=config.mask_ratio,
            generator=generator,
            places=pairs.places if config.match_weight else None,
            match_temperature=config.match_temperature,
        )
    losses = {"loss": output.loss}
    if output.matching_loss is not None:
        losses["matching_loss"] = output.matching_loss
    total = output.loss if output.matching_loss is None else output.loss + config.match_weight * output.matching_loss
    total.backward()
    if config.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {name: loss.detach() for name, loss in losses.items()}
