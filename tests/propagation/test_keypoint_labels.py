"""Keypoints on the patch grid: the subpixel rule's accuracy, and the cell rule against its public statement."""

import math

import numpy as np
import pytest
import torch

from siammae.config import PropagationConfig
from siammae.propagation.labels import decode_keypoints, encode_keypoints

GRIDS = [((96, 160), (6, 10)), ((90, 110), (7, 13)), ((64, 64), (16, 16))]


def encode(points, frame_size, grid, rule="subpixel", sigma=0.5):
    return encode_keypoints(np.array(points, np.float64).reshape(-1, 2), frame_size, grid, rule=rule, sigma=sigma)


def decode(maps, frame_size, rule="subpixel", top_k=5):
    return decode_keypoints(maps, frame_size, rule=rule, top_k=top_k)


@pytest.mark.parametrize(("frame_size", "grid"), GRIDS)
def test_subpixel_keypoints_come_back_within_a_twentieth_of_a_patch(frame_size, grid):
    patch = np.array([frame_size[1] / grid[1], frame_size[0] / grid[0]])
    low, high = patch - 0.5, patch * (grid[1] - 1, grid[0] - 1) - 0.5  # one patch from the border
    points = np.random.default_rng(0).uniform(low, high, (200, 2))
    got, confidence = decode(encode(points, frame_size, grid), frame_size)
    assert (np.abs(got - points) / patch).max() < 0.05
    assert (confidence > 0.99).all()


@pytest.mark.parametrize(("frame_size", "grid"), GRIDS)
def test_subpixel_keypoints_on_the_border_come_back_half_a_patch_inwards_at_most(frame_size, grid):
    patch = np.array([frame_size[1] / grid[1], frame_size[0] / grid[0]])
    end = np.array([frame_size[1] - 0.5, frame_size[0] - 0.5])
    corners = np.array([(-0.5, -0.5), (end[0], -0.5), (-0.5, end[1]), end])
    inward = np.array([(1, 1), (-1, 1), (1, -1), (-1, -1)])
    steps = np.linspace(0, 1, 11)[:, None, None] * patch * inward  # from the corners to one patch inside
    points = (corners + steps).reshape(-1, 2)
    got, _ = decode(encode(points, frame_size, grid), frame_size)
    error = (got - points) / patch * np.tile(inward, (11, 1))
    assert error.min() > -0.05
    assert error.max() < 0.55


@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.5, 3.0])
def test_subpixel_maps_sum_to_one_for_any_sigma(sigma):
    maps = encode([(0.0, 0.0), (31.3, 17.9), (63.5, 47.5)], (48, 64), (6, 8), sigma=sigma)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(3))


def test_subpixel_keypoints_on_a_grid_of_one_patch_come_back_at_its_centre():
    got, confidence = decode(encode([(1.0, 6.0)], (8, 8), (1, 1)), (8, 8))
    assert got.tolist() == [[3.5, 3.5]]
    assert confidence.tolist() == [1.0]


def test_subpixel_decoding_prefers_a_cluster_to_a_stray_patch():
    maps = torch.zeros(1, 9, 9)
    maps[0, 1:3, 1:3] = 0.15
    maps[0, 7, 7] = 0.4
    got, confidence = decode(maps, (9, 9))
    np.testing.assert_allclose(got, [[1.5, 1.5]], atol=1e-5)
    assert confidence == pytest.approx([0.6])


def test_subpixel_decoding_of_an_empty_map_has_no_confidence():
    got, confidence = decode(torch.zeros(1, 4, 4), (16, 16))
    assert np.isfinite(got).all()
    assert confidence.tolist() == [0]


