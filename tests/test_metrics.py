"""Every score against pixel loops that restate its definition, and against small cases worked out by hand."""

import math

import numpy as np
import pytest

from siammae.metrics import (
    boundary_measure,
    class_iou,
    confusion_matrix,
    mean_iou,
    pck,
    region_similarity,
    statistics,
)

SHAPES = [(7, 13), (1, 9), (9, 1), (1, 1), (2, 2), (16, 16), (31, 5)]


def loop_j(prediction, truth, void):
    inside = either = 0
    for y, x in np.ndindex(truth.shape):
        if not void[y, x]:
            inside += prediction[y, x] and truth[y, x]
            either += prediction[y, x] or truth[y, x]
    return inside / either if either else 1.0


def loop_contour(mask):
    """Pixels that differ from right, lower, lower right; the last row only looks right, the last column only down."""
    height, width = mask.shape
    found = []
    for y, x in np.ndindex(mask.shape):
        steps = [(0, 1), (1, 0), (1, 1)]
        if y == height - 1:
            steps = [(0, 1)]
        if x == width - 1:
            steps = [(1, 0)]
        if y == height - 1 and x == width - 1:
            steps = []
        if any(mask[y, x] != mask[y + dy, x + dx] for dy, dx in steps):
            found.append((y, x))
    return found


def loop_f(prediction, truth, void, radius):
    mine, true = loop_contour(prediction & ~void), loop_contour(truth & ~void)
    if not mine or not true:
        return float(not mine and not true)

    def matched(points, others):
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points]
        return sum(near) / len(near)

    precision, recall = matched(mine, true), matched(true, mine)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def special_masks(shape):
    """Empty, full, one pixel in a corner, a stripe along the border, everything but one pixel."""
    empty = np.zeros(shape, bool)
    corner, border = empty.copy(), empty.copy()
    corner[-1, -1] = True
    border[0] = border[:, 0] = True
    return [empty, ~empty, corner, ~corner, border]


def mask_pairs(shape):
    random = np.random.default_rng(0)
    special = special_masks(shape)
    pairs = [(a, b) for a in special for b in special]
    for density in (0.05, 0.5, 0.95):
        pairs += [tuple(random.random((2, *shape)) < density) for _ in range(3)]
    return pairs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_region_similarity_on_any_masks_equals_pixel_loop(shape):
    void = np.random.default_rng(1).random(shape) < 0.3
    for prediction, truth in mask_pairs(shape):
        assert region_similarity(prediction, truth) == loop_j(prediction, truth, np.zeros(shape, bool))
        assert region_similarity(prediction, truth, void=void) == loop_j(prediction, truth, void)


