"""Rules of single presets in the propagator: pinned frames in the queue, labels that sum to 1, maps of any size."""

import numpy as np
import pytest
import torch

from siammae.propagation.labels import render_labels, resize_nearest
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
