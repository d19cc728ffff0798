"""DAVIS 2016 and 2017, semi-supervised: follow the objects of the first annotation, score J and F of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siammae.config import PropagationConfig
from siammae.errors import DatasetError
from siammae.evaluation.davis.layout import DavisLayout, DavisSequence
from siammae.evaluation.results import EvaluationResult
from siammae.evaluation.runs import follow_masks, ticking, write_masks
from siammae.evaluation.scoring import Job, Ready, evaluate
from siammae.features import FeatureExtractor
from siammae.metrics import boundary_measure, region_similarity, statistics
from siammae.parallel.processes import Tick
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import recommended_config
from siammae.propagation.labels import FrameMasks, resize_nearest
from siammae.propagation.propagator import Propagator

Size = tuple[int, int]
ScoreAt = Literal["native"] | Size


def evaluate_davis(
    model: FeatureExtractor,
    root: str | PathLike[str],
    *,
    year: Literal[2016, 2017] = 2017,
    split: str = "val",
    resolution: str = "480p",
    config: PropagationConfig | None = None,
    sequences: Sequence[str] | None = None,
    score_at: ScoreAt = "native",
    output_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Follow the first annotation of every sequence and score J&F as the official tools do.

    Every object of the first annotation is scored on all frames but the first and the last. J and F are means over an
    object's frames, then over the objects of all sequences; J&F is the mean of the two. Void pixels of the
    annotation are background. In 2016 every non-zero pixel belongs to the one object; 2017 has ids.

    Args:
        model: what makes the features.
        root: the folder that holds JPEGImages, Annotations and ImageSets.
        year: the data set.
        split: name of the list in ``ImageSets/<year>``, without ``.txt``.
        resolution: folder inside JPEGImages and Annotations.
        config: of the propagation; None takes the model's own recommendation, or else the defaults.
        sequences: names out of the split; None takes all of them.
        score_at: the size of the scored masks: ``"native"`` = the annotations', as the official tools have it, or
            ``(H, W)``: masks are rendered at that size and the annotations brought there by nearest neighbour.
            ``(480, 880)`` is that of CropMAE, RSP and most work after SiamMAE. It enlarges F: a boundary may be 9
            pixels off there and 8 at 480 x 854.
        output_dir: gets ``<sequence>/00000.png ...`` at the frames' size, which the official tools read, and a
            ``config.json``; with a size in ``score_at`` also ``480x880/<sequence>/...`` (or what it is) at that size.
            Sequences appear whole, so a run that was cut short goes on from there. At the end the scores join them:
            ``scores.json``, ``scores.md`` and the official tool's ``global_results-<split>.csv`` and
            ``per-sequence_results-<split>.csv``. None keeps nothing.
        overwrite: whether results of another run in ``output_dir`` are deleted.
        kernels: see :func:`siammae.topk_affinity`.
        workers: processes of one thread each that share the sequences; they need the model to be picklable. Under
            torchrun every process takes its share of the sequences too, and all return the whole.
        progress: show a bar over all frames.

    Returns:
        In percent: ``J&F``, ``J``, ``F`` and ``J-Recall``, ``J-Decay``, ``F-Recall``, ``F-Decay``, of the split and,
        as the mean over its objects, of each sequence; ``details["per_object"]`` holds every ``<sequence>_<id>``.

    Raises:
        DatasetError: ``root`` is not in the official layout; the message names the first path that is missing.
        ValueError: an unknown year or sequence, a ``score_at`` out of range, or ``output_dir`` holds results of another
            run.
        WorkerError: a worker process failed; the message names the sequence.
        KernelUnavailableError: see :func:`siammae.topk_affinity`.

    Source:
        Pont-Tuset et al. 2017; davis2017-evaluation, davis2017/evaluation.py and davis.py, task semi-supervised.
    """
    benchmark = Davis(root, year=year, split=split, resolution=resolution, sequences=sequences, score_at=(score_at,))
    output = None if output_dir is None else Path(output_dir)
    job = Job(
        model=model, config=config or recommended_config(model), kernels=kernels, output=output, overwrite=overwrite
    )
    return evaluate(benchmark, [job], workers=workers, progress=progress)[0][0]


