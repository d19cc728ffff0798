"""JHMDB, human joints in video: follow the joints of the first frame, score PCK."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siammae.affinity import Kernels
from siammae.config import PropagationConfig
from siammae.context import recommended_config
from siammae.errors import DatasetError
from siammae.evaluation.results import EvaluationResult, claim_folder, model_name
from siammae.evaluation.runs import Tick, Tree, choose, score_each, ticking
from siammae.evaluation.tracks import read_tracks, write_tracks
from siammae.features import FeatureExtractor
from siammae.frames import read_frames
from siammae.metrics import pck
from siammae.propagator import FrameKeypoints, KeypointPropagator

JOINTS = (
    *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow"),
    *("left elbow", "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle"),
)
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
INVISIBLE = -1.0  # both coordinates of a joint that is not followed
_TREE = """\
{root}
├── Rename_Images/<action>/<clip>/00001.png ...
├── joint_positions/<action>/<clip>/joint_positions.mat
└── splits/<action>_test_{split}.txt"""


def evaluate_jhmdb(
    model: FeatureExtractor,
    root: str | PathLike[str],
    *,
    split: str = "split1",
    config: PropagationConfig | None = None,
    clips: Sequence[str] | None = None,
    output_dir: str | PathLike[str] | None = None,
    count_first_frame: bool = False,
    zero_is_visible: bool = True,
    kernels: Kernels = "auto",
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
            ``config.json``. Files appear whole, so a run that was cut short goes on from there. None keeps nothing.
        count_first_frame: score the given first frame too, as VFS does.
        zero_is_visible: a joint predicted at x = 0 is visible; VFS takes it as invisible.
        kernels: see :func:`siammae.topk_affinity`.
        progress: show a bar over all frames.

    Returns:
        In percent ``PCK@0.1`` to ``PCK@0.5``, of the split and of each clip; ``details["per_joint"]`` holds the
        split's row of every joint that was counted.

    Raises:
        DatasetError: ``root`` is not in the official layout; the message names the first path that is missing.
        ImportError: scipy, which reads the annotations, is not installed.
        ValueError: an unknown clip, or ``output_dir`` holds results of another run.
        KernelUnavailableError: see :func:`siammae.topk_affinity`.

    Source:
        Jhuang et al. 2013; videowalk, code/eval/eval_pck.py; CropMAE, downstreams/propagation.
    """
    layout = _Layout(Path(root), split)
    selected = layout.clips(clips)
    config = config or recommended_config(model)
    output = None if output_dir is None else Path(output_dir)
    if output is not None:
        claim_folder(output, model, config, {"dataset": "JHMDB"}, [f"{clip.name}.csv" for clip in selected])

    def predict(clip: _Clip, tick: Tick) -> NDArray[np.float32]:
        predictions = ticking(_follow(clip, KeypointPropagator(model, config, kernels=kernels)), tick)
        if output is None:
            return np.stack([points for points, _ in predictions])
        path = output / f"{clip.name}.csv"
        if not path.is_file():
            write_tracks(path, JOINTS, predictions)
        return read_tracks(path, JOINTS, len(clip.frames))

    rules = _Rules(count_first_frame, zero_is_visible)
    details = {"model": model_name(model)}
    return _evaluate(layout, selected, predict, rules=rules, config=config, progress=progress, details=details)


def score_jhmdb(
    results_dir: str | PathLike[str],
    root: str | PathLike[str],
    *,
    split: str = "split1",
    clips: Sequence[str] | None = None,
    count_first_frame: bool = False,
    zero_is_visible: bool = True,
    progress: bool = False,
) -> EvaluationResult:
    """Score ready results of any program; the rules are those of :func:`evaluate_jhmdb`.

    Args:
        results_dir: holds ``<action>/<clip>.csv`` as ``siammae track`` writes them: the columns frame (from 0), name,
            x, y (pixels; the centre of the top left pixel is 0, 0) and one line for each joint in each frame, first
            frames included, in any order. The names are those of ``siammae.evaluation.jhmdb.JOINTS``; a negative x
            says that the joint is not visible. Other columns are not read.
        root: see :func:`evaluate_jhmdb`.
        split: see :func:`evaluate_jhmdb`.
        clips: see :func:`evaluate_jhmdb`.
        count_first_frame: see :func:`evaluate_jhmdb`.
        zero_is_visible: see :func:`evaluate_jhmdb`.
        progress: show a bar over all frames.

    Returns:
        As :func:`evaluate_jhmdb`, with ``config`` None.

    Raises:
        DatasetError: ``root`` is not in the official layout, or a result is missing; the message names the first one.
        ImportError: scipy, which reads the annotations, is not installed.
        ValueError: an unknown clip, or a result is not in the form above; the message names the line.

    Source:
        See :func:`evaluate_jhmdb`.
    """
    layout = _Layout(Path(root), split)
    selected = layout.clips(clips)
    # All files are looked up before the first is scored: a gap shows at once.
    paths = {clip.name: _result_path(Path(results_dir), clip) for clip in selected}

    def predict(clip: _Clip, tick: Tick) -> NDArray[np.float32]:
        return read_tracks(paths[clip.name], JOINTS, len(clip.frames))

    rules = _Rules(count_first_frame, zero_is_visible)
    return _evaluate(layout, selected, predict, rules=rules, config=None, progress=progress, details={})


# ---------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True, eq=False)
class _Clip:
    """One video of the data set, all of whose files are there."""

    name: str
    frames: tuple[Path, ...]
    truth: NDArray[np.float64]  # (T, 15, 2) x, y; pixel (0, 0) has its centre at 0.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the official archives put their files."""

    root: Path
    split: str

    def clips(self, wanted: Sequence[str] | None) -> list[_Clip]:
        """Find the wanted clips, or all test clips of the split."""
        ending = f"_test_{self.split}.txt"
        lists = sorted((self.root / "splits").glob(f"[!.]*{ending}"))
        if not lists:
            self._tree.require(self.root / "splits" / f"brush_hair{ending}")
        listed = [f"{path.name.removesuffix(ending)}/{clip}" for path in lists for clip in _test_clips(path)]
        if not listed:
            raise DatasetError(f"{lists[0].parent} lists no test clip in *{ending}. Get the official lists again.")
        return [self._clip(name) for name in choose(listed, wanted, kind="clips", split=self.split)]

    def _clip(self, name: str) -> _Clip:
        frames = self._tree.images(self.root / "Rename_Images" / name, "00001.png")
        path = self._tree.require(self.root / "joint_positions" / name / "joint_positions.mat")
        truth = _read_joints(path)
        if len(frames) < len(truth):
            raise DatasetError(
                f"{frames[0].parent} has {len(frames)} frames but {path} has {len(truth)}. Get both again."
            )
        return _Clip(name, frames[: len(truth)], truth)  # frames without annotation are not followed

    @property
    def _tree(self) -> Tree:
        return Tree("JHMDB", _TREE.format(root=self.root, split=self.split), "Rename_Images")


def _test_clips(path: Path) -> Iterator[str]:
    """Yield the test clips of one action's list."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match line.rsplit(maxsplit=1):
            case []:
                continue
            case [clip, "1" | "2" as part] if clip.endswith(".avi"):
                if part == "2":
                    yield clip.removesuffix(".avi")
            case _:
                raise DatasetError(f"{path}, line {number}: {line!r} is no '<clip>.avi 1' or '<clip>.avi 2' (test).")


def _read_joints(path: Path) -> NDArray[np.float64]:
    """Return the annotated joints ``(T, 15, 2)``; the file counts pixels from 1."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("JHMDB annotations are .mat files: pip install siammae[eval]") from error
    try:
        positions = loadmat(path, variable_names=["pos_img"]).get("pos_img", np.empty(0))
    except Exception as error:  # a damaged file ends in zlib.error, MatReadError, TypeError, ...
        raise DatasetError(f"{path} cannot be read: {error}. Get it again.") from error
    known = positions.ndim == 3 and positions.shape[:2] == (2, len(JOINTS)) and positions.shape[2] > 0
    if not (known and np.isfinite(positions).all()):
        raise DatasetError(
            f"{path} has pos_img of shape {positions.shape}: it must be (2, {len(JOINTS)}, frames), all finite."
        )
    return np.asarray(positions, np.float64).transpose(2, 1, 0) - 1


# ---------------------------------------------------------------- predictions


def _follow(clip: _Clip, propagator: KeypointPropagator) -> Iterator[FrameKeypoints]:
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


def _result_path(results: Path, clip: _Clip) -> Path:
    path = results / f"{clip.name}.csv"
    if not path.is_file():
        raise DatasetError(f"no {path}: results need a CSV for every clip.")
    return path


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


def _evaluate(
    layout: _Layout,
    clips: Sequence[_Clip],
    predict: Callable[[_Clip, Tick], NDArray[np.float32]],
    *,
    rules: _Rules,
    config: PropagationConfig | None,
    progress: bool,
    details: Mapping[str, Any],
) -> EvaluationResult:
    """Predict and score one clip after the other; ``predict`` gives the joints of all frames ``(T, 15, 2)``."""
    judged, effort = score_each(
        clips, lambda clip, tick: rules.judge(predict(clip, tick), clip.truth), progress=progress
    )
    joints = _joint_scores(judged.values())
    counted = sum(int(part.counted.sum()) for part in judged.values())
    scored_frames = effort["frames"] - (0 if rules.count_first_frame else len(clips))
    return EvaluationResult(
        dataset="JHMDB",
        scores=_mean(joints),
        per_video={name: _mean(_joint_scores([part])) for name, part in judged.items()},
        config=config,
        details={
            **details,
            "split": layout.split,
            "count_first_frame": rules.count_first_frame,
            "zero_is_visible": rules.zero_is_visible,
            **effort,
            "counted": counted,
            "invisible": len(JOINTS) * scored_frames - counted,
            "per_joint": {
                joint: _named(row) for joint, row in zip(JOINTS, joints, strict=True) if not np.isnan(row).any()
            },
        },
    )


def _mean(joints: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over the joints that are counted, from ``(15, 5)``; nan where none is."""
    kept = joints[~np.isnan(joints).any(axis=1)]
    return _named(kept.mean(axis=0) if len(kept) else np.full(len(ALPHAS), np.nan))


def _named(row: NDArray[np.float64]) -> dict[str, float]:
    return {f"PCK@{alpha}": float(value) for alpha, value in zip(ALPHAS, row, strict=True)}
