"""VIP, human parts in video: follow the parts of the first annotation, score mIoU over the whole split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.masks import MAX_OBJECTS, VOID, mask_ids, read_mask
from siammae.config import PropagationConfig
from siammae.errors import DatasetError
from siammae.evaluation.results import EvaluationResult
from siammae.evaluation.runs import LabelMaps, follow_masks, ticking, write_masks
from siammae.evaluation.scoring import Job, Ready, evaluate
from siammae.evaluation.vip.layout import VipLayout, VipVideo
from siammae.features import FeatureExtractor
from siammae.metrics import class_iou, confusion_matrix
from siammae.parallel.processes import Tick
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import recommended_config
from siammae.propagation.labels import resize_nearest
from siammae.propagation.propagator import Propagator


def evaluate_vip(
    model: FeatureExtractor,
    root: str | PathLike[str],
    *,
    split: str = "val",
    num_classes: int = 20,
    ignore_index: int | None = None,
    config: PropagationConfig | None = None,
    videos: Sequence[str] | None = None,
    output_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Follow the first annotation of every video and score mIoU as eval_vip.py does.

    The pixels of all frames of all videos, first frames included, are counted in one confusion matrix; mIoU is the
    mean over classes of intersection over union, background (0) included. Classes that are not in a video's first
    annotation cannot be predicted in it and are counted all the same.

    Args:
        model: what makes the features.
        root: the folder that holds Images, Annotations and lists.
        split: name of the list ``lists/<split>_videos.txt``.
        num_classes: ids are 0 to ``num_classes - 1``; at most 255.
        ignore_index: pixels annotated with this id are neither followed nor counted, and the id is no class of the
            mean. VIP has none.
        config: of the propagation; None takes the model's own recommendation, or else the defaults.
        videos: names out of the split; None takes all of them.
        output_dir: gets ``<video>/<frame>.png`` and a ``config.json``. Videos appear whole, so a run that was cut
            short goes on from there. At the end the scores join them, ``scores.json`` and ``scores.md``. None keeps
            nothing.
        overwrite: whether results of another run in ``output_dir`` are deleted.
        kernels: see :func:`siammae.topk_affinity`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames.

    Returns:
        ``mIoU`` in percent, of the split and of each video's own confusion matrix; ``details["per_class"]`` holds the
        split's IoU of every class that is annotated or predicted, by its id.

    Raises:
        DatasetError: ``root`` is not in the official layout; the message names the first path that is missing.
        ValueError: an unknown video, an annotation with ids out of range, an option out of range, or ``output_dir``
            holds results of another run.
        WorkerError: a worker process failed; the message names the video.
        KernelUnavailableError: see :func:`siammae.topk_affinity`.

    Source:
        Zhou et al. 2018 (ATEN); eval_vip.py as in TimeCycle, UVC and videowalk.
    """
    benchmark = Vip(root, split=split, num_classes=num_classes, ignore_index=ignore_index, videos=videos)
    output = None if output_dir is None else Path(output_dir)
    job = Job(
        model=model, config=config or recommended_config(model), kernels=kernels, output=output, overwrite=overwrite
    )
    return evaluate(benchmark, [job], workers=workers, progress=progress)[0][0]


