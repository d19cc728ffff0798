"""Pictures: what is drawn, where, and in which colour."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from siammae.visualize import contact_sheet, feature_pca, label_color, overlay_keypoints, overlay_masks

H, W = 40, 60


@pytest.fixture
def frame():
    return np.full((H, W, 3), 100, dtype=np.uint8)


@pytest.fixture
def labels():
    """Object 1 in the left half, void in the lower right corner."""
    labels = np.zeros((H, W), dtype=np.uint8)
    labels[5:35, 5:25] = 1
    labels[30:, 40:] = 255
    return labels


@pytest.fixture
def features():
    return torch.randn(3, 8, 7, 13, generator=torch.Generator().manual_seed(0))


def changed(picture, frame):
    """Pixels that differ, as ``(H, W)`` bool."""
    return (picture != frame).any(axis=-1)


# --- label_color


@pytest.mark.parametrize(
    ("object_id", "color"), [(0, (0, 0, 0)), (1, (128, 0, 0)), (2, (0, 128, 0)), (255, (224, 224, 192))]
)
def test_label_color_when_given_an_id_then_is_the_palette_s(object_id, color):
    assert label_color(object_id) == color


@pytest.mark.parametrize("object_id", [-1, 256])
def test_label_color_when_id_is_out_of_range_then_raises(object_id):
    with pytest.raises(ValueError, match=f"object_id is {object_id}: it must be from 0 to 255"):
        label_color(object_id)


# --- overlay_masks


def test_overlay_masks_when_label_is_background_then_leaves_the_frame(frame, labels):
    picture = overlay_masks(frame, labels)
    assert picture.shape == frame.shape
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(changed(picture, frame)[labels == 0], False)


def test_overlay_masks_when_alpha_is_given_then_mixes_the_palette_colour(frame, labels):
    picture = overlay_masks(frame, labels, alpha=0.25)
    np.testing.assert_array_equal(picture[20, 15], np.rint([0.75 * 100 + 0.25 * 128, 75, 75]))


def test_overlay_masks_when_outlined_then_only_the_inner_edge_is_lighter(frame, labels):
    line = changed(overlay_masks(frame, labels), overlay_masks(frame, labels, outline=False))
    expected = np.zeros((H, W), dtype=bool)
    expected[5:35, 5:25] = True
    expected[6:34, 6:24] = False
    np.testing.assert_array_equal(line, expected)


def test_overlay_masks_when_object_touches_the_picture_border_then_draws_no_line_there(frame):
    everything = np.ones((H, W), dtype=np.uint8)
    np.testing.assert_array_equal(overlay_masks(frame, everything), overlay_masks(frame, everything, outline=False))


def test_overlay_masks_when_label_is_void_then_hatches_in_grey(frame, labels):
    void = overlay_masks(frame, labels)[labels == 255]
    assert (void == void[:, :1]).all()
    assert len(np.unique(void)) == 2


def test_overlay_masks_when_done_then_the_frame_given_is_unchanged(frame, labels):
    before = frame.copy()
    overlay_masks(frame, labels)
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((3, H, W), np.uint8), np.zeros((H, W), np.uint8), np.zeros((H, W, 3), np.float32)],
    ids=["channels first", "grey", "float"],
)
def test_overlays_when_frame_is_not_rgb_uint8_then_raise(bad, labels):
    with pytest.raises(ValueError, match=r"frame must be \(H, W, 3\) uint8 RGB, got .* Put channels last"):
        overlay_masks(bad, labels)
    with pytest.raises(ValueError, match=r"frame must be \(H, W, 3\) uint8 RGB, got"):
        overlay_keypoints(bad, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (np.zeros((H, W + 1), np.uint8), r"\(40, 61\) uint8 for a frame of \(40, 60\)"),
        (np.zeros((H, W), np.int64), r"\(40, 60\) int64"),
        (np.zeros((1, H, W), np.uint8), r"\(1, 40, 60\) uint8"),
    ],
)
def test_overlay_masks_when_labels_do_not_fit_then_raises(frame, bad, got):
    with pytest.raises(ValueError, match=rf"labels must be \(H, W\) uint8 ids .* got {got}.* nearest neighbour"):
        overlay_masks(frame, bad)


def test_overlay_masks_when_alpha_is_out_of_range_then_raises(frame, labels):
    with pytest.raises(ValueError, match=r"alpha is 1\.5: it must be from 0"):
        overlay_masks(frame, labels, alpha=1.5)


# --- overlay_keypoints


def test_overlay_keypoints_when_point_is_given_then_draws_a_dot_around_it(frame):
    picture = overlay_keypoints(frame, np.array([[30.0, 12.0]]), radius=4)
    y, x = np.nonzero(changed(picture, frame))
    assert (x.mean(), y.mean()) == (30, 12)
    assert np.hypot(x - 30, y - 12).max() < 6
    assert colorsys.rgb_to_hsv(*(picture[12, 30] / 255))[1] > 0.7  # a strong colour inside
    assert picture[12, 35].max() < 70  # a dark rim around it


def test_overlay_keypoints_when_point_lies_between_pixels_then_dot_is_smooth(frame):
    dot = overlay_keypoints(frame, np.array([[30.5, 12.0]]), radius=4)
    np.testing.assert_array_equal(dot[:, 30 - 8 : 31], dot[:, 31 : 31 + 9][:, ::-1])
    assert len(np.unique(dot[..., 0])) > 6


def test_overlay_keypoints_when_points_are_nan_then_skips_them_and_keeps_colours(frame):
    points = np.array([[10.0, 10.0], [30.0, 20.0]])
    both = overlay_keypoints(frame, points)
    points[0] = np.nan
    second = overlay_keypoints(frame, points, names=["head", "hip"])
    np.testing.assert_array_equal(second[20, 30], both[20, 30])
    assert not changed(second, frame)[:15, :20].any()


def test_overlay_keypoints_when_points_leave_the_frame_then_draws_what_is_inside(frame):
    outside = np.array([[-500.0, 10.0], [10.0, 900.0]])
    np.testing.assert_array_equal(overlay_keypoints(frame, outside), frame)
    assert changed(overlay_keypoints(frame, np.array([[-1.0, H]])), frame)[-1, 0]


def test_overlay_keypoints_when_confidence_is_low_then_fades_the_dot(frame):
    point = np.array([[30.0, 20.0]])

    def contrast(confidence):
        picture = overlay_keypoints(frame, point, confidence=np.array([confidence], dtype=np.float32))
        return np.abs(picture[20, 30].astype(int) - 100).sum()

    assert contrast(1.0) > contrast(0.5) > contrast(0.0) > 0
    assert contrast(np.nan) == contrast(0.0)
    np.testing.assert_array_equal(
        overlay_keypoints(frame, point), overlay_keypoints(frame, point, confidence=np.ones(1))
    )


def test_overlay_keypoints_when_named_then_writes_right_of_the_dot_or_left_at_the_border(frame):
    for x, side in ((5, slice(12, None)), (55, slice(0, 48))):
        point = np.array([[x, 20.0]])
        text = changed(overlay_keypoints(frame, point, names=["hip"]), overlay_keypoints(frame, point))
        assert text[:, side].sum() > 20


def test_overlay_keypoints_when_there_are_no_points_then_returns_a_copy(frame):
    picture = overlay_keypoints(frame, np.zeros((0, 2)))
    np.testing.assert_array_equal(picture, frame)
    assert not np.shares_memory(picture, frame)


@pytest.mark.parametrize("shape", [(2,), (4, 3), (5, 4, 2)])
def test_overlay_keypoints_when_points_are_not_pairs_then_raises(frame, shape):
    with pytest.raises(ValueError, match=r"points must be \(N, 2\), x and y, got .* points of one frame"):
        overlay_keypoints(frame, np.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": np.ones(3)}, r"confidence must be \(2,\), one a point, got \(3,\)"),
        ({"names": ["head"]}, "names must be 2, one a point, got 1"),
        ({"radius": 0}, "radius is 0: it must be above 0"),
    ],
)
def test_overlay_keypoints_when_an_option_does_not_fit_then_raises(frame, options, message):
    with pytest.raises(ValueError, match=message):
        overlay_keypoints(frame, np.zeros((2, 2)), **options)


# --- contact_sheet


def test_contact_sheet_when_given_frames_then_lays_them_out_row_by_row():
    frames = [np.full((30, 60, 3), 40 * i, dtype=np.uint8) for i in range(5)]
    sheet = contact_sheet(frames, columns=3, width=60)
    gap = 8
    assert sheet.shape == (2 * (30 + gap) + gap, 3 * (60 + gap) + gap, 3)
    assert sheet.dtype == np.uint8
    for i in range(5):
        y, x = gap + i // 3 * (30 + gap), gap + i % 3 * (60 + gap)
        np.testing.assert_array_equal(sheet[y : y + 30, x : x + 60], 40 * i)
    assert sheet[gap + 38 :, gap + 2 * 68 :].min() > 240  # the sixth place stays paper


def test_contact_sheet_when_frames_are_fewer_than_columns_then_is_only_as_wide_as_they_are(frame):
    assert contact_sheet([frame], columns=4, width=60).shape[1] == 60 + 2 * 8


def test_contact_sheet_when_frames_differ_in_size_then_thumbnails_keep_their_shapes():
    sheet = contact_sheet([np.zeros((20, 40, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)], width=40)
    black = (sheet == 0).all(axis=-1)
    assert black.any(axis=0).sum() == 80
    assert black[:, 8:48].any(axis=1).sum() == 20
    assert black[:, 56:].any(axis=1).sum() == 80


def test_contact_sheet_when_captioned_then_writes_dark_text_below_each_picture(frame):
    plain, captioned = contact_sheet([frame] * 2, width=60), contact_sheet([frame] * 2, width=60, captions=["a", "b"])
    assert captioned.shape[0] > plain.shape[0]
    below = captioned[8 + H :]
    assert below[:, 8:68].min() < 80
    assert below[:, 76:136].min() < 80


def test_contact_sheet_when_a_caption_is_too_long_then_cuts_it_at_the_picture(frame):
    sheet = contact_sheet([frame] * 2, width=60, captions=["many words " * 9, ""])
    assert sheet[8 + H :, 68:].min() > 240


def test_contact_sheet_when_titled_then_writes_above_the_grid(frame):
    plain, titled = contact_sheet([frame], width=60), contact_sheet([frame], width=60, title="clip")
    extra = titled.shape[0] - plain.shape[0]
    assert titled[: extra + 8].min() < 80
    np.testing.assert_array_equal(titled[extra + 8 :], plain[8:])


def test_contact_sheet_draws_confidence_as_a_bar_along_the_edge():
    black = np.zeros((40, 100, 3), np.uint8)
    sheet = contact_sheet([black] * 4, width=100, confidence=[1.0, 0.25, 0.0, np.nan])
    bars = [sheet[8 + 38, 8 + 108 * i : 108 + 108 * i].astype(int) for i in range(4)]
    filled = [(bar.max(axis=1) > 100).sum() for bar in bars]
    assert filled == [100, 25, 0, 0]
    assert bars[0][0, 1] > 2 * bars[0][0, 0]  # green
    assert bars[1][0, 0] > bars[1][0, 1]  # towards red
    assert (bars[3] == 0).all()
    assert (sheet[8:45, 8:108] == 0).all()  # the picture above it stays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": [0.5, 0.5]}, "confidence must be 1 numbers, one a frame, got 2"),
        ({"confidence": [1.5]}, r"confidence is \[1.5\]: it must be in \[0, 1\]"),
        ({"frames": []}, "frames is empty: a contact sheet needs at least one picture"),
        ({"columns": 0}, "columns is 0 and width is 320: both must be at least 1"),
        ({"width": 0}, "columns is 4 and width is 0: both must be at least 1"),
        ({"captions": ["a", "b"]}, "captions must be 1, one a frame, got 2"),
        ({"frames": [np.zeros((4, 4), np.uint8)]}, r"frames\[0\] must be \(H, W, 3\) uint8 RGB, got \(4, 4\) uint8"),
    ],
)
def test_contact_sheet_when_input_does_not_fit_then_raises(frame, options, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(**{"frames": [frame], **options})


# --- feature_pca


def test_feature_pca_when_given_features_then_returns_a_picture_for_each_frame(features):
    pictures = feature_pca(features)
    assert pictures.shape == (3, 7, 13, 3)
    assert pictures.dtype == np.uint8
    assert pictures.min() == 0
    assert pictures.max() == 255


def test_feature_pca_when_one_channel_varies_most_then_red_shows_it(features):
    features[:, 2] *= 50
    features[:, 5] *= 9
    red, green, _ = feature_pca(features).reshape(-1, 3).T
    assert np.corrcoef(red, features[:, 2].flatten())[0, 1] > 0.97
    assert np.corrcoef(green, features[:, 5].flatten())[0, 1] > 0.97


def test_feature_pca_when_features_are_negated_then_colours_are_complements(features):
    difference = feature_pca(features).astype(int) + feature_pca(-features) - 255
    assert np.abs(difference).max() <= 1


def test_feature_pca_when_channels_are_turned_round_then_pictures_stay(features):
    np.testing.assert_allclose(feature_pca(features.flip(1)), feature_pca(features), atol=1)


def test_feature_pca_when_a_patch_is_an_outlier_then_the_others_keep_their_contrast(features):
    features[0, :, 0, 0] = 40
    assert feature_pca(features)[1:].reshape(-1, 3).std(axis=0).min() > 30


def test_feature_pca_when_size_is_given_then_resizes_smoothly(features):
    small, large = feature_pca(features), feature_pca(features, size=(35, 65))
    assert large.shape == (3, 35, 65, 3)
    np.testing.assert_allclose(large[:, 2::5, 2::5], small, atol=2)  # centres of patches


def test_feature_pca_when_features_are_constant_then_is_grey():
    np.testing.assert_array_equal(feature_pca(torch.ones(1, 4, 3, 5)), 128)


def test_feature_pca_when_features_are_half_precision_with_gradient_then_works(features):
    assert feature_pca(features.half().requires_grad_()).shape == (3, 7, 13, 3)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(8, 7, 13), torch.zeros(1, 2, 7, 13), torch.zeros(0, 8, 7, 13), torch.zeros(1, 8, 7, 13).int()],
    ids=["no frame axis", "two channels", "no frames", "integers"],
)
def test_feature_pca_when_features_do_not_fit_then_raises(bad):
    with pytest.raises(ValueError, match=r"features must be \(T, C, h, w\) floating point, C >= 3, got"):
        feature_pca(bad)


def test_feature_pca_when_features_are_not_finite_then_raises(features):
    features[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features hold NaN or infinity"):
        feature_pca(features)


def test_feature_pca_when_size_is_not_positive_then_raises(features):
    with pytest.raises(ValueError, match=r"size is \(0, 5\): it must be \(H, W\)"):
        feature_pca(features, size=(0, 5))