@pytest.mark.parametrize("tolerance", [0.0, 0.008, 0.1, 1, 2.5, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boundary_measure_on_any_masks_equals_pixel_loop(shape, tolerance):
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(shape[0] ** 2 + shape[1] ** 2))
    void = np.random.default_rng(2).random(shape) < 0.3
    for prediction, truth in mask_pairs(shape):
        expected = loop_f(prediction, truth, np.zeros(shape, bool), radius)
        assert boundary_measure(prediction, truth, tolerance=tolerance) == pytest.approx(expected, abs=1e-12)
        expected = loop_f(prediction, truth, void, radius)
        assert boundary_measure(prediction, truth, tolerance=tolerance, void=void) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("radius", [1, 3])
def test_boundary_measure_of_small_masks_anywhere_equals_pixel_loop(radius):
    nothing = np.zeros((11, 13), bool)
    for top, left in ((0, 0), (0, 9), (8, 0), (8, 9), (4, 5), (1, 1), (7, 8)):
        truth, prediction = nothing.copy(), nothing.copy()
        truth[top : top + 3, left : left + 4] = True
        prediction[top + 1 : top + 3, left : left + 3] = True
        for shift in (0, 1, 4):
            moved = np.roll(prediction, shift, axis=1)
            expected = loop_f(moved, truth, nothing, radius)
            assert boundary_measure(moved, truth, tolerance=radius) == pytest.approx(expected, abs=1e-12)


def test_region_similarity_of_shifted_square_is_counted_by_hand():
    truth, prediction = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    truth[1:3, 1:3] = True
    prediction[1:3, 2:4] = True
    assert region_similarity(prediction, truth) == 2 / 6
    void = np.zeros((6, 6), bool)
    void[:, 1] = True  # takes both wrong pixels of the truth
    assert region_similarity(prediction, truth, void=void) == 2 / 4


def test_boundary_measure_of_half_matched_contours_is_counted_by_hand():
    # The contour lies left of the step in every row but the last, which looks right too: 4 pixels each.
    truth, prediction = np.zeros((4, 12), bool), np.zeros((4, 12), bool)
    truth[:, 8:] = True
    prediction[:, 8:] = True
    prediction[:2, 4:] = True  # 2 rows of the step are 4 pixels off, joined by a horizontal piece in row 1
    mine, true = set(loop_contour(prediction)), set(loop_contour(truth))
    assert true == {(y, 7) for y in range(4)}
    assert mine == {(0, 3), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (2, 7), (3, 7)}
    precision, recall = 3 / 8, 3 / 4
    expected = 2 * precision * recall / (precision + recall)
    assert boundary_measure(prediction, truth, tolerance=0) == pytest.approx(expected)
    assert boundary_measure(prediction, truth, tolerance=4) == 1


def test_boundary_measure_tolerance_is_eight_pixels_at_davis_size():
    truth = np.zeros((480, 854), bool)
    truth[100:200, 100:200] = True
    assert boundary_measure(np.roll(truth, 8, axis=1), truth) == 1
    assert boundary_measure(np.roll(truth, 9, axis=1), truth) < 1


def test_boundary_measure_dilation_is_a_disk_and_not_a_square():
    truth, prediction = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    truth[5, 5] = True
    prediction[8, 8] = True  # sqrt(18) = 4.24 away
    distant = boundary_measure(prediction, truth, tolerance=2)
    assert distant == loop_f(prediction, truth, np.zeros((20, 20), bool), 2) < 1
    assert boundary_measure(prediction, truth, tolerance=5) == 1


def test_boundary_measure_does_not_match_across_the_image_edge():
    truth, prediction = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    truth[:, 0] = True
    prediction[:, -1] = True
    assert boundary_measure(prediction, truth, tolerance=3) == 0


def test_boundary_measure_without_any_contour_is_one():
    full, empty = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    assert boundary_measure(full, full) == boundary_measure(full, empty) == boundary_measure(empty, empty) == 1


def test_masks_are_left_unchanged_when_void_is_given():
    prediction, truth, void = np.ones((3, 4, 5), bool)
    region_similarity(prediction, truth, void=void)
    boundary_measure(prediction, truth, void=void)
    assert prediction.all()
    assert truth.all()


@pytest.mark.parametrize("score", [region_similarity, boundary_measure])
def test_mask_scores_refuse_what_is_not_a_mask(score):
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match=r"prediction must be \(H, W\) bool, got \(4, 5\) uint8.*labels == object_id"):
        score(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match=r"prediction must be \(H, W\) bool, got \(1, 4, 5\) bool"):
        score(mask[None], mask[None])
    with pytest.raises(ValueError, match=r"prediction is \(5, 4\) but truth is \(4, 5\)"):
        score(mask.T, mask)
    with pytest.raises(ValueError, match=r"void is \(5, 4\) but truth is \(4, 5\)"):
        score(mask, mask, void=mask.T)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_boundary_measure_refuses_impossible_tolerance(tolerance):
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match="it must be finite and at least 0"):
        boundary_measure(mask, mask, tolerance=tolerance)


def loop_mean_iou(prediction, truth, num_classes, ignore):
    values = []
    for label in range(num_classes):
        inside = either = 0
        for mine, true in zip(prediction.ravel(), truth.ravel(), strict=True):
            if true != ignore:
                inside += mine == label and true == label
                either += mine == label or true == label
        if either:
            values.append(inside / either)
    return sum(values) / len(values)


@pytest.mark.parametrize("ignore", [None, 3, 255])
def test_mean_iou_on_random_labels_equals_pixel_loop(ignore):
    random = np.random.default_rng(3)
    truth, prediction = random.integers(0, 5, (2, 7, 13), dtype=np.uint8)
    if ignore == 255:
        truth[random.random(truth.shape) < 0.2] = 255
    confusion = confusion_matrix(prediction, truth, 9, ignore)  # classes 5 to 8 are absent
    assert mean_iou(confusion) == pytest.approx(loop_mean_iou(prediction, truth, 9, ignore))


