import cv2
import numpy as np
import pytest

from siammae.frames import find_flow, residual_motion


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


def affine_flow(size, way=((0.02, -0.03, 4.0), (0.03, 0.02, -2.0))):
    y, x = np.indices(size, dtype=np.float64)
    return np.stack([a * x + b * y + c for a, b, c in way], axis=2).astype(np.float32)


@pytest.mark.parametrize("way", [((0, 0, 0), (0, 0, 0)), ((0.02, -0.03, 4.0), (0.03, 0.02, -2.0))], ids=str)
def test_residual_motion_is_what_a_part_moves_against_the_camera(way):
    flow = affine_flow((120, 160), way)
    flow[30:70, 40:90] += (3.0, -4.0)  # a tenth of the frame moves by 5 pixels of its own
    flow[100:, :20] = np.nan
    own = residual_motion(flow)
    assert (own.shape, own.dtype) == ((120, 160), np.float32)
    np.testing.assert_allclose(own[30:70, 40:90], 5, atol=0.05)
    assert np.array_equal(np.isnan(own), np.isnan(flow[..., 0]))
    own[30:70, 40:90] = 0
    assert np.nanmax(own) < 0.05


def test_residual_motion_of_real_flow_finds_what_moves_on_a_moving_camera():
    ground, cover = texture((160, 220)), 255 - texture((160, 220), seed=1)
    past, future = cut(ground, 20, 20, (120, 160)).copy(), cut(ground, 22, 25, (120, 160)).copy()
    past[40:80, 50:90], future[40:80, 56:96] = cover[:40, :40], cover[:40, :40]
    own = residual_motion(find_flow(past, future))
    assert np.nanmedian(own[45:75, 62:90]) > 8  # the camera went 5 right and 2 down, the square 6 right in the picture
    assert np.nanquantile(own[:25], 0.99) < 0.7


def test_residual_motion_without_enough_known_flow_takes_nothing_for_the_cameras():
    flow = np.full((60, 80, 2), np.nan, np.float32)
    assert np.isnan(residual_motion(flow)).all()
    flow[:12, :12] = (3, 4)
    np.testing.assert_allclose(residual_motion(flow)[:12, :12], 5, rtol=1e-5)


def test_residual_motion_is_deterministic():
    flow = affine_flow((96, 128)) + np.random.default_rng(0).normal(size=(96, 128, 2)).astype(np.float32)
    assert np.array_equal(residual_motion(flow), residual_motion(flow))
