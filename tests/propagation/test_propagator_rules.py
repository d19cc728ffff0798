"""Single rules in the propagator: pinned frames in the queue, labels that sum to 1, maps of any size, centring."""

import numpy as np
import pytest
import torch

from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.labels import render_labels, resize_nearest
from siammae.propagation.propagator import Propagator
from tests.helpers import moving_square
from tests.propagation.test_focus import Regions
from tests.propagation.test_propagator import moving_squares, propagator, run


def test_propagator_that_queues_pinned_frames_has_frame_0_twice_until_the_queue_drops_it():
    video, masks = moving_squares(frames=6)
    follow, copies = propagator(queue_pinned=True), []
    first = follow.step(video[0], mask=masks[0]).scores
    for frame in video[1:]:
        copies.append(sum(torch.equal(labels, first) for labels in follow._stream.queue.labels()))
        follow.step(frame)
    assert copies == [2, 2, 2, 1, 1]  # a queue of 3


def test_propagator_that_queues_pinned_frames_removes_an_object_from_both_copies():
    video, masks = moving_squares(frames=2)
    follow = propagator(queue_pinned=True)
    follow.step(video[0], mask=masks[0])
    removed = follow.object_ids[0]
    follow.remove_object(removed)
    labels = follow._stream.queue.labels()
    assert torch.equal(labels[0], labels[1])
    assert removed not in follow.step(video[1]).object_ids


def test_propagator_that_normalizes_labels_shares_out_what_void_pixels_leave():
    video, masks = moving_squares(frames=3)
    first = masks[0].copy()
    first[:, ::4] = 255
    first[:4, :4] = 255  # patches without any label
    plain, normal = (run(video, first, normalize_labels=choice) for choice in (False, True))
    assert torch.equal(plain[0].scores, normal[0].scores)  # the given labels stay as they are
    total = plain[1].scores.sum(dim=0)
    assert (total < 0.9).any()
    torch.testing.assert_close(normal[1].scores, plain[1].scores / total.where(total > 0, torch.ones(())))
    assert normal[2].scores.isfinite().all()


@pytest.mark.parametrize("upsample_to", ["frame", "input"])
def test_label_map_of_another_size_is_rendered_there_and_not_resized(upsample_to):
    video, masks = moving_squares(frames=2)
    results = run(video, masks[0], upsample_to=upsample_to)
    small, size = masks[0].shape, (2 * masks[0].shape[0], 3 * masks[0].shape[1] - 1)
    assert np.array_equal(results[0].label_map(size), resize_nearest(masks[0], size))
    rendered = results[1].label_map(size)
    assert rendered.shape == size
    channels = render_labels(results[1].scores, size if upsample_to == "frame" else small, min_max=False)
    assert np.array_equal(rendered, np.array([0, *results[1].object_ids])[resize_nearest(channels, size)])
    assert np.array_equal(results[1].label_map(small), results[1].label_map())


class Lit(PixelExtractor):
    """Adds something of its own to all patches of every frame, as a network does that takes in the whole scene."""

    def __init__(self, patch_size):
        super().__init__(patch_size)
        self.frame = 0

    def extract(self, frames, **options):
        features = super().extract(frames, **options)
        self.frame += 1
        offset = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(self.frame))
        return features + 20 * features.std() * offset[:, None, None]


def test_propagator_that_centers_features_does_not_see_what_a_whole_frame_shares():
    video, masks = moving_squares(frames=5)
    config = PropagationConfig(radius=5, queue_length=3, top_k=2, temperature=0.05)
    overlaps = {}
    for centered in (False, True):
        follow = Propagator(Lit(2), config.replace(center_features=centered))
        results = [follow.step(frame, mask=masks[0] if t == 0 else None) for t, frame in enumerate(video)]
        overlaps[centered] = [
            region_similarity(one.label_map() == 1, truth == 1) for one, truth in zip(results, masks, strict=True)
        ]
    assert min(overlaps[True]) > 0.9
    assert min(overlaps[False]) < 0.7


def test_propagator_with_a_focus_centers_what_was_encoded():
    video, masks = moving_square(5, (96, 128), side=16, step=(4, 4))
    rules = {
        "radius": 3,
        "queue_length": 2,
        "top_k": 2,
        "temperature": 0.02,
        "focus_margin": 3,
        "center_features": True,
    }
    follow = Propagator(Regions(4), PropagationConfig(**rules))
    for t, frame in enumerate(video):
        result = follow.step(frame, mask=masks[0] if t == 0 else None)
        assert region_similarity(result.label_map() == 1, masks[t] == 1) > 0.9
    top, left, bottom, right = follow._stream.extractor.asked[-1]
    features = follow._stream.queue.features()[-1].tensor
    inside = torch.zeros(features.shape[1:], dtype=torch.bool)
    inside[top:bottom, left:right] = True
    torch.testing.assert_close(features.norm(dim=0), inside.float())
