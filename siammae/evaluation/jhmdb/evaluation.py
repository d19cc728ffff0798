"""JHMDB, human joints in video: follow the joints of the first frame, score PCK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siammae.annotations.keypoints import read_tracks, write_tracks
from siammae.config import PropagationConfig
from siammae.errors import DatasetError
from siammae.evaluation.jhmdb.layout import JOINTS, JhmdbClip, JhmdbLayout
from siammae.evaluation.results import EvaluationResult
from siammae.evaluation.runs import ticking
from siammae.evaluation.scoring import Job, Ready, evaluate
from siammae.features import FeatureExtractor
from siammae.frames import read_frames
from siammae.metrics import pck
from siammae.parallel.processes import Tick
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import recommended_config
from siammae.propagation.keypoint_propagator import FrameKeypoints, KeypointPropagator

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
INVISIBLE = -1.0  # both coordinates of a joint that is not followed


def evaluate_jhmdb(
    model: FeatureExtractor,
    root: str | PathLike[str],
    *,
    split: str = "split1",
    config: PropagationConfig | None = None,
    clips: Sequence[str] | None = None,
    output_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    count_first_frame: bool = False,
    zero_is_visible: bool = True,
    kernels: Kernels = "auto",
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Follow the 15 joints of every test clip's first frame and score PCK as videowalk and CropMAE do.

    A joint is correct at ``a`` if its distance from the annotation is at most ``a * 0.6`` times the diagonal of the
    frame's box around the annotated joints that are predicted visible. PCK is the part of correct joints, for each
    joint over all clips and frames, then the mean of the 15. Joints that are predicted invisible, that is at x < 0,
    are left out and not counted as wrong; ``details["invisible"]`` says how many were.

    Joints that lie outside the first frame are not followed: they are invisible in the whole clip, at (-1, -1) with
    confidence 0. The public codes do the same to joints whose label falls off the patch grid; up to about a patch
    outside, a part of the label still falls on their grid.

    Args:
        model: what makes the features.
        root: the folder that holds Rename_Images, joint_positions and splits.
        split: ``"split1"``, ``"split2"`` or ``"split3"``; the clips with a 2 in ``splits/<action>_test_<split>.txt``.
        config: of the propagation; None takes the model's own recommendation, or else the defaults. The public rules
            are ``PropagationConfig.preset("siammae", dataset="jhmdb")``.
        clips: ``<action>/<clip>`` out of the split; None takes all of them.
        output_dir: gets ``<action>/<clip>.csv`` with the columns frame, name, x, y, confidence, and a
            ``config.json``. Files appear whole, so a run that was cut short goes on from there. At the end the scores
            join them, ``scores.json`` and ``scores.md``. None keeps nothing.
        count_first_frame: score the given first frame too, as VFS does.
        zero_is_visible: a joint predicted at x = 0 is visible; VFS takes it as invisible.
        overwrite: whether results of another run in ``output_dir`` are deleted.
        kernels: see :func:`siammae.topk_affinity`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames.

    Returns:
        In percent ``PCK@0.1`` to ``PCK@0.5``, of the split and of each clip; ``details["per_joint"]`` holds the
        split's row of every joint that was counted.

    Raises:
        DatasetError: ``root`` is not in the official layout; the message names the first path that is missing.
        ImportError: scipy, which reads the annotations, is not installed.
        ValueError: an unknown clip, or ``output_dir`` holds results of another run.
        WorkerError: a worker process failed; the message names the clip.
        KernelUnavailableError: see :func:`siammae.topk_affinity`.

    Source:
        Jhuang et al. 2013; videowalk, code/eval/eval_pck.py; CropMAE, downstreams/propagation.
    """
    benchmark = Jhmdb(
        root, split=split, clips=clips, count_first_frame=count_first_frame, zero_is_visible=zero_is_visible
    )
    output = None if output_dir is None else Path(output_dir)
    job = Job(
        model=model, config=config or recommended_config(model), kernels=kernels, output=output, overwrite=overwrite
    )
    return evaluate(benchmark, [job], workers=workers, progress=progress)[0][0]


