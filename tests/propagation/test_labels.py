"""Soft labels against pixel loops: mixed by affinity, drawn from masks, rendered to label maps."""

import itertools

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from siammae.propagation.affinity import TopK
from siammae.propagation.labels import encode_mask, gather_labels, render_labels, resize_nearest, unit_sum

VOID = 255


def random_mask(shape, seed=0, ids=(0, 3, 7)):
    """Blocks of ids, so that patches are partly covered."""
    random = np.random.default_rng(seed)
    coarse = random.choice(np.array(ids, np.uint8), size=(-(-shape[0] // 5), -(-shape[1] // 5)))
    return np.kron(coarse, np.ones((5, 5), np.uint8))[: shape[0], : shape[1]]


def nearest(mask, size):
    """Sample the centre of every new pixel."""
    rows = [int((i + 0.5) * mask.shape[0] / size[0]) for i in range(size[0])]
    columns = [int((j + 0.5) * mask.shape[1] / size[1]) for j in range(size[1])]
    return mask[rows][:, columns]


@pytest.mark.parametrize(("frames", "channels", "h", "w", "k"), [(3, 4, 7, 13, 5), (1, 1, 1, 1, 1), (2, 200, 1, 4, 3)])
def test_gather_labels_mixes_labels_as_a_loop_does(frames, channels, h, w, k):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(h * w, k, generator=generator)
    indices = torch.randint(frames * h * w, (h * w, k), generator=generator)
    labels = torch.rand(frames, channels, h, w, generator=generator)
    got = gather_labels(TopK(weights, indices), labels)
    assert got.dtype == torch.float32
    expected = np.zeros((channels, h, w))
    for patch, place in itertools.product(range(h * w), range(k)):
        m, v, u = np.unravel_index(int(indices[patch, place]), (frames, h, w))
        expected[:, patch // w, patch % w] += float(weights[patch, place]) * labels[m, :, v, u].double().numpy()
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_gather_labels_takes_half_precision_labels_as_float32():
    topk = TopK(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert gather_labels(topk, torch.full((1, 2, 1, 1), 0.5, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 6, 2), r"context_labels is \(2, 6, 2\): it must be \(M, L, h, w\)"),
        ((2, 1, 2, 2), r"context_labels is \(2, 1, 2, 2\), but the matches are \(6, 1\) with indices up to 11"),
        ((1, 1, 2, 3), r"indices up to 11: pass the labels of the frames that topk_affinity searched"),
    ],
)
def test_gather_labels_refuses_labels_of_other_frames(shape, message):
    topk = TopK(torch.ones(6, 1), torch.arange(6, 12).reshape(6, 1))
    with pytest.raises(ValueError, match=message):
        gather_labels(topk, torch.ones(shape))


@pytest.mark.parametrize(
    ("size", "new"), [((32, 48), (4, 6)), ((37, 61), (5, 8)), ((5, 8), (40, 64)), ((1, 1), (3, 2))]
)
def test_resize_nearest_samples_pixel_centres(size, new):
    mask = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    assert np.array_equal(resize_nearest(mask, new), nearest(mask, new))


def test_encode_mask_by_area_is_the_part_of_each_patch_covered():
    mask = random_mask((28, 48), ids=(0, 3, 7, VOID))
    got = encode_mask(mask, (7, 3), (7, 6), (28, 48), "area").numpy()
    assert got.dtype == np.float32
    for channel, value in enumerate((0, 7, 3)):
        for y, x in np.ndindex(7, 6):
            part = np.mean(mask[4 * y : 4 * y + 4, 8 * x : 8 * x + 8] == value)
            assert got[channel, y, x] == pytest.approx(part, abs=1e-6)


@pytest.mark.parametrize(("size", "grid"), [((37, 61), (5, 8)), ((100, 107), (12, 13)), ((10, 7), (20, 14))])
def test_encode_mask_by_area_of_uneven_patches_is_close_to_their_coverage(size, grid):
    mask = random_mask(size)
    got = encode_mask(mask, (3, 7), grid, size, "area").numpy()
    fine = nearest(mask, (grid[0] * 40, grid[1] * 40))
    coverage = np.stack([(fine == i).reshape(grid[0], 40, grid[1], 40).mean((1, 3)) for i in (0, 3, 7)])
    pixels = min(size[0] / grid[0], size[1] / grid[1])
    assert np.abs(got - coverage).max() < max(4 / pixels, 1e-6) / 2
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize(("size", "in_size", "grid"), [((32, 48),) * 2 + ((4, 6),), ((37, 61), (40, 64), (5, 8))])
def test_encode_mask_bilinearly_is_videowalks_resize_of_one_hot_maps(size, in_size, grid):
    mask = random_mask(size, ids=(0, 3, 7, VOID))
    got = encode_mask(mask, (3, 7), grid, in_size, "bilinear").numpy()
    resized = nearest(mask, in_size)
    for channel, value in enumerate((0, 3, 7)):
        one_hot = (resized == value).astype(np.float32)
        expected = cv2.resize(one_hot, (grid[1], grid[0]), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got[channel], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (4, 6)), ((37, 61), (5, 8))])
def test_encode_mask_by_nearest_is_the_id_at_each_patch_centre(size, grid):
    mask = random_mask(size, ids=(0, 3, 7, VOID))
    got = encode_mask(mask, (3, 7), grid, (320, 480), "nearest").numpy()
    for y, x in np.ndindex(*grid):
        centre = mask[int((y + 0.5) * size[0] / grid[0]), int((x + 0.5) * size[1] / grid[1])]
        assert got[:, y, x].tolist() == [centre == 0, centre == 3, centre == 7]


@pytest.mark.parametrize("rule", ["area", "bilinear", "nearest"])
def test_encode_mask_gives_void_and_absent_objects_no_share(rule):
    mask = np.full((16, 16), VOID, np.uint8)
    mask[:, 8:] = 2
    got = encode_mask(mask, (1, 2), (2, 2), (16, 16), rule)
    assert got.tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 1]]]


