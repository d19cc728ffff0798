"""Things cut out by their colours."""

import numpy as np
import pytest

from siammae.frames.grabcut import cut_out
from siammae.metrics import region_similarity


def scene(size=(120, 160), place=(slice(30, 80), slice(50, 110))):
    rng = np.random.default_rng(0)
    frame = rng.integers(20, 80, (*size, 3), dtype=np.uint8)
    frame[place] = rng.integers(150, 220, (*frame[place].shape[:2], 3), dtype=np.uint8)
    thing = np.zeros(size, bool)
    thing[place] = True
    return frame, thing


@pytest.mark.parametrize("scale", [1, 8])
def test_box_gives_the_thing_in_it_at_any_size(scale):
    frame, thing = (np.repeat(np.repeat(one, scale, axis=0), scale, axis=1) for one in scene())
    box = (40 * scale, 20 * scale, 120 * scale, 90 * scale)
    got = cut_out(frame, box)
    assert got.shape == thing.shape
    assert region_similarity(got, thing) > 0.97
    assert np.array_equal(got, cut_out(frame, box))


def test_marks_are_kept():
    frame, thing = scene()
    inside, outside = np.zeros_like(thing), np.zeros_like(thing)
    inside[85, 60:70] = True
    outside[40, 60:70] = True
    got = cut_out(frame, (40, 20, 120, 90), inside=inside, outside=outside)
    assert got[inside].all()
    assert not got[outside].any()
    assert not got[:20].any()


def test_box_on_one_colour_or_over_the_whole_frame_gives_something_and_never_fails():
    plain = np.full((50, 60, 3), 99, np.uint8)
    assert cut_out(plain, (10, 10, 30, 30)).any()
    assert cut_out(plain, (-5, -5, 100, 100)).any()
    frame, thing = scene()
    assert region_similarity(cut_out(frame, (0, 0, 160, 120)), thing) > 0.9


def test_box_beside_the_frame_is_refused():
    with pytest.raises(ValueError, match=r"the box \(70, 0, 90, 9\) holds no pixel of the frame of 60 x 50"):
        cut_out(np.zeros((50, 60, 3), np.uint8), (70, 0, 90, 9))
