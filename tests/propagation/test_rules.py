"""Two presets against slow float64 restatements of whole runs of the public evaluators, on random videos.

tests/test_presets.py has all of them, frame by frame."""

import cv2
import numpy as np
import pytest
import torch

from siammae.config import PropagationConfig
from siammae.propagation.keypoint_propagator import KeypointPropagator
from siammae.propagation.propagator import Propagator
from tests.protocols import bilinear, nearest

PATCH = 8
FRAME, INPUT, GRID = (56, 88), (40, 72), (5, 9)  # (H, W); no pixel centre of one lies on a border of another
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


class RandomProjection:
    """A fixed random linear map of each patch's normalised pixels."""

    patch_size = PATCH

    def __init__(self, channels=6):
        self.matrix = np.random.default_rng(99).normal(size=(PATCH * PATCH * 3, channels))

    def extract(self, frames, *, batch_size=8, pixel_std=None):
        return torch.stack([torch.from_numpy(self.one(frame, pixel_std)).float() for frame in frames])

    def one(self, frame, pixel_std=None):
        pixels = (frame / 255 - IMAGENET[0]) / (IMAGENET[1] if pixel_std is None else np.array(pixel_std))
        h, w = frame.shape[0] // PATCH, frame.shape[1] // PATCH
        patches = pixels.reshape(h, PATCH, w, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(h, w, -1)
        return (patches @ self.matrix).transpose(2, 0, 1)  # (C, h, w)


def random_video(frames, seed):
    """Noise that changes a little from frame to frame, so that matches are not all in frame 0."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, 40, (frames, *FRAME, 3)).cumsum(axis=0)
    return (128 + 127 * np.sin(steps / 60 + random.normal(0, 2, (*FRAME, 3)))).astype(np.uint8)


def random_mask(seed, ids=(0, 2, 5)):
    coarse = np.random.default_rng(seed).choice(np.array(ids, np.uint8), size=(4, 6))
    return np.kron(coarse, np.ones((15, 17), np.uint8))[: FRAME[0], : FRAME[1]]


def unit(values):
    return values / np.sqrt((values**2).sum(axis=0, keepdims=True))


def offsets():
    y, x = np.mgrid[: GRID[0], : GRID[1]].reshape(2, -1)
    return np.abs(y[:, None] - y), np.abs(x[:, None] - x)  # (query patch, context patch)


def scores_of(query, context):
    """Return cosines (query patches, M, context patches)."""
    return np.stack([query.reshape(len(query), -1).T @ one.reshape(len(one), -1) for one in context], axis=1)


def dino_labels(features, first, radius, top_k, last):
    """eval_video_segmentation.py: frame 0 and the last few, a square window everywhere, ties at the k-th kept."""
    dy, dx = offsets()
    window = (dy <= radius) & (dx <= radius)
    stored = [first]
    for t in range(1, len(features)):
        used = [0, *range(max(1, t - last), t)]
        affinity = np.exp(scores_of(features[t], [features[i] for i in used]) / 0.1) * window[:, None]
        affinity = affinity.reshape(len(window), -1)
        affinity[affinity < np.sort(affinity)[:, -top_k][:, None]] = 0
        affinity /= affinity.sum(axis=1, keepdims=True)
        labels = np.concatenate([stored[i].reshape(len(first), -1) for i in used], axis=1)
        stored.append((labels @ affinity.T).reshape(first.shape))
    return stored


def siammae_labels(features, first, radius, top_k, last):
    """CropMAE: frame 0 free of the window; a history padded with copies of frame 0 inside it; exact top k."""
    dy, dx = offsets()
    window = dy**2 + dx**2 < radius**2
    history, stored = [0] * last, [first]
    for t in range(1, len(features)):
        used = [0, *history[-last:]]
        assert used.count(0) == (max(22 - t, 1) if last == 20 else used.count(0))
        scores = scores_of(features[t], [features[i] for i in used])
        scores[:, 1:][~np.broadcast_to(window[:, None], scores[:, 1:].shape)] -= 1e10
        scores = scores.reshape(len(window), -1)
        labels = np.concatenate([stored[i].reshape(len(first), -1) for i in used], axis=1)
        mixed = np.zeros((len(first), len(window)))
        for q, row in enumerate(scores):
            best = np.argsort(-row, kind="stable")[:top_k]
            weights = np.exp(row[best] / 0.7)
            mixed[:, q] = labels[:, best] @ (weights / weights.sum())
        stored.append(mixed.reshape(first.shape))
        history.append(t)
    return stored


def norm_mask(full):
    for one in full:
        if one.max() > 0:
            one -= one.min()
            one /= one.max()
    return full


def assert_rendered(result, soft, *, min_max=False):
    """The library's soft labels are these, and so is the label map wherever the best two are not near-equal."""
    np.testing.assert_allclose(result.scores.numpy(), soft, atol=1e-5)
    full = np.stack([bilinear(one, INPUT) for one in soft])
    full = norm_mask(full) if min_max else full
    ranked = np.sort(full, axis=0)
    clear = nearest(ranked[-1] - ranked[-2] > 1e-3, FRAME)
    expected = np.array([0, *result.object_ids])[nearest(full.argmax(0), FRAME)]
    assert clear.mean() > 0.95
    assert np.array_equal(result.label_map()[clear], expected[clear])


def prepared(video, pixel_std=None):
    extractor = RandomProjection()
    resized = [cv2.resize(frame, INPUT[::-1], interpolation=cv2.INTER_LINEAR) for frame in video]
    return extractor, [unit(extractor.one(frame, pixel_std)) for frame in resized]


@pytest.mark.parametrize("seed", range(3))
def test_dino_preset_gives_the_labels_of_its_public_evaluator(seed):
    config = PropagationConfig.preset("dino").replace(resize=INPUT, radius=2)
    video, mask = random_video(11, seed), random_mask(seed)
    extractor, features = prepared(video, pixel_std=(0.228, 0.224, 0.225))
    centres = nearest(mask, GRID)
    first = np.stack([centres == i for i in (0, 2, 5)]).astype(float)
    expected = dino_labels(features, first, radius=2, top_k=5, last=7)
    propagator = Propagator(extractor, config)
    assert np.array_equal(propagator.step(video[0], mask=mask).label_map(), mask)  # the original mask is copied
    for frame, soft in zip(video[1:], expected[1:], strict=True):
        assert_rendered(propagator.step(frame), soft, min_max=True)


@pytest.mark.parametrize("seed", range(3))
def test_siammae_preset_gives_the_labels_of_its_public_evaluator(seed):
    config = PropagationConfig.preset("siammae").replace(resize=INPUT, radius=3)
    video, mask = random_video(25, seed), random_mask(seed)  # the copies of frame 0 are gone after 21
    extractor, features = prepared(video)
    one_hot = np.stack([nearest(mask, INPUT) == i for i in (0, 2, 5)]).astype(np.float32)
    first = np.stack([cv2.resize(one, GRID[::-1], interpolation=cv2.INTER_LINEAR) for one in one_hot]).astype(float)
    expected = siammae_labels(features, first, radius=3, top_k=7, last=20)
    propagator = Propagator(extractor, config)
    assert_rendered(propagator.step(video[0], mask=mask), first)  # frame 0 is rendered like the others
    for frame, soft in zip(video[1:], expected[1:], strict=True):
        assert_rendered(propagator.step(frame), soft)


def test_siammae_preset_for_jhmdb_gives_the_keypoints_of_its_public_evaluator():
    config = PropagationConfig.preset("siammae", dataset="jhmdb").replace(resize=INPUT, radius=3)
    video = random_video(5, 0)
    points = np.array([[30.3, 19.0], [60.0, 40.5], [4.0, 7.0]])
    extractor, features = prepared(video)
    first = np.zeros((3, *GRID))
    for one, (x, y) in zip(first, points, strict=True):
        for v, u in np.ndindex(*GRID):  # peaks rounded half up, except below 1.5 where int() truncates toward zero
            low_x, low_y = int(x * GRID[1] / FRAME[1] - 1.5), int(y * GRID[0] / FRAME[0] - 1.5)
            high_x, high_y = int(x * GRID[1] / FRAME[1] + 2.5), int(y * GRID[0] / FRAME[0] + 2.5)
            if low_x <= u < high_x and low_y <= v < high_y:
                one[v, u] = np.exp(-((u - low_x - 2) ** 2 + (v - low_y - 2) ** 2) / 0.5)
    expected = siammae_labels(features, first, radius=3, top_k=7, last=20)
    propagator = KeypointPropagator(extractor, config)
    for index, (frame, maps) in enumerate(zip(video, expected, strict=True)):
        got = propagator.step(frame, keypoints=points if index == 0 else None).points
        for point, one in zip(got, maps, strict=True):
            best = np.argsort(-one.ravel(), kind="stable")[:5]
            weights = one.ravel()[best] / one.ravel()[best].sum()
            place = (weights @ (best % GRID[1]), weights @ (best // GRID[1]))
            assert point == pytest.approx([place[0] * FRAME[1] / GRID[1], place[1] * FRAME[0] / GRID[0]], abs=1e-2)