@pytest.mark.parametrize("size", [(7, 13), (28, 39), (30, 40), (3, 5), (1, 1)])
def test_render_labels_is_the_argmax_of_upsampled_scores(size):
    scores = torch.rand(5, 7, 13, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    got = render_labels(scores, size, min_max=False)
    assert got.dtype == np.uint8
    assert np.array_equal(got, full.numpy().argmax(0))


@pytest.mark.parametrize("min_max", [False, True])
def test_render_labels_when_scores_are_equal_takes_the_smaller_channel(min_max):
    scores = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    twice = torch.stack([scores[0], scores[1], scores[0], scores[1]])
    assert np.array_equal(render_labels(twice, (9, 9), min_max=min_max), render_labels(scores, (9, 9), min_max=min_max))
    assert not render_labels(torch.zeros(3, 2, 2), (4, 4), min_max=min_max).any()


def dino_norm_mask(maps):
    """DINO, eval_video_segmentation.py: each label's map to [0, 1]; its argmax takes NaN for the largest."""
    maps = maps.copy()
    for one in maps:
        if one.max() > 0:
            one -= one.min()
            with np.errstate(invalid="ignore"):
                one /= one.max()
    return maps.argmax(0)  # NumPy's argmax takes NaN for the largest too


@pytest.mark.parametrize("seed", range(3))
def test_render_labels_with_min_max_is_dinos_norm_mask(seed):
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(seed)) ** 3
    scores[3] = 0
    full = F.interpolate(scores[None], (40, 48), mode="bilinear", align_corners=False)[0].numpy()
    assert np.array_equal(render_labels(scores, (40, 48), min_max=True), dino_norm_mask(full))


@pytest.mark.parametrize("constant", [[0.0, 1.0], [1.0, 0.0], [0.4, 0.6], [0.0, 0.0, 1.0], [None, 0.3], [None, 0.0]])
def test_render_labels_with_min_max_of_an_object_that_fills_the_frame_keeps_it_as_dino_does(constant):
    scores = torch.rand(len(constant), 4, 4, generator=torch.Generator().manual_seed(0))
    for channel, value in enumerate(constant):
        if value is not None:
            scores[channel] = value
    got = render_labels(scores, (4, 4), min_max=True)
    assert np.array_equal(got, dino_norm_mask(scores.numpy()))


def test_render_labels_tells_254_objects_apart():
    scores = torch.zeros(255, 15, 17)
    scores.view(255, 255).fill_diagonal_(1.0)
    assert np.array_equal(render_labels(scores, (15, 17), min_max=False).ravel(), np.arange(255))


def test_encoded_masks_of_254_objects_are_rendered_back():
    mask = np.kron(np.arange(255, dtype=np.uint8).reshape(15, 17), np.ones((4, 4), np.uint8))
    scores = encode_mask(mask, range(1, 255), (15, 17), mask.shape, "area")
    assert np.array_equal(render_labels(scores, (15, 17), min_max=False), mask[::4, ::4])


@pytest.mark.parametrize("size", [(12, 20), (7, 31), (2, 3), (3, 5)])
def test_render_labels_by_nearest_takes_the_patch_under_a_pixels_corner(size):
    scores = torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(0))
    best = scores.argmax(dim=0).numpy()
    expected = [[best[y * 3 // size[0], x * 5 // size[1]] for x in range(size[1])] for y in range(size[0])]
    assert np.array_equal(render_labels(scores, size, min_max=False, upsampling="nearest"), expected)


def test_unit_sum_divides_by_the_sum_and_leaves_zeros():
    labels = torch.tensor([[[0.25, 0.0, 0.5]], [[0.25, 0.0, 0.5]]])
    assert unit_sum(labels).tolist() == [[[0.5, 0.0, 0.5]], [[0.5, 0.0, 0.5]]]
