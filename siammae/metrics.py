"""Scores of video label propagation in NumPy: J and F for masks, mIoU for label maps, PCK for keypoints."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Statistics(NamedTuple):
    """What DAVIS reports of one object's values over its frames."""

    mean: float
    recall: float  # part of the frames above 0.5
    decay: float  # mean of the first quarter minus mean of the last


def region_similarity(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, void: NDArray[np.bool_] | None = None
) -> float:
    """Return J, the intersection over union of two masks.

    Args:
        prediction: predicted mask, ``(H, W)`` bool.
        truth: annotated mask, same shape, bool.
        void: pixels left out, same shape, bool.

    Returns:
        J in [0, 1]; 1 where both masks are empty.

    Raises:
        ValueError: a mask is not bool or not ``(H, W)``, or the shapes differ.

    Source:
        Perazzi et al. 2016; davis2017-evaluation, davis2017/metrics.py, db_eval_iou.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> truth = np.array([[True, True], [False, False]])
        >>> siammae.region_similarity(np.array([[True, False], [False, False]]), truth)
        0.5
    """
    prediction, truth = _checked_masks(prediction, truth, void)
    union = np.count_nonzero(prediction | truth)
    return float(np.count_nonzero(prediction & truth) / union) if union else 1.0


def boundary_measure(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    tolerance: float = 0.008,
    void: NDArray[np.bool_] | None = None,
) -> float:
    """Return F, the harmonic mean of precision and recall of the contours.

    A contour pixel is matched when the other contour has a pixel with ``dx^2 + dy^2 <= r^2``. The radius in pixels is
    ``r = tolerance`` from 1 up, otherwise ``ceil(tolerance * hypot(H, W))``: 8 pixels at 480 x 854.

    Args:
        prediction: predicted mask, ``(H, W)`` bool.
        truth: annotated mask, same shape, bool.
        tolerance: below 1 a part of the image diagonal, from 1 up pixels; at least 0.
        void: pixels set to background in both masks before the contours are drawn, same shape, bool.

    Returns:
        F in [0, 1]; 1 where neither mask has a contour, 0 where only one has. A mask that fills the image has none.

    Raises:
        ValueError: a mask is not bool or not ``(H, W)``, the shapes differ, or ``tolerance`` is out of range.

    Source:
        Perazzi et al. 2016; davis2017-evaluation, davis2017/metrics.py, f_measure.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> truth = np.zeros((48, 64), bool)
        >>> truth[16:32, 16:32] = True
        >>> siammae.boundary_measure(truth, truth)
        1.0
        >>> siammae.boundary_measure(np.roll(truth, 20, axis=1), truth, tolerance=1.0) < 0.1
        True
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError(f"tolerance is {tolerance}: it must be finite and at least 0.")
    prediction, truth = _checked_masks(prediction, truth, void)
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape))
    around = _window(prediction | truth)  # beyond it there is no contour, and none of what is counted
    found, wanted = _contour(prediction[around]), _contour(truth[around])
    if not (found.any() and wanted.any()):
        return float(found.any() == wanted.any())
    precision = np.count_nonzero(found & _dilate(wanted, radius)) / np.count_nonzero(found)
    recall = np.count_nonzero(wanted & _dilate(found, radius)) / np.count_nonzero(wanted)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def confusion_matrix(
    prediction: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], num_classes: int, ignore: int | None = None
) -> NDArray[np.int64]:
    """Count the pixels of every pair of annotated and predicted class; add the matrices of several frames.

    Args:
        prediction: predicted classes, integers of any shape in ``[0, num_classes)``.
        truth: annotated classes, same shape, in ``[0, num_classes)`` or ``ignore``.
        num_classes: classes, background included; at least 1.
        ignore: pixels annotated with this label are not counted, whatever is predicted there.

    Returns:
        Counts ``(num_classes, num_classes)`` int64: row = annotated class, column = predicted class.

    Raises:
        ValueError: the shapes differ, labels are not integers, or a counted label is out of range.

    Source:
        Zhou et al. 2018 (ATEN, the VIP benchmark), fast_hist; out-of-range labels are errors here, not left out.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: it must be at least 1.")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape} but truth is {truth.shape}: they must have one shape.")
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    rows = _checked_labels("truth", truth[counted], num_classes)
    columns = _checked_labels("prediction", prediction[counted], num_classes)
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_iou(confusion: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return intersection over union of every class.

    Args:
        confusion: counts ``(C, C)`` from :func:`confusion_matrix`, summed over all frames and videos.

    Returns:
        IoU ``(C,)`` in [0, 1]; nan for a class that is neither annotated nor predicted anywhere.

    Raises:
        ValueError: ``confusion`` is not square.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion is {confusion.shape}: it must be (classes, classes).")
    hits = np.diagonal(confusion)
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.where(unions > 0, hits / np.maximum(unions, 1), np.nan)


def mean_iou(confusion: NDArray[np.integer[Any]]) -> float:
    """Return the mean over classes of intersection over union, background included.

    Args:
        confusion: counts ``(C, C)`` from :func:`confusion_matrix`, summed over all frames and videos.

    Returns:
        mIoU in [0, 1], over the classes that are annotated or predicted somewhere.

    Raises:
        ValueError: ``confusion`` is not square or counts no pixel.

    Source:
        The VIP benchmark as in videowalk, eval_vip.py: one matrix for the whole split, nanmean over classes.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> siammae.mean_iou(np.array([[3, 1], [0, 4]]))  # rows are annotated, columns predicted
        0.775
    """
    mean = _nanmean(class_iou(confusion))
    if math.isnan(mean):
        raise ValueError("confusion counts no pixel: add the matrices of the frames before taking the mean.")
    return mean


def pck(
    prediction: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    *,
    scale: float | NDArray[np.floating[Any]],
    alpha: float,
    visible: NDArray[np.bool_] | None = None,
) -> float:
    """Return the part of the keypoints that lie within ``alpha * scale`` pixels of the truth.

    Args:
        prediction: predicted positions (x, y) in pixels, ``(N, 2)``; NaN counts as a miss.
        truth: annotated positions, same shape.
        scale: size of the body in pixels, > 0: one number, or ``(N,)``.
        alpha: tolerance as a part of ``scale``, > 0; the distance may equal it.
        visible: keypoints that count, ``(N,)`` bool; None counts all.

    Returns:
        PCK in [0, 1]; nan where no keypoint counts.

    Raises:
        ValueError: a shape does not fit, or ``scale`` or ``alpha`` is not above 0.

    Source:
        Yang and Ramanan 2013, section on evaluation; JHMDB tables use alpha 0.1 and 0.2.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> truth = np.array([[10.0, 10.0], [50.0, 20.0]])
        >>> siammae.pck(truth + [[0.0, 3.0], [0.0, 30.0]], truth, scale=100.0, alpha=0.1)
        0.5
    """
    counted, limit = _checked_keypoints(prediction, truth, scale, alpha, visible)
    if not counted.any():
        return math.nan
    distance = np.linalg.norm(np.subtract(prediction, truth, dtype=np.float64), axis=1)  # (N,)
    return float(np.mean((distance <= limit)[counted]))


def statistics(values: NDArray[np.floating[Any]]) -> Statistics:
    """Return mean, recall and decay of one object's J or F over its scored frames.

    The frames are cut at ``round(linspace(1, T, 5))``; neighbouring quarters share the frame at their cut.

    Args:
        values: J or F of each frame in order, ``(T,)`` float, T at least 1; nan frames are left out of the means.

    Returns:
        The mean; the part of all frames above 0.5; the first quarter's mean minus the last quarter's.

    Raises:
        ValueError: ``values`` is not ``(T,)`` or is empty.

    Source:
        davis2017-evaluation, davis2017/utils.py, db_statistics; its cut positions wrap at 256 frames, these do not.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values are {values.shape}: they must be (T,) with at least one frame.")
    # Halves go up: np.round alone would send them to the even neighbour.
    cuts = np.floor(np.linspace(1, len(values), 5) + 0.5).astype(int) - 1
    first, last = values[: cuts[1] + 1], values[cuts[3] :]
    return Statistics(_nanmean(values), float(np.mean(values > 0.5)), _nanmean(first) - _nanmean(last))


def _checked_masks(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], void: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Check both masks and take the void pixels out of them."""
    masks = {"prediction": prediction, "truth": truth} | ({} if void is None else {"void": void})
    for name, mask in masks.items():
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"{name} must be (H, W) bool, got {mask.shape} {mask.dtype}. Pass `labels == object_id`.")
        if mask.shape != truth.shape:
            raise ValueError(f"{name} is {mask.shape} but truth is {truth.shape}: scores need one size.")
    return (prediction, truth) if void is None else (prediction & ~void, truth & ~void)


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns that hold all of a mask and one pixel more on each side, where the image has it."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0), slice(0)
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return slice(top, rows[-1] + 2), slice(left, columns[-1] + 2)


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark pixels that differ from the right, lower or lower-right one; the last row and column look along the edge."""
    contour = np.zeros_like(mask)
    contour[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    contour[:-1] |= mask[:-1] != mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return contour


def _dilate(contour: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Grow a contour by the disk x^2 + y^2 <= radius^2; nothing comes in from outside the image."""
    import cv2

    offsets = np.arange(-math.floor(radius), math.floor(radius) + 1)
    disk = offsets**2 + offsets[:, None] ** 2 <= radius**2
    return np.asarray(cv2.dilate(contour.view(np.uint8), disk.view(np.uint8))).astype(np.bool_)


