"""A search over rules of propagation that chooses on some videos and reports on others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

from siammae.config import PropagationConfig
from siammae.evaluation.comparison import Dataset, make_benchmark
from siammae.evaluation.results import EvaluationResult, aligned, percent, write_json
from siammae.evaluation.scoring import Job, evaluate
from siammae.features import FeatureExtractor
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import recommended_config


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a search found.

    Attributes:
        trials: the scores of every combination on the videos to choose on, best first; equals stay in the grid's
            order.
        changes: for each trial the fields that were set.
        base: the rules that were changed, on the videos to report on.
        best: the best combination there: the one number that was not tuned on.
        seconds: of the whole run.
    """

    trials: tuple[EvaluationResult, ...]
    changes: tuple[Mapping[str, Any], ...]
    base: EvaluationResult
    best: EvaluationResult
    seconds: float

    @property
    def config(self) -> PropagationConfig:
        """The best rules."""
        found = self.best.config
        return found if found is not None else PropagationConfig()

    def table(self) -> str:
        """Return one line for each trial, then what the best and the unchanged rules reach on the other videos."""
        score = next(iter(self.best.scores))
        fields = list(self.changes[0])
        lines = [[*fields, f"{score} to choose"]]
        for trial, changes in zip(self.trials, self.changes, strict=True):
            lines.append([*(str(changes[name]) for name in fields), percent(trial.scores[score])])
        header, *rows = aligned(lines, left=0)
        reported = [
            f"{score} on the other videos: {percent(self.best.scores[score])} with the best rules, "
            f"{percent(self.base.scores[score])} with the unchanged ones"
        ]
        return "\n".join([header, "-" * len(header), *rows, "", *reported])

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything as JSON; the file appears whole or not at all."""
        trials = [
            {"changes": dict(changes), "result": trial.to_dict()}
            for trial, changes in zip(self.trials, self.changes, strict=True)
        ]
        values = {"best": self.best.to_dict(), "base": self.base.to_dict(), "trials": trials, "seconds": self.seconds}
        write_json(Path(path), values)


def sweep(
    dataset: Dataset,
    root: str | PathLike[str],
    model: FeatureExtractor,
    grid: Mapping[str, Sequence[Any]],
    *,
    choose: Mapping[str, Any],
    report: Mapping[str, Any],
    config: PropagationConfig | None = None,
    allow_overlap: bool = False,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
    **rules: Any,  # noqa: ANN401 -- the data sets' own
) -> Sweep:
    """Try every combination of a grid on some videos, and report the best one on others.

    Rules that were chosen on the very videos they are reported on score higher than they will on new ones, so a video
    must not be in both lists. Features are made once a video, see :class:`FeatureCache`. The first score of the data
    set decides: J&F, mIoU or PCK@0.1; of equals the one that comes first in the grid.

    Args:
        dataset: ``"davis"``, ``"vip"`` or ``"jhmdb"``.
        root: its folder, see :func:`evaluate_davis` and the others.
        model: what makes the features.
        grid: values to try of fields of :class:`PropagationConfig`, such as ``{"top_k": (5, 7, 10)}``.
        choose: which videos to choose on, as arguments of the data set: ``{"split": "train"}``,
            ``{"sequences": ["bear", "dog"]}``.
        report: which videos to report on, in the same way.
        config: the rules that the grid changes; None takes the model's own recommendation, or else the defaults.
        allow_overlap: report on videos that were chosen on, all the same.
        kernels: see :func:`siammae.topk_affinity`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames of all trials.
        **rules: further arguments of the data set, for both.

    Returns:
        All trials, and the best and the unchanged rules on the other videos.

    Raises:
        ValueError: the grid is empty or has a value out of range, a video is in both lists, or what the data set
            refuses.
        DatasetError: see :func:`evaluate_davis`.
        WorkerError: see :func:`evaluate_davis`.
    """
    started = time.perf_counter()
    base = config or recommended_config(model)
    changes = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not grid or not changes:
        raise ValueError(f"grid is {dict(grid)}: give at least one field with at least one value.")
    configs = [base.replace(**change) for change in changes]  # a value out of range is refused before the first video
    training, held_out = (make_benchmark(dataset, root, **{**rules, **part}) for part in (choose, report))
    both = sorted({video.name for video in training.videos} & {video.name for video in held_out.videos})
    if both and not allow_overlap:
        raise ValueError(
            f"{len(both)} videos are in both lists, {both[0]} among them: rules must not be reported on videos they "
            "were chosen on. Name other videos, or pass allow_overlap=True (--allow-overlap) to report a tuned score."
        )

    def score(benchmark: Any, rows: Sequence[PropagationConfig]) -> list[EvaluationResult]:  # noqa: ANN401
        jobs = [Job(model=model, config=row, kernels=kernels) for row in rows]
        return [results[0] for results in evaluate(benchmark, jobs, workers=workers, progress=progress)]

    trials = score(training, configs)
    main = next(iter(trials[0].scores))
    order = sorted(range(len(trials)), key=lambda i: -trials[i].scores[main])  # stable: equals keep the grid's order
    best, unchanged = score(held_out, [configs[order[0]], base])
    return Sweep(
        tuple(trials[i] for i in order),
        tuple(changes[i] for i in order),
        unchanged,
        best,
        round(time.perf_counter() - started, 3),
    )
