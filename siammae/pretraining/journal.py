"""What a run writes down about itself."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from siammae.config import PretrainConfig

_LOG_EVERY = 10  # steps


class Log:
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