def _checked_labels(name: str, labels: NDArray[np.integer[Any]], num_classes: int) -> NDArray[np.int64]:
    """Return labels as int64, wide enough for the products of a joint index."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} is {labels.dtype}: labels must be integers.")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(
            f"{name} has label {outside[0]}: allowed are 0 to {num_classes - 1}. Leave void out by `ignore`."
        )
    return labels.astype(np.int64)


def _checked_keypoints(
    prediction: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    scale: float | NDArray[np.floating[Any]],
    alpha: float,
    visible: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which keypoints count ``(N,)`` and the distance allowed for each ``(N,)``."""
    if truth.ndim != 2 or truth.shape[1] != 2 or prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape} and truth {truth.shape}: both must be (N, 2).")
    points = truth.shape[:1]
    sizes = np.asarray(scale, dtype=np.float64)
    if sizes.shape not in ((), points):
        raise ValueError(f"scale is {sizes.shape}: it must be one number or {points}, one for each keypoint.")
    counted = np.ones(points, bool) if visible is None else np.asarray(visible)
    if counted.shape != points or counted.dtype != np.bool_:
        raise ValueError(f"visible is {counted.shape} {counted.dtype}: it must be {points} bool.")
    sizes = np.broadcast_to(sizes, points)
    if not (alpha > 0 and np.all(sizes[counted] > 0)):
        raise ValueError(f"alpha is {alpha} and scale {scale}: both must be above 0.")
    return counted, alpha * sizes


def _nanmean(values: NDArray[np.floating[Any]]) -> float:
    """Mean of the values that are not nan; nan where none is left, without NumPy's warning."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan
