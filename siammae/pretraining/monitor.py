"""Looks at the network while it learns: pictures of what it predicts, and scores of its features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from siammae.config import PretrainConfig, PropagationConfig
from siammae.distributed import Processes
from siammae.evaluation import evaluate_davis
from siammae.evaluation.comparison import make_benchmark
from siammae.frames import write_image
from siammae.network.model import SiamMAE
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.learner import Learner
from siammae.pretraining.loggers import Logger
from siammae.pretraining.run_log import RunLog
from siammae.visualize.reconstruction import reconstruct_pairs

PICTURES_FOLDER = "pictures"
_SHOWN_PAIRS = 4
_PROBE_SCORES = ("J&F", "J", "F")


class Monitor:
    """Draws a picture and scores the features every so many steps; both are made by a copy, so training is undisturbed.

    Args:
        config: of the run; says what to look at and when.
        processes: the processes that train together; they share the videos of the probe.
        stream: gives the pairs of the pictures: always the same, the first ones of the run.
        run_log: gets the scores.
        loggers: get the pictures, besides ``output_dir/pictures``.

    Raises:
        DatasetError: ``config.probe`` is not in DAVIS's layout.
    """

    def __init__(
        self,
        config: PretrainConfig,
        processes: Processes,
        stream: VideoPairs,
        run_log: RunLog,
        loggers: Sequence[Logger],
    ) -> None:
        self._config, self._processes, self._stream = config, processes, stream
        self._run_log, self._loggers = run_log, loggers
        self._pairs: Tensor | None = None
        if config.probe is not None:  # refused now, and not after hours
            make_benchmark("davis", config.probe, year=config.probe_year, split=config.probe_split)

    def look(self, step: int, learner: Learner) -> None:
        """Look at the network after ``step`` steps, where it is time."""
        config = self._config
        drawing = config.picture_every > 0 and step % config.picture_every == 0
        scoring = config.probe is not None and step % config.probe_every == 0
        if not drawing and not scoring:
            return
        with self._run_log.aside():
            copies = learner.copies()
            if drawing and self._processes.rank == 0:
                self._draw(step, copies["model"])
            if scoring:
                self._score(step, copies.get("model_ema", copies["model"]))

    def _draw(self, step: int, model: SiamMAE) -> None:
        """Draw what the copy predicts of a few pairs that are the same all the time, under the same masks."""
        if self._pairs is None:
            firsts = [self._stream[position].frames[:1] for position in range(_SHOWN_PAIRS)]
            self._pairs = torch.cat(firsts)  # (B, 2, 3, S, S)
        pairs = self._pairs if self._config.predict == "future" else self._pairs.flip(1)
        shown = reconstruct_pairs(model, pairs[:, 0], pairs[:, 1], mask_ratio=self._config.mask_ratio)
        image = shown.strip()
        folder = Path(self._config.output_dir) / PICTURES_FOLDER
        folder.mkdir(exist_ok=True)
        write_image(folder / f"step-{step:08d}.png", image)
        for logger in self._loggers:
            logger.picture(step, "predictions", image)

    def _score(self, step: int, model: SiamMAE) -> None:
        """Write down J&F of the copy's features; every process takes its share of the videos."""
        config = self._config
        year: Literal[2016, 2017] = 2016 if config.probe_year == 2016 else 2017
        rules = PropagationConfig(resize=config.probe_side)
        result = evaluate_davis(model, config.probe or "", year=year, split=config.probe_split, config=rules)
        self._run_log.write(step, {name: round(result.scores[name], 3) for name in _PROBE_SCORES})
