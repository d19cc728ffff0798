import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from siammae.annotations.formats.polygons import fill_polygons
from siammae.annotations.formats.rle import decode, encode, fill, runs_of, text_runs

from .labels import given

tools = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its decode
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS)
def test_rle_when_written_by_pycocotools_is_read_as_pycocotools_reads_it(mask):
    packed = encode(mask)
    np.testing.assert_array_equal(decode(packed, None, "f"), mask)
    np.testing.assert_array_equal(decode(packed, None, "f"), tools.decode(packed))
    plain = {"size": list(mask.shape), "counts": runs_of(mask.T.ravel())}
    np.testing.assert_array_equal(decode(plain, mask.shape, "f"), mask)
    np.testing.assert_array_equal(tools.decode(tools.frPyObjects(plain, *mask.shape)), mask)


def test_rle_reads_runs_of_many_digits():
    mask = np.zeros((3000, 2000), bool)
    mask[100:1500, 3:1999] = True
    mask[2999, 1999] = True
    np.testing.assert_array_equal(decode(encode(mask), None, "f"), mask)


@given(st.text(max_size=30) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30))
def test_rle_text_of_any_kind_is_read_or_refused(text):
    try:
        got = decode({"size": [4, 5], "counts": text}, None, "f")
    except ValueError:
        return
    assert got.shape == (4, 5)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (3, "f has no 'size'"),
        ({"size": [2, 2]}, "f has no 'counts'"),
        ({"size": [2], "counts": ""}, "an RLE's size has 1 numbers"),
        ({"size": [2, 2], "counts": [1, 1]}, "an RLE has 2 pixels but the frame 4"),
        ({"size": [2, 2], "counts": [10**13]}, "has runs that are no whole numbers"),
        ({"size": [2, 2], "counts": [10**9]}, "a run of 1000000000 to 1000000000 of 4 pixels"),
        ({"size": [2, 2], "counts": [5, -1]}, "a run of -1 to 5 of 4 pixels"),
        ({"size": [2, 2], "counts": ["4"]}, "has runs that are no whole numbers"),
        ({"size": [2, 2], "counts": "P"}, "or breaks off"),
        ({"size": [2, 2], "counts": " 4"}, "has characters that are none"),
        ({"size": [2, 2], "counts": "oooooooo0"}, "a run that is longer than any frame"),
        ({"size": [2, 2], "counts": ""}, "an RLE has 0 pixels but the frame 4"),
        ({"size": [3, 2], "counts": "6"}, r"f is for frames of \(3, 2\) but the video has \(2, 2\)"),
        (
            {"size": [10**6, 10**6], "counts": "4"},
            "frame size 1000000 x 1000000: sides go from 1 to 32768",
        ),
    ],
)
def test_rle_that_lies_is_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        decode(rle, (2, 2), "f")


def test_runs_fill_nothing_or_a_frame():
    assert text_runs("", "f").size == 0
    np.testing.assert_array_equal(fill(np.array([0, 2, 1]), 3, "f"), [True, True, False])


def test_polygon_covers_the_pixels_whose_edges_it_follows():
    mask = fill_polygons([[1, 2, 4, 2, 4, 5, 1, 5], [6, 0, 8, 0, 8, 1, 6, 1]], (7, 9), "f")
    wanted = np.zeros((7, 9), bool)
    wanted[2:5, 1:4] = wanted[0, 6:8] = True
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 2, 3, 4], "a polygon must be a list x, y, x, y and so on with three corners"),
        ([1, 2, 3, 4, 5, 6, 7], "a polygon must be a list"),
        ("polygon", "a polygon must be a list"),
        ([1, 2, 3, 4, 5, None], "a corner is 'None'"),
        ([1, 2, 3, 4, 5, 1e9], "lies far outside the frame"),
        ([0.0] * 2_000_002, "has 1,000,001 corners"),
    ],
)
def test_polygon_that_lies_is_refused(polygon, message):
    with pytest.raises(ValueError, match=message):
        fill_polygons([polygon], (9, 9), "f")
