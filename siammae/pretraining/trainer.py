"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from siammae.config import PretrainConfig
from siammae.frames import PathLike
from siammae.model import SiamMAE
from siammae.pretraining.checkpoint import LOG_FILE, STATE_FILE, claim_videos, cut_log, load_state, save_state
from siammae.pretraining.crops import Pairs, collate
from siammae.pretraining.pairs import VideoPairs, find_videos
from siammae.pretraining.schedule import learning_rate, parameter_groups, total_steps
from siammae.quickening import multiplies_bfloat16
from siammae.vit import set_fused_attention, set_recompute

MODEL_FOLDER = "model"
_LOG_EVERY = 10  # steps


def pretrain(
    config: PretrainConfig,
    *,
    resume: PathLike | None = None,
    device: torch.device | str | None = None,
    max_steps: int | None = None,
    progress: bool = False,
) -> Path:
    """Train from video pairs.

    Same configuration, videos and machine give bit-identical weights on a CPU, also when a run is interrupted (Ctrl-C
    saves its state) and resumed.

    Args:
        config: everything the result depends on.
        resume: the output folder of an interrupted run with the same configuration.
        device: None = CUDA where there is one, else the CPU.
        max_steps: stop after this many optimiser steps in this sitting, with the state saved.
        progress: show a bar with loss and pairs per second.

    Returns:
        ``output_dir/model``, loadable by :meth:`siammae.SiamMAE.from_pretrained`.

    Raises:
        ValueError: the output folder holds another run, or the configuration does not fit the videos or ``init``.
        FileNotFoundError: there are no videos at ``config.videos``.
        CheckpointError: ``resume`` has no state, or one of another configuration.
        FloatingPointError: the loss is no longer finite.
    """
    videos = find_videos(config.videos)
    output = _prepare_output(config, resume)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = _choose_precision(config, target)
    model, optimizer = _build(config, target, resumed=resume is not None)
    start = load_state(resume, config, model, optimizer) if resume is not None else 0
    claim_videos(output, videos, resume=resume)
    total = total_steps(config, len(videos))
    stop = total if max_steps is None else min(total, start + max_steps)
    cut_log(output, start)
    step = start
    with _StopRequest() as request, tqdm(total=total, initial=start, desc="pretrain", disable=not progress) as bar:
        log = _Log(output / LOG_FILE, bar, config)
        for pairs in _batches(videos, config, start, stop):
            rate = learning_rate(step, config, total)
            losses = _train_step(model, optimizer, Pairs(*(part.to(target) for part in pairs)), config, step, rate)
            step += 1
            stopping, pausing = request.received, step % config.checkpoint_every == 0
            log.add(step, losses, rate, now=step == stop or stopping or pausing)  # nothing unchecked is ever saved
            if stopping:
                break
            if pausing and step < stop:
                _save(config, model, optimizer, step)
        exported = _save(config, model, optimizer, step)
    if request.received:
        raise KeyboardInterrupt(
            f"stopped at step {step} of {total}; the state is saved, resume={str(output)!r} goes on"
        )
    return exported


def _choose_precision(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """Settle ``precision="auto"``, so that the saved settings say what was computed."""
    if config.precision != "auto":
        return config
    return config.replace(precision="bf16" if device.type != "cpu" or multiplies_bfloat16() else "fp32")


def _prepare_output(config: PretrainConfig, resume: PathLike | None) -> Path:
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    goes_on = resume is not None and Path(resume).resolve() == output.resolve()
    if not goes_on and (output / STATE_FILE).exists():
        raise ValueError(f"{output} holds a run already: pass resume={str(output)!r} to go on, or another output_dir.")
    return output


def _build(config: PretrainConfig, device: torch.device, *, resumed: bool) -> tuple[SiamMAE, torch.optim.Optimizer]:
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


def _batches(videos: list[Path], config: PretrainConfig, start: int, stop: int) -> Iterator[Pairs]:
    """Yield a batch for each of the steps from ``start`` to ``stop``."""
    each = config.batch_size // config.samples_per_video  # videos in a batch
    yield from DataLoader(
        VideoPairs(videos, config),
        sampler=range(start * each, stop * each),
        batch_size=each,
        collate_fn=collate,
        num_workers=config.workers,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # PyTorch's global one stays as it was
    )


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal, but only the training process decides when its readers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _precision(config: PretrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()


def _train_step(
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


def _save(config: PretrainConfig, model: SiamMAE, optimizer: torch.optim.Optimizer, step: int) -> Path:
    save_state(config, model, optimizer, step)
    return model.save_pretrained(Path(config.output_dir) / MODEL_FOLDER)


class _StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the current step; a second one stops at once."""

    def __enter__(self) -> _StopRequest:
        self.received = False
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: object) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()


class _Log:
    """Averages the losses over a few steps, shows them and appends them to ``log.jsonl``."""

    def __init__(self, path: Path, bar: tqdm[Any], config: PretrainConfig) -> None:
        self._path, self._bar, self._batch = path, bar, config.batch_size
        self._losses: list[dict[str, Tensor]] = []
        self._since = time.perf_counter()

    def add(self, step: int, losses: dict[str, Tensor], rate: float, *, now: bool) -> None:
        """Take one step's losses; their numbers are read only when a line is written: reading waits for a GPU."""
        self._losses.append(losses)
        self._bar.update()
        if step % _LOG_EVERY and not now:
            return
        means = {name: torch.stack([one[name] for one in self._losses]).mean().item() for name in losses}
        for name, mean in means.items():
            if not math.isfinite(mean):
                what = name.replace("_", " ")
                raise FloatingPointError(
                    f"the {what} is {mean} at step {step}: lower base_lr (now {rate:.2e} is in use)."
                )
        moment = time.perf_counter()
        speed = len(self._losses) * self._batch / (moment - self._since)
        rounded = {name: round(mean, 6) for name, mean in means.items()}
        line = {"step": step, **rounded, "lr": rate, "pairs_per_second": round(speed, 1)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name.removesuffix("_loss"): f"{mean:.3f}" for name, mean in means.items()}
        self._bar.set_postfix(**shown, pairs_per_s=f"{speed:.0f}")
        self._losses, self._since = [], moment
