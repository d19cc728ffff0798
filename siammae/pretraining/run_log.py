"""What a run writes down about itself while it goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from siammae.config import PretrainConfig
from siammae.distributed import Processes
from siammae.pretraining.checkpoint import LOG_FILE
from siammae.pretraining.loggers import Logger

_LOG_EVERY = 10  # steps


class RunLog:
    """Averages the losses over a few steps and over all processes; the first one shows them and writes them down.

    Args:
        config: of the run.
        processes: the processes that share the batches.
        bar: shows progress.
        loggers: get every line besides ``log.jsonl``.
    """

    def __init__(self, config: PretrainConfig, processes: Processes, bar: tqdm[Any], loggers: Sequence[Logger]) -> None:
        self._path, self._batch, self._processes = Path(config.output_dir) / LOG_FILE, config.batch_size, processes
        self._bar, self._loggers = bar, loggers
        self._step, self._rate, self._losses = 0, 0.0, list[dict[str, Tensor]]()
        self._since, self._waited = time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        """Take the time for which a step had to wait for its pairs."""
        self._waited += seconds

    def add(self, step: int, losses: dict[str, Tensor], rate: float) -> None:
        """Take one step's losses; their numbers are read only when a line is written: reading waits for a GPU."""
        self._step, self._rate = step, rate
        self._losses.append(losses)
        self._bar.update()
        if step % _LOG_EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Write the line of the steps since the last one, if there are any.

        Raises:
            FloatingPointError: a loss is no longer finite.
        """
        if not self._losses:
            return
        names = list(self._losses[0])
        means = [torch.stack([one[name] for one in self._losses]).mean().item() for name in names]
        named = dict(zip(names, self._processes.mean(means), strict=True))
        for name, mean in named.items():
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the {name.replace('_', ' ')} is {mean} at step {self._step}: lower base_lr "
                    f"(now {self._rate:.2e} is in use)."
                )
        moment = time.perf_counter()
        elapsed = max(moment - self._since, 1e-9)
        speed, waiting = len(self._losses) * self._batch / elapsed, min(1.0, self._waited / elapsed)
        line = {
            **{name: round(mean, 6) for name, mean in named.items()},
            "lr": self._rate,
            "pairs_per_second": round(speed, 1),
            "waiting_for_data": round(waiting, 3),
        }
        self.write(self._step, line)
        shown = {name.removesuffix("_loss"): f"{mean:.3f}" for name, mean in named.items()}
        self._bar.set_postfix(**shown, lr=f"{self._rate:.1e}", pairs_per_s=f"{speed:.0f}", data_wait=f"{waiting:.0%}")
        self._losses, self._since, self._waited = [], moment, 0.0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to ``log.jsonl`` and tell the loggers."""
        if self._processes.rank:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for logger in self._loggers:
            logger.log(step, values)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out of the speed what happens inside, such as saving and scoring."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started
