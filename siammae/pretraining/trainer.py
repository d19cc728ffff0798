"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from siammae.config import PretrainConfig
from siammae.frames import PathLike
from siammae.model import SiamMAE
from siammae.pretraining.checkpoint import LOG_FILE, STATE_FILE, claim_videos, cut_log, load_state, save_state
from siammae.pretraining.crops import Pairs, collate
from siammae.pretraining.journal import Log
from siammae.pretraining.pairs import VideoPairs, find_videos
from siammae.pretraining.schedule import learning_rate, total_steps
from siammae.pretraining.step import build, choose_precision, train_step

MODEL_FOLDER = "model"


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
    config = choose_precision(config, target)
    model, optimizer = build(config, target, resumed=resume is not None)
    start = load_state(resume, config, model, optimizer) if resume is not None else 0
    claim_videos(output, videos, resume=resume)
    total = total_steps(config, len(videos))
    stop = total if max_steps is None else min(total, start + max_steps)
    cut_log(output, start)
    step = start
    with _StopRequest() as request, tqdm(total=total, initial=start, desc="pretrain", disable=not progress) as bar:
        log = Log(output / LOG_FILE, bar, config)
        for pairs in _batches(videos, config, start, stop):
            rate = learning_rate(step, config, total)
            losses = train_step(model, optimizer, Pairs(*(part.to(target) for part in pairs)), config, step, rate)
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


def _prepare_output(config: PretrainConfig, resume: PathLike | None) -> Path:
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    goes_on = resume is not None and Path(resume).resolve() == output.resolve()
    if not goes_on and (output / STATE_FILE).exists():
        raise ValueError(f"{output} holds a run already: pass resume={str(output)!r} to go on, or another output_dir.")
    return output


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