def test_mean_iou_leaves_out_absent_classes_and_counts_background():
    truth = np.array([[0, 0, 1, 1]])
    prediction = np.array([[0, 1, 1, 1]])
    confusion = confusion_matrix(prediction, truth, 4)
    np.testing.assert_array_equal(confusion, [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_class_iou_is_nan_for_absent_classes_only():
    confusion = confusion_matrix(np.array([[0, 1, 1, 2]]), np.array([[0, 0, 1, 1]]), 4)
    np.testing.assert_allclose(class_iou(confusion), [1 / 2, 1 / 3, 0, np.nan])
    with pytest.raises(ValueError, match=r"confusion is \(3, 4\): it must be \(classes, classes\)"):
        class_iou(confusion[:3])


def test_mean_iou_counts_class_that_is_only_predicted_as_zero():
    assert mean_iou(confusion_matrix(np.array([0, 2]), np.array([0, 0]), 3)) == pytest.approx((1 / 2 + 0) / 2)


def test_confusion_matrix_of_large_id_range_does_not_overflow_uint8():
    labels = np.array([200, 17], np.uint8)
    confusion = confusion_matrix(labels, labels, 201)
    assert confusion[200, 200] == confusion[17, 17] == 1
    assert confusion.sum() == 2
    assert confusion.dtype == np.int64


def test_confusion_matrix_refuses_what_it_cannot_count():
    labels = np.array([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="num_classes is 0: it must be at least 1"):
        confusion_matrix(labels, labels, 0)
    with pytest.raises(ValueError, match=r"prediction is \(4,\) but truth is \(2, 2\)"):
        confusion_matrix(labels.ravel(), labels, 4)
    with pytest.raises(ValueError, match=r"truth has label 3: allowed are 0 to 2\. Leave void out by `ignore`"):
        confusion_matrix(labels, labels, 3)
    with pytest.raises(ValueError, match="prediction has label -1"):
        confusion_matrix(labels - 1, labels, 4)
    with pytest.raises(ValueError, match="truth is float64: labels must be integers"):
        confusion_matrix(labels, labels / 1, 4)


def test_mean_iou_refuses_matrix_without_meaning():
    with pytest.raises(ValueError, match=r"confusion is \(2, 3\): it must be \(classes, classes\)"):
        mean_iou(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="confusion counts no pixel"):
        mean_iou(np.zeros((3, 3), int))


def test_pck_on_random_points_equals_loop():
    random = np.random.default_rng(4)
    truth = random.uniform(0, 100, (50, 2))
    prediction = truth + random.normal(0, 5, (50, 2))
    scale, visible = random.uniform(20, 60, 50), random.random(50) < 0.7
    hits = [
        math.dist(mine, true) <= 0.1 * size
        for mine, true, size, seen in zip(prediction, truth, scale, visible, strict=True)
        if seen
    ]
    assert 0 < sum(hits) < len(hits)
    assert pck(prediction, truth, scale=scale, alpha=0.1, visible=visible) == pytest.approx(sum(hits) / len(hits))


def test_pck_counts_distance_equal_to_the_limit():
    truth, prediction = np.zeros((3, 2)), np.array([[3.0, 4.0], [0.0, 5.5], [np.nan, 0.0]])
    assert pck(prediction, truth, scale=10, alpha=0.5) == pytest.approx(1 / 3)


def test_pck_of_integer_points_does_not_wrap():
    truth, prediction = np.full((1, 2), 10, np.uint8), np.full((1, 2), 12, np.uint8)
    assert pck(truth, prediction, scale=10, alpha=0.3) == pck(prediction, truth, scale=10, alpha=0.3) == 1


def test_pck_without_visible_points_is_nan_whatever_their_scale():
    points = np.zeros((2, 2))
    assert math.isnan(pck(points, points, scale=np.zeros(2), alpha=0.1, visible=np.zeros(2, bool)))
    assert math.isnan(pck(points[:0], points[:0], scale=1.0, alpha=0.1))


def test_pck_refuses_what_does_not_fit():
    points = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"prediction is \(2, 2\) and truth \(3, 2\): both must be \(N, 2\)"):
        pck(points[:2], points, scale=1, alpha=0.1)
    with pytest.raises(ValueError, match=r"scale is \(2,\): it must be one number or \(3,\)"):
        pck(points, points, scale=np.ones(2), alpha=0.1)
    with pytest.raises(ValueError, match=r"visible is \(3,\) int64: it must be \(3,\) bool"):
        pck(points, points, scale=1, alpha=0.1, visible=np.ones(3, np.int64))
    with pytest.raises(ValueError, match="alpha is 0 and scale 1: both must be above 0"):
        pck(points, points, scale=1, alpha=0)
    with pytest.raises(ValueError, match=r"alpha is 0\.1 and scale 0: both must be above 0"):
        pck(points, points, scale=0, alpha=0.1)


def test_statistics_of_a_falling_line_are_known():
    # T = 9: cuts at frames 1, 3, 5, 7, 9, so the quarters are 1-3 and 7-9.
    values = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    mean, recall, decay = statistics(values)
    assert mean == pytest.approx(0.6)
    assert recall == pytest.approx(5 / 9)  # 0.5 itself does not count
    assert decay == pytest.approx(0.9 - 0.3)


def test_statistics_cut_between_frames_goes_up():
    # T = 3: linspace gives 1, 1.5, 2, 2.5, 3, and the halves become 2 and 3: quarters {1, 2} and {3}.
    assert statistics(np.array([0.0, 1.0, 0.25])).decay == pytest.approx(0.5 - 0.25)


def test_statistics_of_one_frame_and_of_long_video_are_defined():
    assert statistics(np.array([0.7])) == (pytest.approx(0.7), 1.0, 0.0)
    long_video = np.linspace(1, 0, 1001)
    assert statistics(long_video).decay == pytest.approx(0.75)


def test_statistics_leave_nan_frames_out_of_the_means():
    mean, recall, decay = statistics(np.array([np.nan, 1.0, 0.4, 0.4, np.nan]))
    assert mean == pytest.approx(0.6)
    assert recall == pytest.approx(1 / 5)
    assert decay == pytest.approx(1.0 - 0.4)
    assert all(map(math.isnan, (statistics(np.array([np.nan])).mean, statistics(np.array([np.nan])).decay)))


@pytest.mark.parametrize("shape", [(0,), (2, 3)])
def test_statistics_refuse_anything_but_frames_of_one_object(shape):
    with pytest.raises(ValueError, match=r"they must be \(T,\) with at least one frame"):
        statistics(np.zeros(shape))
