"""DAVIS 2016 and 2017, semi-supervised: follow the objects of the first annotation, score J and F of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siammae.affinity import Kernels
from siammae.config import PropagationConfig
from siammae.context import recommended_config
from siammae.errors import DatasetError
from siammae.evaluation.results import EvaluationResult, claim_folder, model_name
from siammae.evaluation.runs import LabelMaps, Tick, Tree, choose, follow_masks, score_each, ticking, write_masks
from siammae.features import FeatureExtractor
from siammae.labels import FrameMasks, resize_nearest
from siammae.masks import read_mask
from siammae.metrics import boundary_measure, region_similarity, statistics
from siammae.propagator import Propagator

VOID = 255
Size = tuple[int, int]
ScoreAt = Literal["native"] | Size
_TREE = """\
{root}
├── JPEGImages/{resolution}/<sequence>/00000.jpg ...
├── Annotations/{resolution}/<sequence>/00000.png ...
└── ImageSets/{year}/{split}.txt"""


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
    kernels: Kernels = "auto",
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
            Sequences appear whole, so a run that was cut short goes on from there. None keeps nothing.
        kernels: see :func:`siammae.topk_affinity`.
        progress: show a bar over all frames.

    Returns:
        In percent: ``J&F``, ``J``, ``F`` and ``J-Recall``, ``J-Decay``, ``F-Recall``, ``F-Decay``, of the split and,
        as the mean over its objects, of each sequence; ``details["per_object"]`` holds every ``<sequence>_<id>``.

    Raises:
        DatasetError: ``root`` is not in the official layout; the message names the first path that is missing.
        ValueError: an unknown year or sequence, a ``score_at`` out of range, or ``output_dir`` holds results of another
            run.
        KernelUnavailableError: see :func:`siammae.topk_affinity`.

    Source:
        Pont-Tuset et al. 2017; davis2017-evaluation, davis2017/evaluation.py and davis.py, task semi-supervised.
    """
    layout = _Layout(Path(root), year, split, resolution)
    size = _score_size(score_at)
    selected = layout.sequences(sequences)
    config = config or recommended_config(model)
    output = None if output_dir is None else Path(output_dir)
    if output is not None:
        source = {"dataset": f"DAVIS-{year}", "resolution": resolution}
        claim_folder(output, model, config, source, [sequence.name for sequence in selected])

    def predict(sequence: _Sequence, tick: Tick) -> LabelMaps:
        propagator = Propagator(model, config, kernels=kernels)
        frames = ticking(follow_masks(sequence.frames, sequence.truth(0), propagator), tick)
        if output is None:
            return [_rendered(masks, size) for masks in frames][1:-1]
        folders = {None: output, size: output if size is None else output / _size_name(size)}
        if missing := [at for at, folder in folders.items() if not (folder / sequence.name).is_dir()]:
            names = (path.name for path in sequence.annotations)
            renderings = ([_rendered(masks, at) for at in missing] for masks in frames)
            write_masks([folders[at] / sequence.name for at in missing], names, renderings)
        return _read_results(sequence, _result_paths(folders[size], sequence))

    details = {"model": model_name(model)}
    return _evaluate(layout, selected, predict, size=size, config=config, progress=progress, details=details)


def score_davis(
    results_dir: str | PathLike[str],
    root: str | PathLike[str],
    *,
    year: Literal[2016, 2017] = 2017,
    split: str = "val",
    resolution: str = "480p",
    sequences: Sequence[str] | None = None,
    score_at: ScoreAt = "native",
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
        progress: show a bar over all frames.

    Returns:
        As :func:`evaluate_davis`, with ``config`` None.

    Raises:
        DatasetError: ``root`` is not in the official layout, or a result is missing; the message names the first one.
        ValueError: an unknown year or sequence, a ``score_at`` out of range; a result has neither its annotation's size
            nor that, or ids that the first annotation lacks.

    Source:
        See :func:`evaluate_davis`.
    """
    layout = _Layout(Path(root), year, split, resolution)
    size = _score_size(score_at)
    selected = layout.sequences(sequences)
    # All files are looked up before the first is scored: a gap shows at once, not after minutes.
    paths = {sequence.name: _result_paths(Path(results_dir), sequence) for sequence in selected}

    def predict(sequence: _Sequence, tick: Tick) -> LabelMaps:
        return ticking(_read_results(sequence, paths[sequence.name]), tick)

    return _evaluate(layout, selected, predict, size=size, config=None, progress=progress, details={})


# ---------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One video of the data set, all of whose files are there."""

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]  # one for each frame
    binary: bool

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Return the ids of a frame ``(H, W)``; void is background, as in the official semi-supervised task."""
        labels = read_mask(self.annotations[index], binary=self.binary)
        return np.where(labels == VOID, np.uint8(0), labels)

    def object_count(self) -> int:
        """Return the largest id of the first annotation; ids that turn up later are not scored."""
        count = int(self.truth(0).max())
        if count == 0:
            raise DatasetError(f"{self.annotations[0]} shows no object: the first annotation must show all of them.")
        return count


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the official archives put their files."""

    root: Path
    year: int
    split: str
    resolution: str

    def __post_init__(self) -> None:
        if self.year not in (2016, 2017):
            raise ValueError(f"year is {self.year!r}: DAVIS years are 2016 and 2017.")

    def sequences(self, wanted: Sequence[str] | None) -> list[_Sequence]:
        """Find the wanted sequences, or all of the split."""
        names = choose(self._listed(), wanted, kind="sequences", split=f"{self.split} of {self.year}")
        return [self._sequence(name) for name in names]

    def _listed(self) -> list[str]:
        """Read the split; a line is a name, or as in 2016 the paths of one frame and its annotation."""
        path = self._tree.require(self.root / "ImageSets" / str(self.year) / f"{self.split}.txt")
        first_words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [PurePosixPath(word).parent.name if "/" in word else word for word in first_words]
        if not names:
            raise DatasetError(f"{path} lists no sequence. Get the official list again.")
        return list(dict.fromkeys(names))

    def _sequence(self, name: str) -> _Sequence:
        folder = self.root / "JPEGImages" / self.resolution / name
        frames = self._tree.images(folder, "00000.jpg")
        masks = self.root / "Annotations" / self.resolution / name
        annotations = tuple(self._tree.require(masks / f"{frame.stem}.png") for frame in frames)
        if len(frames) < 3:
            raise DatasetError(
                f"{folder} has {len(frames)} frames: 3 are needed, as the first and last are not scored."
            )
        return _Sequence(name, frames, annotations, binary=self.year == 2016)

    @property
    def _tree(self) -> Tree:
        drawing = _TREE.format(root=self.root, resolution=self.resolution, year=self.year, split=self.split)
        return Tree(f"DAVIS-{self.year}", drawing, "JPEGImages")


# ---------------------------------------------------------------- ready results


def _result_paths(results: Path, sequence: _Sequence) -> list[Path]:
    """Return the results that are scored: of every frame but the first and the last."""
    paths = [results / sequence.name / annotation.name for annotation in sequence.annotations[1:-1]]
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"no {path}: results need a PNG for every annotation but the first and the last.")
    return paths


def _read_results(sequence: _Sequence, paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    return (read_mask(path, binary=sequence.binary) for path in paths)


# ---------------------------------------------------------------- scores


def _score_size(score_at: ScoreAt) -> Size | None:
    """Return the size of the scored masks; None is each annotation's own."""
    if score_at == "native":
        return None
    sides: object = score_at  # whatever a caller without types passes
    if not (isinstance(sides, tuple) and len(sides) == 2 and min(sides) >= 1):
        raise ValueError(f"score_at is {score_at!r}: it must be 'native' or (H, W), each at least 1.")
    return score_at


def _size_name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _rendered(masks: FrameMasks, size: Size | None) -> NDArray[np.uint8]:
    return masks.label_map() if size is None else masks.label_map(size)


def _evaluate(
    layout: _Layout,
    sequences: Sequence[_Sequence],
    predict: Callable[[_Sequence, Tick], LabelMaps],
    *,
    size: Size | None,
    config: PropagationConfig | None,
    progress: bool,
    details: Mapping[str, Any],
) -> EvaluationResult:
    """Predict and score one sequence after the other; ``predict`` gives the frames between the first and the last."""
    objects, effort = score_each(
        sequences, lambda sequence, tick: _score_sequence(sequence, predict(sequence, tick), size), progress=progress
    )
    return EvaluationResult(
        dataset=f"DAVIS-{layout.year}" + (f" at {_size_name(size)}" if size else ""),
        scores=_mean([row for rows in objects.values() for row in rows]),
        per_video={name: _mean(rows) for name, rows in objects.items()},
        config=config,
        details={
            **details,
            "year": layout.year,
            "split": layout.split,
            "resolution": layout.resolution,
            "score_at": list(size) if size else "native",
            **effort,
            "per_object": {f"{name}_{i}": row for name, rows in objects.items() for i, row in enumerate(rows, start=1)},
        },
    )


def _score_sequence(sequence: _Sequence, predictions: LabelMaps, size: Size | None) -> list[dict[str, float]]:
    """Return the scores of every object, id 1 first, in percent."""
    count = sequence.object_count()
    scored = range(1, len(sequence.annotations) - 1)
    values = [_score_frame(sequence, i, labels, count, size) for i, labels in zip(scored, predictions, strict=True)]
    return [_object_scores(per_frame) for per_frame in np.stack(values, axis=1)]


def _score_frame(
    sequence: _Sequence, index: int, labels: NDArray[np.uint8], count: int, size: Size | None
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