def score_vip(
    results_dir: str | PathLike[str],
    root: str | PathLike[str],
    *,
    split: str = "val",
    num_classes: int = 20,
    ignore_index: int | None = None,
    videos: Sequence[str] | None = None,
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Score ready results of any program; the rules are those of :func:`evaluate_vip`.

    Args:
        results_dir: holds ``<video>/<frame>.png``, one id map for each annotation, first frames included; a map of
            another size is resized to its annotation by nearest neighbour.
        root: see :func:`evaluate_vip`.
        split: see :func:`evaluate_vip`.
        num_classes: see :func:`evaluate_vip`.
        ignore_index: see :func:`evaluate_vip`.
        videos: see :func:`evaluate_vip`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames.

    Returns:
        As :func:`evaluate_vip`, with ``config`` None.

    Raises:
        DatasetError: ``root`` is not in the official layout, or a result is missing; the message names the first one.
        ValueError: an unknown video, ids or an option out of range.
        WorkerError: see :func:`evaluate_vip`.

    Source:
        See :func:`evaluate_vip`; UVC's eval_vip.py smooths ids when it resizes, here they stay ids.
    """
    benchmark = Vip(root, split=split, num_classes=num_classes, ignore_index=ignore_index, videos=videos)
    return evaluate(benchmark, [Ready(Path(results_dir))], workers=workers, progress=progress)[0][0]


# ---------------------------------------------------------------- predictions


def _follow(video: VipVideo, first_mask: NDArray[np.uint8], propagator: Propagator) -> LabelMaps:
    """Yield the label map of every frame; where the first shows background only, all do."""
    if mask_ids(first_mask):
        return (masks.label_map() for masks in follow_masks(video.frames, first_mask, propagator))
    return (np.zeros_like(first_mask) for _ in video.frames)


# ---------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class _Rules:
    """Which ids are classes, and which pixels count."""

    num_classes: int
    ignore_index: int | None

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MAX_OBJECTS + 1:
            raise ValueError(f"num_classes is {self.num_classes}: it must be 1 to {MAX_OBJECTS + 1}.")
        if self.ignore_index is not None and not 0 <= self.ignore_index <= VOID:
            raise ValueError(f"ignore_index is {self.ignore_index}: it must be 0 to {VOID}, or None.")

    def first_mask(self, video: VipVideo) -> NDArray[np.uint8]:
        """Return the first annotation as a mask to follow: ignored pixels give no class a share."""
        labels = video.truth(0)
        return np.where(labels == self.ignore_index, np.uint8(VOID), labels)

    def confusion(self, video: VipVideo, index: int, prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Count the pixels of one frame, ``(num_classes, num_classes)``."""
        truth = video.truth(index)
        try:
            return confusion_matrix(
                resize_nearest(prediction, (truth.shape[0], truth.shape[1])), truth, self.num_classes, self.ignore_index
            )
        except ValueError as error:
            raise ValueError(
                f"{video.name}/{video.annotations[index].name}: {error} Set num_classes and ignore_index to fit."
            ) from error

    def class_scores(self, confusion: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the IoU of each class in percent, ``(num_classes,)``; nan for one that does not count."""
        scores = 100 * class_iou(confusion)
        if self.ignore_index is not None and self.ignore_index < self.num_classes:
            scores[self.ignore_index] = np.nan  # predictions of it are still errors of the annotated classes
        return scores


class Vip:
    """The data set as :func:`evaluate_vip` describes it.

    Attributes:
        videos: the selected ones.
        source: what predictions depend on besides model and rules.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        split: str = "val",
        num_classes: int = 20,
        ignore_index: int | None = None,
        videos: Sequence[str] | None = None,
    ) -> None:
        self._rules = _Rules(num_classes, ignore_index)
        self.videos = VipLayout(Path(root), split).videos(videos)
        self.source = {"dataset": "VIP", "ignore_index": str(ignore_index)}
        self._details = {"split": split, "num_classes": num_classes, "ignore_index": ignore_index}

    def place(self, video: VipVideo) -> str:
        """Return the folder of a video's results."""
        return video.name

    def paths(self, folder: Path, video: VipVideo) -> list[Path]:
        """Return the results, first frames included."""
        paths = [folder / video.name / annotation.name for annotation in video.annotations]
        for path in paths:
            if not path.is_file():
                raise DatasetError(f"no {path}: results need a PNG for every annotation.")
        return paths

    def follow(self, video: VipVideo, job: Job, tick: Tick) -> NDArray[np.int64]:
        """Predict a video and count its pixels."""
        propagator = Propagator(job.model, job.config, kernels=job.kernels)
        predictions = ticking(_follow(video, self._rules.first_mask(video), propagator), tick)
        if job.output is None:
            return self._count(video, predictions)
        if not (job.output / video.name).is_dir():
            names = (path.name for path in video.annotations)
            write_masks([job.output / video.name], names, ([labels] for labels in predictions))
        return self.read(video, job.output, lambda: None)

    def read(self, video: VipVideo, folder: Path, tick: Tick) -> NDArray[np.int64]:
        """Count the pixels of a video's ready results."""
        results = (read_mask(path, binary=False) for path in self.paths(folder, video))
        return self._count(video, ticking(results, tick))

    def results(
        self, scores: Mapping[str, NDArray[np.int64]], config: PropagationConfig | None, details: Mapping[str, Any]
    ) -> list[EvaluationResult]:
        """Add up the counts of all videos."""
        per_class = self._rules.class_scores(np.sum(list(scores.values()), axis=0))
        result = EvaluationResult(
            dataset="VIP",
            scores={"mIoU": _mean(per_class)},
            per_video={name: {"mIoU": _mean(self._rules.class_scores(count))} for name, count in scores.items()},
            config=config,
            details={
                **self._details,
                **details,
                "per_class": {str(i): float(iou) for i, iou in enumerate(per_class) if not np.isnan(iou)},
            },
        )
        return [result]

    def _count(self, video: VipVideo, predictions: LabelMaps) -> NDArray[np.int64]:
        # One label map at a time: a video's maps together are many.
        total = np.zeros((self._rules.num_classes, self._rules.num_classes), np.int64)
        for index, labels in zip(range(len(video.frames)), predictions, strict=True):
            total += self._rules.confusion(video, index, labels)
        return total


def _mean(scores: NDArray[np.float64]) -> float:
    """Mean over the classes that count; nan where none does."""
    kept = scores[~np.isnan(scores)]
    return float(kept.mean()) if kept.size else float("nan")