def score_jhmdb(
    results_dir: str | PathLike[str],
    root: str | PathLike[str],
    *,
    split: str = "split1",
    clips: Sequence[str] | None = None,
    count_first_frame: bool = False,
    zero_is_visible: bool = True,
    workers: int = 1,
    progress: bool = False,
) -> EvaluationResult:
    """Score ready results of any program; the rules are those of :func:`evaluate_jhmdb`.

    Args:
        results_dir: holds ``<action>/<clip>.csv`` as ``siammae track`` writes them: the columns frame (from 0), name,
            x, y (pixels; the centre of the top left pixel is 0, 0) and one line for each joint in each frame, first
            frames included, in any order. The names are those of ``siammae.evaluation.jhmdb.layout.JOINTS``; a
            negative x says that the joint is not visible. Other columns are not read.
        root: see :func:`evaluate_jhmdb`.
        split: see :func:`evaluate_jhmdb`.
        clips: see :func:`evaluate_jhmdb`.
        count_first_frame: see :func:`evaluate_jhmdb`.
        zero_is_visible: see :func:`evaluate_jhmdb`.
        workers: see :func:`evaluate_davis`.
        progress: show a bar over all frames.

    Returns:
        As :func:`evaluate_jhmdb`, with ``config`` None.

    Raises:
        DatasetError: ``root`` is not in the official layout, or a result is missing; the message names the first one.
        ImportError: scipy, which reads the annotations, is not installed.
        ValueError: an unknown clip, or a result is not in the form above; the message names the line.
        WorkerError: see :func:`evaluate_jhmdb`.

    Source:
        See :func:`evaluate_jhmdb`.
    """
    benchmark = Jhmdb(
        root, split=split, clips=clips, count_first_frame=count_first_frame, zero_is_visible=zero_is_visible
    )
    return evaluate(benchmark, [Ready(Path(results_dir))], workers=workers, progress=progress)[0][0]


# ---------------------------------------------------------------- predictions


def _follow(clip: JhmdbClip, propagator: KeypointPropagator) -> Iterator[FrameKeypoints]:
    """Yield the 15 joints of every frame; those outside the first frame stay invisible."""
    followed = np.zeros(len(JOINTS), bool)
    for index, path in enumerate(clip.frames):
        frame = next(read_frames(path))
        if index == 0:
            edges = np.array([frame.shape[1], frame.shape[0]]) - 0.5
            followed = ((clip.truth[0] >= -0.5) & (clip.truth[0] <= edges)).all(axis=1)  # (15,)
        points = np.full((len(JOINTS), 2), INVISIBLE, np.float32)
        confidence = np.zeros(len(JOINTS), np.float32)
        if followed.any():
            given = clip.truth[0][followed] if index == 0 else None
            points[followed], confidence[followed] = propagator.step(frame, keypoints=given)
        yield FrameKeypoints(points, confidence)


# ---------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class _Rules:
    """Which predicted joints count."""

    count_first_frame: bool
    zero_is_visible: bool

    def judge(self, prediction: NDArray[np.float32], truth: NDArray[np.float64]) -> _Judged:
        """Put the joints of one clip ``(T, 15, 2)`` beside what decides about them."""
        x = prediction[..., 0]
        visible = x >= 0 if self.zero_is_visible else x > 0  # (T, 15)
        counted = visible.copy()
        counted[0] &= self.count_first_frame
        return _Judged(prediction.astype(np.float64), truth, _body_size(truth, visible), counted)


class _Judged(NamedTuple):
    """Joints of one clip and what decides about them."""

    prediction: NDArray[np.float64]  # (T, 15, 2)
    truth: NDArray[np.float64]  # (T, 15, 2)
    size: NDArray[np.float64]  # (T,)
    counted: NDArray[np.bool_]  # (T, 15)


