"""Heat over a frame, the patch a pixel lies in, and tables of pictures."""

import numpy as np
import pytest

from siammae.visualize import mark_patch, overlay_heat, patch_at, picture_table

H, W = 30, 50


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


# --- overlay_heat


def test_overlay_heat_when_opaque_then_ends_of_the_scale_are_its_colours(frame):
    heat = np.zeros((3, 5), np.float32)
    heat[1, 2] = 7
    picture = overlay_heat(frame, heat, alpha=1)
    assert (picture.shape, picture.dtype) == ((H, W, 3), np.uint8)
    np.testing.assert_array_equal(picture[0, 0], (0, 0, 4))
    small = overlay_heat(np.zeros((3, 5, 3), np.uint8), heat, alpha=1)  # a pixel for a patch
    np.testing.assert_array_equal(small[1, 2], (252, 255, 164))


def test_overlay_heat_when_values_grow_then_brightness_grows():
    ramp = overlay_heat(np.zeros((1, 256, 3), np.uint8), np.arange(256.0)[None], alpha=1)[0].astype(float)
    assert (np.diff(ramp @ [0.299, 0.587, 0.114]) >= -0.5).all()


def test_overlay_heat_when_alpha_is_given_then_mixes_with_the_grey_frame(frame):
    grey = overlay_heat(frame, np.ones((3, 5)), alpha=0)
    np.testing.assert_array_equal(grey, np.rint(frame.mean(axis=-1, keepdims=True)).repeat(3, axis=-1))
    half = overlay_heat(frame, np.zeros((3, 5)), limits=(0, 1), alpha=0.5)
    np.testing.assert_allclose(half[..., 0], frame.mean(axis=-1) / 2, atol=0.51)


def test_overlay_heat_when_limits_are_given_then_values_beyond_are_clipped(frame):
    heat = np.linspace(-3, 9, 15).reshape(3, 5)
    got = overlay_heat(frame, heat, limits=(0, 5))
    np.testing.assert_array_equal(got, overlay_heat(frame, heat.clip(0, 5)))
    np.testing.assert_array_equal(overlay_heat(frame, heat, limits=(1, 1))[0, 0], overlay_heat(frame, 0 * heat)[0, 0])


def test_overlay_heat_when_done_then_the_frame_given_is_unchanged(frame):
    before = frame.copy()
    overlay_heat(frame, np.ones((3, 5)))
    mark_patch(frame, (1, 2), (3, 5))
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize(
    ("heat", "options", "message"),
    [
        (np.ones(5), {}, r"heat must be \(h, w\), finite, one value a patch, got \(5,\)"),
        (np.ones((0, 5)), {}, r"got \(0, 5\)"),
        (np.full((3, 5), np.nan), {}, r"heat must be \(h, w\), finite"),
        (np.ones((3, 5)), {"alpha": 2}, "alpha is 2: it must be from 0"),
        (np.ones((3, 5)), {"limits": (1, 0)}, r"limits are \(1, 0\): the first must not be above"),
    ],
)
def test_overlay_heat_when_input_does_not_fit_then_raises(frame, heat, options, message):
    with pytest.raises(ValueError, match=message):
        overlay_heat(frame, heat, **options)
    with pytest.raises(ValueError, match="frame must be"):
        overlay_heat(frame[..., 0], np.ones((3, 5)))


# --- patch_at, mark_patch


@pytest.mark.parametrize(
    ("point", "patch"),
    [((0, 0), (0, 0)), ((-0.5, -0.5), (0, 0)), ((9.4, 9.4), (0, 0)), ((9.5, 9.5), (1, 1)), ((49.4, 29.4), (2, 4))],
)
def test_patch_at_when_given_a_pixel_then_is_the_patch_that_holds_it(point, patch):
    assert patch_at(point, (H, W), (3, 5)) == patch


@pytest.mark.parametrize("point", [(-1, 5), (5, -1), (49.5, 5), (5, 29.5), (float("nan"), 5)])
def test_patch_at_when_the_point_is_outside_then_raises(point):
    with pytest.raises(ValueError, match=r"the point is x .*: it must lie in the frame, which is 50 wide and 30 high"):
        patch_at(point, (H, W), (3, 5))


