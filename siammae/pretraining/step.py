"""One optimiser step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from siammae.config import PretrainConfig
from siammae.distributed import Processes
from siammae.network.cpu_layers import multiplies_bfloat16
from siammae.pretraining.data.crops import Pairs
from siammae.pretraining.learner import Learner

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """Settle ``precision="auto"``, so that the saved settings say what was computed."""
    if config.precision != "auto":
        return config
    return config.replace(precision="bf16" if device.type != "cpu" or multiplies_bfloat16() else "fp32")


def train_step(
    learner: Learner, pairs: Pairs, config: PretrainConfig, step: int, rate: float, processes: Processes
) -> dict[str, Tensor]:
    """Make one optimiser step.

    Masks depend on seed and step alone, and a pair's mask on its place in the whole batch: not on how many processes
    share it, nor on the parts in which they go through it.

    Args:
        learner: what learns.
        pairs: this process's part of the batch, on its device.
        config: of the run.
        step: from 0.
        rate: of learning.
        processes: the processes that share the batch.

    Returns:
        The losses of this process's part, without gradients.
    """
    for group in learner.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    count = len(pairs.frames)
    mine = slice(processes.rank * count, (processes.rank + 1) * count)
    noise, placing = _draw(config, step)
    noise, placing = noise[mine], None if placing is None else placing[mine]
    losses: list[dict[str, Tensor]] = []
    size = count // config.accumulate
    with _dropout(learner.model, (config.seed, step, processes.rank)):
        for start in range(0, count, size):
            part = slice(start, start + size)
            some = Pairs(pairs.frames[part], pairs.places[part], pairs.moves[part])
            with learner.exchanging(start + size >= count):
                losses.append(_learn(learner, some, noise[part], None if placing is None else placing[part], config))
    learner.scaler.unscale_(learner.optimizer)
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.clip_grad)
    learner.changing = True  # and for ever, if an error leaves it half done
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.update_average(step)
    learner.changing = False
    return {name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]}


def _draw(config: PretrainConfig, step: int) -> tuple[Tensor, Tensor | None]:
    """Draw what decides about the masks of the whole batch, ``(batch_size, 2, patches)``, and where its crops lie."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((config.seed, step)).generate_state(1)[0]))
    grid = config.crop_side // config.model.patch_size
    noise = torch.rand(config.batch_size, 2, grid**2, generator=generator, dtype=torch.float32, device="cpu")
    if config.position_step is None:
        return noise, None
    low, high = config.position_step
    shape = (2, config.batch_size, 2, 2)  # past and future, x and y
    draws = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    steps = low * (high / low) ** draws[0]
    first = steps / 2 + draws[1] * (config.model.grid_size - steps * grid) - 0.5
    return noise, torch.stack([first, steps], dim=-1)  # (batch_size, 2, 2, 2)


def _learn(
    learner: Learner, pairs: Pairs, noise: Tensor, placing: Tensor | None, config: PretrainConfig
) -> dict[str, Tensor]:
    """Add the gradients of some pairs, which count by their share of the process's part."""
    seen, hidden = pairs.frames.unbind(1) if config.predict == "future" else pairs.frames.flip(1).unbind(1)
    device = pairs.frames.device
    weights = 1 + config.match_motion * pairs.moves if config.match_motion else None
    with _autocast(config, device):
        output = learner.network(
            seen,
            hidden,
            mask_ratio=config.mask_ratio,
            past_mask=config.past_mask,
            noise=noise,
            places=pairs.places if config.match_weight else None,
            match_temperature=config.match_temperature,
            match_weights=weights,
            placing=None if placing is None else placing.to(device),
        )
    losses = {"loss": output.loss}
    total = output.loss
    if output.matching_loss is not None:
        losses["matching_loss"] = output.matching_loss
        total = total + config.match_weight * output.matching_loss
    learner.scaler.scale(total / config.accumulate).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _autocast(config: PretrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    dtype = _DTYPES.get(config.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextmanager
def _dropout(model: nn.Module, seed: tuple[int, ...]) -> Iterator[None]:
    """Let dropout depend on the seed alone, and leave the global random state as it was."""
    if not any(part.p > 0 for part in model.modules() if isinstance(part, nn.Dropout)):
        yield
        return
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield
