"""Masks finer than patches: cells of labels, and colours that decide at the edge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.propagator import Propagator
from siammae.propagation.refinement import refine_by_colour


def blocks(maps, stride):
    """Means over blocks of pixels; those at the right and lower border may be smaller."""
    height, width = maps.shape[1:]
    rows, columns = range(0, height, stride), range(0, width, stride)
    return np.stack(
        [[maps[:, y : y + stride, x : x + stride].mean(axis=(1, 2)) for x in columns] for y in rows]
    ).transpose(2, 0, 1)


def between(maps, stride, shape):
    """Bilinear values at every pixel, from those at the centres of blocks."""
    for axis, length in ((1, shape[0]), (2, shape[1])):
        place = np.clip((np.arange(length) + 0.5) / stride - 0.5, 0, maps.shape[axis] - 1)
        low = np.floor(place).astype(int)
        high, part = np.minimum(low + 1, maps.shape[axis] - 1), place - low
        part = part[:, None] if axis == 1 else part
        maps = np.take(maps, low, axis) * (1 - part) + np.take(maps, high, axis) * part
    return maps


def naive(labels, image, radius, strength):
    """The formula pixel by pixel, in float64."""
    soft = labels.double().numpy()
    soft = soft / np.maximum(soft.sum(axis=0), 1e-6)
    colours = image.numpy() / 255.0
    count, height, width = soft.shape
    best = soft.argmax(axis=0)
    near = np.zeros_like(soft)
    for y in range(height):
        for x in range(width):
            box = best[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            near[:, y, x] = [(box == label).any() for label in range(count)]
    stride = 2 if radius >= 4 else 1
    reach = round(radius / stride)
    first, second = blocks(colours, stride), blocks(colours**2, stride)
    for _ in range(2):
        fits = np.zeros_like(soft)
        for label in range(count):
            weights = blocks(soft[label][None], stride)[0] ** 2
            local = np.zeros((7, *weights.shape))
            for y in range(weights.shape[0]):
                for x in range(weights.shape[1]):
                    box = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
                    total = max(weights[box].sum(), 1e-6 * (2 * reach + 1) ** 2)
                    mean = (weights[box] * first[:, *box]).sum(axis=(1, 2)) / total
                    square = (weights[box] * second[:, *box]).sum(axis=(1, 2)) / total
                    variance = np.maximum(square - mean**2, 0) + 5e-4
                    local[:, y, x] = [*mean, *(0.5 / variance), 0.5 * np.log(variance).sum()]
            local = between(local, stride, (height, width))
            fits[label] = -((colours - local[:3]) ** 2 * local[3:6]).sum(axis=0) - local[6]
        soft = soft * near * np.exp(strength * np.clip(fits - fits[:1], -6, 6))
        soft = soft / np.maximum(soft.sum(axis=0), 1e-6)
    return soft


def some(seed, count=3, size=(11, 14)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return torch.rand((count, *size), generator=generator).square(), image


@pytest.mark.parametrize(
    ("count", "radius", "strength"), [(2, 2, 0.3), (3, 1, 1.0), (4, 3, 0.0), (2, 20, 0.3), (3, 5, 0.3)]
)
def test_refine_by_colour_is_the_formula(count, radius, strength):
    labels, image = some(count, count)
    got = refine_by_colour(labels, image, radius=radius, strength=strength)
    np.testing.assert_allclose(got, naive(labels, image, radius, strength), atol=2e-3)


@pytest.mark.parametrize("place", [(0, 0), (17, 9), (36, 41)])
@pytest.mark.parametrize("radius", [3, 4])
def test_small_object_in_a_large_frame_is_refined_as_in_all_of_it(place, radius):
    generator = torch.Generator().manual_seed(sum(place))
    image = torch.randint(0, 256, (3, 43, 50), generator=generator, dtype=torch.uint8)
    labels = torch.stack([torch.ones(43, 50), torch.full((43, 50), 0.2)])
    labels[1, place[0] : place[0] + 5, place[1] : place[1] + 7] = 2
    got = refine_by_colour(labels, image, radius=radius, strength=0.5)
    np.testing.assert_allclose(got, naive(labels, image, radius, 0.5), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0, 10))
def test_a_label_stays_within_the_radius_of_where_it_was_and_out_of_where_it_was_not(seed, radius, strength):
    labels, image = some(seed)
    labels[2] *= torch.rand(labels.shape[1:], generator=torch.Generator().manual_seed(seed)) > 0.5
    before, after = labels.argmax(dim=0).numpy(), refine_by_colour(labels, image, radius=radius, strength=strength)
    assert after.isfinite().all()
    assert not after[labels == 0].any()
    for label in range(1, len(labels)):
        where = before == label
        got = after.argmax(dim=0).numpy() == label
        if not where.any():
            assert not got.any()
        else:
            assert distance_transform_cdt(~where, "chessboard")[got].max(initial=0) <= radius


def test_refine_by_colour_moves_a_blurred_edge_to_the_edge_in_the_picture():
    image = torch.full((3, 24, 24), 40, dtype=torch.uint8)
    image[:, :, 13:] = 200  # the object begins at column 13
    soft = torch.sigmoid((torch.arange(24) - 10.0) / 2).expand(24, 24)  # and the labels say 10
    refined = refine_by_colour(torch.stack([1 - soft, soft]), image, radius=8, strength=1.0)
    assert (refined[1] > 0.5)[12].nonzero().min() == 13


def disks(frames=4, size=(64, 96), radius=13, step=8):
    """A textured disk that moves by a whole patch a frame."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    background = random.integers(0, 80, (*size, 3), dtype=np.uint8)
    texture = random.integers(150, 256, (*size, 3), dtype=np.uint8)
    video, masks = [], []
    for t in range(frames):
        inside = (x - 27 - step * t) ** 2 + (y - 33) ** 2 <= radius**2
        moved = np.roll(texture, step * t, axis=1)
        video.append(np.where(inside[..., None], moved, np.roll(background, step * t, axis=1)))
        masks.append(inside.astype(np.uint8))
    return np.stack(video), np.stack(masks)