@pytest.mark.parametrize("rule", ["subpixel", "cell"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_confidence_lies_in_0_to_1(rule, scale):
    maps = torch.rand(6, 5, 7, generator=torch.Generator().manual_seed(0)) * scale
    points, confidence = decode(maps, (40, 56), rule)
    assert points.dtype == confidence.dtype == np.float32
    assert points.shape == (6, 2)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def cell_axis(place, length):
    """One axis of videowalk's label: sigma 0.5 cell, 4 cells, the peak on the third; int() truncates toward 0."""
    peak = math.floor(place + 0.5) if place >= 1.5 else int(place - 1.5) + 2
    values = np.zeros(length)
    for offset in (-2, -1, 0, 1):
        reached = place < 1.5 and peak + offset >= int(place + 2.5)  # the patch is cut at its far end too
        if 0 <= peak + offset < length and not reached:
            values[peak + offset] = math.exp(-(offset**2) / (2 * 0.5**2))
    return values


@pytest.mark.parametrize("seed", range(3))
def test_cell_maps_are_those_of_the_public_evaluators(seed):
    frame_size, grid = (240, 320), (15, 20)
    points = np.random.default_rng(seed).uniform((-0.5, -0.5), (319.5, 239.5), (100, 2))
    points[:30] = points[:30] % 24  # below 1.5 cells, where truncation shows
    got = encode(points, frame_size, grid, "cell").numpy()
    for (x, y), one in zip(points, got, strict=True):
        expected = np.outer(cell_axis(y / 16, 15), cell_axis(x / 16, 20))
        np.testing.assert_allclose(one, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "peak"),
    [(0.2, 1), (0.49, 1), (0.5, 1), (0.51, 2), (0.75, 2), (1.4, 2), (1.5, 2), (2.49, 2), (2.5, 3), (7.3, 7)],
)
def test_cell_peak_is_the_place_rounded_half_up_except_near_0(place, peak):
    maps = encode([(place * 16, 5 * 16)], (240, 320), (15, 20), "cell")
    assert np.unravel_index(int(maps.argmax()), (15, 20)) == (5, peak)
    assert float(maps.max()) == 1


@pytest.mark.parametrize("point", [(400.0, 100.0), (100.0, 300.0), (-80.0, 100.0), (100.0, -80.0)])
def test_cell_map_of_a_keypoint_outside_the_frame_is_empty(point):
    assert not encode([point], (240, 320), (15, 20), "cell").any()


@pytest.mark.parametrize("scale", [1.0, 1e-14])
def test_cell_decoding_is_the_weighted_mean_of_the_best_cells(scale):
    maps = np.random.default_rng(0).random((8, 5, 7)).astype(np.float32) * np.float32(scale)
    got, _ = decode(torch.from_numpy(maps), (40, 56), "cell", top_k=5)
    for one, point in zip(maps.astype(np.float64), got, strict=True):
        best = sorted(np.ndindex(5, 7), key=lambda cell: -one[cell])[:5]
        total = sum(one[cell] for cell in best)
        x = sum(one[v, u] * u for v, u in best) / total * 8
        y = sum(one[v, u] * v for v, u in best) / total * 8
        assert point == pytest.approx([x, y], abs=1e-3)


def test_cell_decoding_with_top_k_above_the_grid_takes_all_cells():
    got, _ = decode(torch.ones(1, 2, 2), (4, 4), "cell", top_k=50)
    assert got.tolist() == [[1.0, 1.0]]


def test_cell_decoding_of_an_empty_map_says_invisible():
    maps = torch.zeros(2, 3, 3)
    maps[1, 2, 1] = 0.5
    got, confidence = decode(maps, (24, 24), "cell")
    assert got.tolist() == [[-1, -1], [8, 16]]
    assert confidence.tolist() == [0, 0.5]


@pytest.mark.parametrize(("rule", "sigma"), [("subpixel", 1e-3), ("subpixel", 100.0), ("cell", 0.3), ("cell", 100.0)])
def test_maps_at_the_bounds_of_sigma_are_finite_and_show_every_point(rule, sigma):
    PropagationConfig(keypoint_rule=rule, keypoint_sigma=sigma)
    points = np.random.default_rng(0).uniform((0, 0), (55, 39), (200, 2))
    maps = encode_keypoints(points, (40, 56), (5, 7), rule=rule, sigma=sigma)
    assert maps.isfinite().all()
    assert (maps.flatten(1).amax(dim=1) > 0.003).all()