def score_davis(
    results_dir: str | PathLike[str],
    root: str | PathLike[str],
    *,
    year: Literal[2016, 2017] = 2017,
    split: str = "val",
    resolution: str = "480p",
    sequences: Sequence[str] | None = None,
    score_at: ScoreAt = "native",
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Score ready results of any program; the rules are those of :func:`evaluate_davis`.

    Args:
        results_dir: holds ``<sequence>/00000.png ...``, one id map for each annotation, of its size or, where that is
            given, of the size in ``score_at``; the first and last are not read. In 2016 every non-zero pixel is the
            object.
        root: see :func:`evaluate_davis`.
        year: see :func:`evaluate_davis`.
        split: see :func:`evaluate_davis`.
        resolution: see :func:`evaluate_davis`.
        sequences: see :func:`evaluate_davis`.
        score_at: see :func:`evaluate_davis`; results of the annotations' size get there by nearest neighbour.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames.

    Returns:
        As :func:`evaluate_davis`, with ``config`` None.

    Raises:
        DatasetError: ``root`` is not in the official layout, or a result is missing; the message names the first one.
        ValueError: an unknown year or sequence, a ``score_at`` out of range; a result has neither its annotation's size
            nor that, or ids that the first annotation lacks.
        WorkerError: see :func:`evaluate_davis`.

    Source:
        See :func:`evaluate_davis`.
    """
    benchmark = Davis(root, year=year, split=split, resolution=resolution, sequences=sequences, score_at=(score_at,))
    return evaluate(benchmark, [Ready(Path(results_dir))], workers=workers, progress=progress)[0][0]


class Davis:
    """The data set as :func:`evaluate_davis` describes it, scored at one or more sizes.

    Attributes:
        videos: the selected sequences.
        source: what predictions depend on besides model and rules.
        sizes: of the scored masks; None is each annotation's own.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        year: Literal[2016, 2017] = 2017,
        split: str = "val",
        resolution: str = "480p",
        sequences: Sequence[str] | None = None,
        score_at: Sequence[ScoreAt] = ("native",),
    ) -> None:
        layout = DavisLayout(Path(root), year, split, resolution)
        self.sizes = [_score_size(size) for size in score_at]
        self.videos = layout.sequences(sequences)
        self.source = {"dataset": f"DAVIS-{year}", "resolution": resolution}
        self._details = {"year": year, "split": split, "resolution": resolution}

    def place(self, video: DavisSequence) -> str:
        """Return the folder of a sequence's results."""
        return video.name

    def paths(self, folder: Path, video: DavisSequence) -> list[Path]:
        """Return the results that are scored: of every frame but the first and the last."""
        paths = [folder / video.name / annotation.name for annotation in video.annotations[1:-1]]
        for path in paths:
            if not path.is_file():
                raise DatasetError(f"no {path}: results need a PNG for every annotation but the first and the last.")
        return paths

    def follow(self, video: DavisSequence, job: Job, tick: Tick) -> _Scores:
        """Predict and score a sequence."""
        propagator = Propagator(job.model, job.config, kernels=job.kernels)
        frames = ticking(follow_masks(video.frames, video.truth(0), propagator), tick)
        if job.output is None:
            last = len(video.frames) - 1
            scored = (masks for index, masks in enumerate(frames) if 0 < index < last)
            return self._score(video, ([_rendered(masks, size) for size in self.sizes] for masks in scored))
        folders = {size: job.output / _size_name(size) for size in (None, *self.sizes)}
        if missing := [size for size, folder in folders.items() if not (folder / video.name).is_dir()]:
            names = (path.name for path in video.annotations)
            renderings = ([_rendered(masks, size) for size in missing] for masks in frames)
            write_masks([folders[size] / video.name for size in missing], names, renderings)
        return self._read(video, [folders[size] for size in self.sizes], lambda: None)

    def read(self, video: DavisSequence, folder: Path, tick: Tick) -> _Scores:
        """Score a sequence's ready results."""
        return self._read(video, [folder] * len(self.sizes), tick)

    def results(
        self, scores: Mapping[str, _Scores], config: PropagationConfig | None, details: Mapping[str, Any]
    ) -> list[EvaluationResult]:
        """Sum up the scores of all sequences, once for each size."""
        return [self._result(i, scores, config, details) for i in range(len(self.sizes))]

    def _result(
        self, index: int, scores: Mapping[str, _Scores], config: PropagationConfig | None, details: Mapping[str, Any]
    ) -> EvaluationResult:
        size = self.sizes[index]
        objects = {name: [_object_scores(o) for o in np.moveaxis(at[index], 1, 0)] for name, at in scores.items()}
        return EvaluationResult(
            dataset=self.source["dataset"] + (f" at {_size_name(size)}" if size else ""),
            scores=_mean([row for rows in objects.values() for row in rows]),
            per_video={name: _mean(rows) for name, rows in objects.items()},
            config=config,
            details={
                **self._details,
                "score_at": list(size) if size else "native",
                **details,
                "per_object": {f"{n}_{i}": row for n, rows in objects.items() for i, row in enumerate(rows, start=1)},
            },
        )

    def _read(self, video: DavisSequence, folders: Sequence[Path], tick: Tick) -> _Scores:
        frames = zip(*(self.paths(folder, video) for folder in folders), strict=True)
        return self._score(video, ticking(([video.result(path) for path in paths] for paths in frames), tick))

    def _score(self, video: DavisSequence, frames: Iterable[Sequence[NDArray[np.uint8]]]) -> _Scores:
        """Score label maps, one for each size, of the frames between the first and the last."""
        count = video.object_count()
        scored = range(1, len(video.annotations) - 1)
        values = [
            [_score_frame(video, i, labels, count, size) for labels, size in zip(maps, self.sizes, strict=True)]
            for i, maps in zip(scored, frames, strict=True)
        ]
        return [np.stack(at) for at in zip(*values, strict=True)]


