import cv2
import numpy as np
import pytest

from siammae.frames import find_flow


def texture(size, seed=0, grain=3.0):
    noise = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def cut(frame, top, left, size):
    return frame[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("shift", [(0, 0), (2, 5), (-7, 3), (0, -12)], ids=str)
def test_flow_of_a_shifted_picture_is_the_shift(shift):
    whole, size = texture((160, 200)), (120, 160)
    past, future = cut(whole, 20, 20, size), cut(whole, 20 + shift[0], 20 + shift[1], size)
    flow = find_flow(past, future)
    assert flow.shape == (*size, 2)
    assert flow.dtype == np.float32
    inside = flow[20:-20, 20:-20]
    assert np.isfinite(inside).mean() > 0.97
    # A future pixel lies `shift` further in the past frame, whose cut begins earlier by as much.
    np.testing.assert_allclose(np.nanmedian(inside, axis=(0, 1)), (shift[1], shift[0]), atol=0.1)
    assert np.nanmax(np.abs(inside - np.array([shift[1], shift[0]]))) < 2


def test_flow_of_what_was_covered_or_outside_is_unknown():
    ground, cover = texture((120, 160)), 255 - texture((120, 160))
    past, future = ground.copy(), ground.copy()
    past[40:80, 40:80] = cover[40:80, 40:80]  # the square moves right by 40 pixels and shows what lay under it
    future[40:80, 80:120] = cover[40:80, 40:80]
    flow = find_flow(past, future)
    assert np.isnan(flow[48:72, 48:72]).mean() > 0.5  # uncovered
    assert np.isfinite(flow[:30]).mean() > 0.97  # what stayed
    np.testing.assert_allclose(np.nanmedian(flow[:30], axis=(0, 1)), 0, atol=0.1)
    entered = find_flow(cut(texture((120, 220)), 0, 0, (120, 160)), cut(texture((120, 220)), 0, 40, (120, 160)))
    assert np.isnan(entered[:, -35:]).mean() > 0.9  # what was outside on the right came in
    assert np.isnan(entered).any(axis=2).sum() == np.isnan(entered).all(axis=2).sum()


@pytest.mark.parametrize("size", [(8, 8), (15, 200), (200, 1)], ids=str)
def test_flow_of_frames_too_small_for_it_is_unknown(size):
    frame = texture(size)
    assert np.isnan(find_flow(frame, frame)).all()


def test_flow_is_deterministic():
    past, future = texture((96, 128)), texture((96, 128), seed=1)
    assert np.array_equal(find_flow(past, future), find_flow(past, future), equal_nan=True)