@pytest.mark.parametrize("patch", [(0, 0), (1, 2), (2, 4)])
def test_mark_patch_when_drawn_then_surrounds_the_patch_alone(frame, patch):
    picture = mark_patch(frame, patch, (3, 5))
    changed = (picture != frame).any(axis=-1)
    top, left = 10 * patch[0], 10 * patch[1]
    assert not changed[top : top + 10, left : left + 10].any()
    around = np.zeros((H, W), bool)
    around[max(0, top - 2) : top + 12, max(0, left - 2) : left + 12] = True
    around[top : top + 10, left : left + 10] = False
    assert changed[around].mean() > 0.9
    assert not changed[~around].any()


@pytest.mark.parametrize("patch", [(3, 0), (0, -1)])
def test_mark_patch_when_there_is_none_then_raises(frame, patch):
    with pytest.raises(ValueError, match=r"patch is .*: it must be a row and a column of a grid of \(3, 5\)"):
        mark_patch(frame, patch, (3, 5))


# --- picture_table


def test_picture_table_when_given_rows_then_lays_them_out_in_order():
    grey = [[np.full((20, 40, 3), 10 * (3 * row + column), np.uint8) for column in range(3)] for row in range(2)]
    table = picture_table({"first": grey[0], "second row": grey[1]}, width=40)
    left, top, gap = table.shape[1] - 3 * 44, table.shape[0] - 2 * 24, 4
    assert left > 40  # the names
    assert table[:, :left].min() < 80
    for row in range(2):
        for column in range(3):
            y, x = top + row * (20 + gap), left + column * (40 + gap)
            np.testing.assert_array_equal(table[y : y + 20, x : x + 40], grey[row][column])


@pytest.mark.parametrize(("width", "shown"), [(40, 1), (59, 1), (61, 2), (130, 3)])
def test_picture_table_when_pictures_are_small_then_repeats_their_pixels(width, shown):
    picture = np.random.default_rng(0).integers(0, 255, (3, 40, 3), dtype=np.uint8)
    table = picture_table({"": [picture]}, width=width)
    gap = max(4, width // 32)
    large = picture.repeat(shown, axis=0).repeat(shown, axis=1)
    np.testing.assert_array_equal(table[gap : gap + 3 * shown, gap : gap + 40 * shown], large)


def test_picture_table_when_pictures_are_large_then_shrinks_them():
    assert picture_table({"": [np.zeros((100, 401, 3), np.uint8)]}, width=64).shape == (4 + 16 + 4, 4 + 64 + 4, 3)


def test_picture_table_when_named_and_titled_then_writes_above():
    rows = {"": [np.full((20, 40, 3), 250, np.uint8)] * 2}
    plain = picture_table(rows, width=40)
    named = picture_table(rows, width=40, columns=["a", "many words " * 9])
    titled = picture_table(rows, width=40, columns=["a", "b"], title="clip")
    assert plain.shape[0] < named.shape[0] < titled.shape[0]
    assert plain.min() > 240
    assert named[:, :44].min() < 80
    assert named.shape[1] == plain.shape[1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({}, {}, "rows are empty: a table needs at least one picture"),
        ({"a": []}, {}, "rows are empty"),
        ({"a": [np.zeros((4, 4), np.uint8)]}, {}, r"each picture must be \(H, W, 3\) uint8 RGB, got \(4, 4\)"),
        ({"a": [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]}, {}, "all of a table must be of one"),
        (
            {"a": [np.zeros((4, 4, 3), np.uint8)] * 2, "b": [np.zeros((4, 4, 3), np.uint8)]},
            {},
            "must have equally many",
        ),
        ({"a": [np.zeros((4, 4, 3), np.uint8)]}, {"columns": ["x", "y"]}, "columns must be 1 texts.* got 2"),
        ({"a": [np.zeros((4, 4, 3), np.uint8)]}, {"width": 0}, "width is 0: it must be at least 1"),
    ],
)
def test_picture_table_when_input_does_not_fit_then_raises(rows, options, message):
    with pytest.raises(ValueError, match=message):
        picture_table(rows, **options)