_Scores = list[NDArray[np.float64]]  # for each size J and F of every frame and object, (frames, objects, 2)


def _score_size(score_at: ScoreAt) -> Size | None:
    """Return the size of the scored masks; None is each annotation's own."""
    if score_at == "native":
        return None
    sides: object = score_at  # whatever a caller without types passes
    if not (isinstance(sides, tuple) and len(sides) == 2 and min(sides) >= 1):
        raise ValueError(f"score_at is {score_at!r}: it must be 'native' or (H, W), each at least 1.")
    return score_at


def _size_name(size: Size | None) -> str:
    return f"{size[0]}x{size[1]}" if size else ""


def _rendered(masks: FrameMasks, size: Size | None) -> NDArray[np.uint8]:
    return masks.label_map() if size is None else masks.label_map(size)


def _score_frame(
    sequence: DavisSequence, index: int, labels: NDArray[np.uint8], count: int, size: Size | None
) -> NDArray[np.float64]:
    """Return J and F of every object in one frame, ``(objects, 2)``."""
    truth, place = sequence.truth(index), f"{sequence.name}/{sequence.annotations[index].name}"
    if labels.shape not in (truth.shape, size):
        wanted = f"sizes must agree{f', or the result have that of score_at, {size}' if size else ''}."
        raise ValueError(f"{place}: the result is {labels.shape} but the annotation is {truth.shape}: {wanted}")
    if labels.max() > count:
        raise ValueError(f"{place}: the result has id {labels.max()}, the first annotation's largest is {count}.")
    if size is not None:
        labels, truth = resize_nearest(labels, size), resize_nearest(truth, size)
    masks = [(labels == i, truth == i) for i in range(1, count + 1)]
    return np.array([(region_similarity(mine, true), boundary_measure(mine, true)) for mine, true in masks])


def _object_scores(values: NDArray[np.float64]) -> dict[str, float]:
    """Sum up one object's J and F over its frames ``(T, 2)``, in percent."""
    j, f = statistics(values[:, 0]), statistics(values[:, 1])
    scores = {"J&F": (j.mean + f.mean) / 2, "J": j.mean, "F": f.mean}
    scores |= {"J-Recall": j.recall, "J-Decay": j.decay, "F-Recall": f.recall, "F-Decay": f.decay}
    return {name: 100 * score for name, score in scores.items()}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