def follow(video, mask, **changes):
    config = PropagationConfig(radius=4, queue_length=2, top_k=1, temperature=0.02, **changes)
    propagator = Propagator(PixelExtractor(8), config)
    return [propagator.step(frame, mask=mask if t == 0 else None) for t, frame in enumerate(video)]


def test_cells_carry_edges_that_patches_lose():
    video, masks = disks()
    scores = {}
    for cells in (1, 2, 4, 8):
        result = follow(video, masks[0], label_cells=cells)[-1]
        assert result.scores.shape == (2, 8 * cells, 12 * cells)
        scores[cells] = region_similarity(result.label_map() == 1, masks[-1] == 1)
    assert scores[1] < scores[2] < scores[4] <= scores[8]
    assert scores[8] > 0.99  # whole patches match, so their pixels come along


def test_refinement_is_for_output_only():
    video, masks = disks()
    plain, refined = (follow(video, masks[0], refine=rule) for rule in ("none", "local-colour"))
    for before, after in zip(plain, refined, strict=True):
        assert torch.equal(before.scores, after.scores)
    gain = [region_similarity(run[-1].label_map() == 1, masks[-1] == 1) for run in (plain, refined)]
    assert gain[1] > gain[0] + 0.02


def test_a_correction_and_a_removal_with_cells_and_refinement():
    video, masks = disks()
    propagator = Propagator(PixelExtractor(8), PropagationConfig(radius=4, label_cells=4, refine="local-colour"))
    propagator.step(video[0], mask=masks[0])
    second = np.zeros_like(masks[1])
    second[2:10, 80:90] = 2
    result = propagator.step(video[1], mask=second)
    assert result.object_ids == (1, 2)
    assert result.scores.shape == (3, 32, 48)
    propagator.remove_object(1)
    assert propagator.step(video[2]).label_map().max() in (0, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_cells": 0}, "label_cells is 0: it must be 1 to 16"),
        ({"refine_radius": 0}, "refine_radius is 0: it must be 1 to 1024"),
        ({"refine_strength": -1.0}, r"refine_strength is -1\.0: it must be in \[0, 10\]"),
        ({"refine": "crf"}, "refine is 'crf': it must be one of 'none', 'local-colour'"),
    ],
)
def test_rules_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PropagationConfig(**fields)