def _joint_scores(clips: Iterable[_Judged]) -> NDArray[np.float64]:
    """Return each joint's PCK at each alpha in percent, ``(15, 5)``; nan for a joint that is never counted."""
    mine, true, size, counted = (np.concatenate(parts) for parts in zip(*clips, strict=True))
    joints = [(mine[:, i], true[:, i], counted[:, i]) for i in range(len(JOINTS))]
    return 100 * np.array([[pck(m, t, scale=size, alpha=a, visible=c) for a in ALPHAS] for m, t, c in joints])


def _body_size(truth: NDArray[np.float64], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 0.6 times the diagonal of each frame's box around the annotated joints that are predicted visible."""
    shown = visible[..., None]
    extent = np.where(shown, truth, -np.inf).max(axis=1) - np.where(shown, truth, np.inf).min(axis=1)  # (T, 2)
    diagonal = np.linalg.norm(np.maximum(extent, 0), axis=1)  # no joint at all leaves -inf
    # A single joint makes no box: as in the source, only an exact hit could count.
    return np.asarray(np.maximum(0.6 * diagonal, np.finfo(np.float64).tiny), np.float64)


class Jhmdb:
    """The data set as :func:`evaluate_jhmdb` describes it.

    Attributes:
        videos: the selected clips.
        source: what predictions depend on besides model and rules.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        split: str = "split1",
        clips: Sequence[str] | None = None,
        count_first_frame: bool = False,
        zero_is_visible: bool = True,
    ) -> None:
        self._rules = _Rules(count_first_frame, zero_is_visible)
        self.videos = JhmdbLayout(Path(root), split).clips(clips)
        self.source = {"dataset": "JHMDB"}
        self._split = split

    def place(self, video: JhmdbClip) -> str:
        """Return the file of a clip's results."""
        return f"{video.name}.csv"

    def paths(self, folder: Path, video: JhmdbClip) -> list[Path]:
        """Return that file."""
        path = folder / self.place(video)
        if not path.is_file():
            raise DatasetError(f"no {path}: results need a CSV for every clip.")
        return [path]

    def follow(self, video: JhmdbClip, job: Job, tick: Tick) -> _Judged:
        """Predict and judge the joints of a clip."""
        propagator = KeypointPropagator(job.model, job.config, kernels=job.kernels)
        predictions = ticking(_follow(video, propagator), tick)
        if job.output is None:
            return self._rules.judge(np.stack([points for points, _ in predictions]), video.truth)
        path = job.output / self.place(video)
        if not path.is_file():
            write_tracks(path, JOINTS, predictions)
        return self.read(video, job.output, tick)

    def read(self, video: JhmdbClip, folder: Path, tick: Tick) -> _Judged:
        """Judge a clip's ready results."""
        return self._rules.judge(read_tracks(self.paths(folder, video)[0], JOINTS, len(video.frames)), video.truth)

    def results(
        self, scores: Mapping[str, _Judged], config: PropagationConfig | None, details: Mapping[str, Any]
    ) -> list[EvaluationResult]:
        """Sum up the joints of all clips."""
        joints = _joint_scores(scores.values())
        counted = sum(int(part.counted.sum()) for part in scores.values())
        frames = sum(len(clip.frames) - (not self._rules.count_first_frame) for clip in self.videos)
        result = EvaluationResult(
            dataset="JHMDB",
            scores=_mean(joints),
            per_video={name: _mean(_joint_scores([part])) for name, part in scores.items()},
            config=config,
            details={
                "split": self._split,
                "count_first_frame": self._rules.count_first_frame,
                "zero_is_visible": self._rules.zero_is_visible,
                **details,
                "counted": counted,
                "invisible": len(JOINTS) * frames - counted,
                "per_joint": {
                    joint: _named(row) for joint, row in zip(JOINTS, joints, strict=True) if not np.isnan(row).any()
                },
            },
        )
        return [result]


def _mean(joints: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over the joints that are counted, from ``(15, 5)``; nan where none is."""
    kept = joints[~np.isnan(joints).any(axis=1)]
    return _named(kept.mean(axis=0) if len(kept) else np.full(len(ALPHAS), np.nan))


def _named(row: NDArray[np.float64]) -> dict[str, float]:
    return {f"PCK@{alpha}": float(value) for alpha, value in zip(ALPHAS, row, strict=True)}
