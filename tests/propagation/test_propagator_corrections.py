"""Masks given in mid-stream, and objects removed: who is changed, who is followed on."""

import numpy as np
import pytest
import torch

from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.propagator import Propagator

SIZE = (24, 40)
ROWS = {1: slice(0, 8), 2: slice(8, 16), 3: slice(16, 24)}


def still(frames=5):
    """A textured frame that does not move, and a mask of objects 1, 2, 3, one a band of rows."""
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return np.repeat(frame[None], frames, axis=0), squares(1, 2, 3)


def squares(*ids, left=8):
    mask = np.zeros(SIZE, np.uint8)
    for i in ids:
        mask[ROWS[i], left : left + 12] = i
    return mask


def started(mask, *, patch=1, **changes):
    """One pixel a patch, so that rendering rounds no corners."""
    follow = Propagator(
        PixelExtractor(patch), PropagationConfig(**{"radius": 4, "top_k": 1, "queue_length": 2, **changes})
    )
    follow.step(still()[0][0], mask=mask)
    return follow


def test_mask_in_mid_stream_adds_a_new_object_and_leaves_others_followed():
    frame = still()[0][0]
    follow = started(squares(1, 3))
    assert np.array_equal(follow.step(frame).label_map(), squares(1, 3))
    added = follow.step(frame, mask=squares(2))
    assert added.object_ids == follow.object_ids == (1, 3, 2)
    assert added.given_ids == (2,)
    assert np.array_equal(added.label_map(), squares(1, 2, 3))
    for _ in range(4):  # longer than the queue: the mask's frame stays
        assert np.array_equal(follow.step(frame).label_map(), squares(1, 2, 3))
    assert follow._stream.queue.pinned == 2


def moving_bands(frames=12):
    """Two textured squares that move right by 2 pixels a frame, and their masks."""
    random = np.random.default_rng(0)
    video = np.repeat(random.integers(0, 80, (1, 24, 44, 3), dtype=np.uint8), frames, axis=0)
    texture = np.array([[[[220, 140, 60]]], [[[60, 140, 220]]]]) + random.integers(-25, 25, (2, 8, 8, 3))
    masks = np.zeros((frames, 24, 44), np.uint8)
    for t in range(frames):
        for i, top in ((1, 2), (2, 14)):
            place = slice(top, top + 8), slice(4 + 2 * t, 12 + 2 * t)
            video[t][place], masks[t][place] = texture[i - 1], i
    return video, masks


RULES = {
    "default": PropagationConfig(),
    "unpinned": PropagationConfig(pin_first=False),
    "dino": PropagationConfig.preset("dino").replace(resize=(24, 44), size_multiple=None),
    "siammae": PropagationConfig.preset("siammae").replace(resize=(24, 44)),
}


@pytest.mark.parametrize("rules", RULES)
def test_object_added_in_mid_stream_is_not_outvoted_by_the_frames_before(rules):
    video, masks = moving_bands()
    follow = Propagator(PixelExtractor(2), RULES[rules])
    for t, frame in enumerate(video):
        mask = {0: np.where(masks[0] == 1, 1, 0), 6: np.where(masks[6] == 2, 2, 0)}.get(t)
        labels = follow.step(frame, mask=mask).label_map()
        assert region_similarity(labels == 2, (masks[t] == 2) & (t >= 6)) > 0.9
        if t >= 6:
            assert region_similarity(labels == 1, masks[t] == 1) > 0.9


def test_object_corrected_in_mid_stream_is_not_outvoted_by_the_frames_before():
    video, masks = moving_bands()
    follow = Propagator(PixelExtractor(2), PropagationConfig(radius=3))
    lost = np.where(np.arange(44) > 30, 1, 0).astype(np.uint8) * np.ones((24, 1), np.uint8)
    follow.step(video[0], mask=lost)  # a wrong place, so that 1 is background where it should be
    for frame in video[1:6]:
        follow.step(frame)
    assert np.array_equal(follow.step(video[6], mask=masks[6]).label_map(), masks[6])
    for t in range(7, 12):
        assert region_similarity(follow.step(video[t]).label_map() == 1, masks[t] == 1) > 0.9


def test_object_said_to_be_gone_in_mid_stream_is_not_brought_back_by_the_frames_before():
    video, masks = moving_bands()
    follow = Propagator(PixelExtractor(2), PropagationConfig(radius=3))
    for t, frame in enumerate(video):
        mask = {0: masks[0], 6: np.where(masks[6] == 2, 2, 0)}.get(t)
        labels = follow.step(frame, mask=mask, object_ids=[1, 2] if t == 6 else None).label_map()
        assert (labels == 1).any() == (t < 6)
        assert region_similarity(labels == 2, masks[t] == 2) > 0.9


def test_mask_in_mid_stream_leaves_what_was_given_with_earlier_frames():
    frame = still()[0][0]
    follow = started(squares(1, 2))
    before = follow._stream.queue.labels()[0]
    follow.step(frame, mask=squares(1, 3, left=24))
    after = follow._stream.queue.labels()[0]
    assert torch.equal(after[1:3], before[1:])
    torch.testing.assert_close(after.sum(dim=0), torch.ones(SIZE))
    assert after[3].sum() > 0  # the new object was background there


def test_mask_in_mid_stream_adds_one_frame_to_the_memory():
    frame = still()[0][0]
    follow = started(squares(1))
    for count in range(5):
        follow.step(frame)
        follow.step(frame, mask=squares(1))
        assert follow._stream.queue.pinned == 2 + count
    assert len(follow._stream.queue) == 6 + 2


def test_mask_in_mid_stream_corrects_a_present_object_only():
    frame = still()[0][0]
    follow = started(squares(1, 2))
    moved = squares(1, left=24)
    corrected = follow.step(frame, mask=moved)
    assert corrected.object_ids == (1, 2)
    assert np.array_equal(corrected.label_map(), moved + squares(2))
    torch.testing.assert_close(corrected.scores.sum(dim=0), torch.ones(SIZE))
    assert np.array_equal(corrected.scores[1].numpy() > 0, moved == 1)  # nothing is left at the old place


def test_mask_in_mid_stream_takes_its_pixels_from_objects_it_does_not_speak_for():
    frame = still()[0][0]
    follow = started(squares(1, 2))
    mask = np.zeros(SIZE, np.uint8)
    mask[4:12, 8:20] = 3  # half of 1 and half of 2
    result = follow.step(frame, mask=mask)
    expected = np.where(mask > 0, mask, squares(1, 2))
    assert np.array_equal(result.label_map(), expected)
    assert np.array_equal(result.masks()[2], mask == 3)


@pytest.mark.parametrize("mask", [np.zeros(SIZE, np.uint8), squares(2), squares(3)])
def test_object_ids_with_an_absent_id_removes_it_from_the_frame(mask):
    frame = still()[0][0]
    follow = started(squares(1, 2))
    present = sorted(set(np.unique(mask)) - {0})
    result = follow.step(frame, mask=mask, object_ids=[1, *present])
    assert not (result.label_map() == 1).any()
    assert (result.scores[1] == 0).all()
    torch.testing.assert_close(result.scores.sum(dim=0), torch.ones(SIZE))
    assert np.array_equal(result.label_map() == 2, squares(2) == 2)
    assert 1 in follow.object_ids  # gone from the frame, still followed: earlier frames remember it


def test_void_in_mid_stream_is_never_returned():
    frame = still()[0][0]
    mask = squares(2)
    mask[:, 30:] = 255
    labels = started(squares(1)).step(frame, mask=mask).label_map()
    assert np.array_equal(labels, squares(1, 2))


@pytest.mark.parametrize(("first_output", "id_there"), [("given", 2), ("rendered", 0)])
def test_mask_in_mid_stream_is_returned_or_rendered_as_the_rules_say(first_output, id_there):
    mask = squares(2)
    mask[9, 21] = 2  # a sixteenth of a patch, which rendering loses
    labels = started(squares(1), patch=4, first_output=first_output).step(still()[0][0], mask=mask).label_map()
    assert labels[9, 21] == id_there
    assert (labels[squares(2) == 2] == 2).mean() > 0.9
    assert (labels[squares(1) == 1] == 1).mean() > 0.9


def test_mask_in_mid_stream_without_pinning_leaves_with_the_queue():
    frame = still()[0][0]
    follow = started(squares(1), pin_first=False)
    follow.step(frame, mask=squares(2))
    assert follow._stream.queue.pinned == 0
    assert len(follow._stream.queue) == 2


def test_refused_mask_in_mid_stream_adds_no_object():
    frame = still()[0][0]
    follow, other = started(squares(1)), started(squares(1))
    with pytest.raises(ValueError, match=r"holds ids \[2\] that object_ids \(3,\) lacks: list every id, or pass None"):
        follow.step(frame, mask=squares(2), object_ids=[3])
    assert follow.object_ids == (1,)
    assert torch.equal(follow.step(frame).scores, other.step(frame).scores)


def test_remove_object_gives_its_share_to_the_background():
    frame = still()[0][0]
    follow, other = started(squares(1, 2, 3)), started(squares(1, 2, 3))
    follow.step(frame)
    other.step(frame)
    follow.remove_object(2)
    assert follow.object_ids == (1, 3)
    got, whole = follow.step(frame), other.step(frame)
    assert got.object_ids == (1, 3)
    assert torch.equal(got.scores[1:], whole.scores[[1, 3]])
    torch.testing.assert_close(got.scores[0], whole.scores[0] + whole.scores[2])
    assert np.array_equal(got.label_map(), squares(1, 3))


def test_remove_object_leaves_earlier_results_alone():
    follow = started(squares(1, 2))
    before = follow.step(still()[0][0])
    follow.remove_object(1)
    assert np.array_equal(before.label_map(), squares(1, 2))


def test_removed_object_can_be_given_again():
    frame = still()[0][0]
    follow = started(squares(1, 2))
    follow.remove_object(1)
    result = follow.step(frame, mask=squares(1))
    assert result.object_ids == (2, 1)
    assert np.array_equal(result.label_map(), squares(1, 2))
    assert np.array_equal(follow.step(frame).label_map(), squares(1, 2))


def test_propagator_without_objects_left_goes_on_with_background():
    frame = still()[0][0]
    follow = started(squares(1))
    follow.remove_object(1)
    result = follow.step(frame)
    assert follow.object_ids == ()
    assert result.masks().shape == (0, *SIZE)
    assert not result.label_map().any()
    assert np.array_equal(follow.step(frame, mask=squares(3)).label_map(), squares(3))


@pytest.mark.parametrize("unknown", [0, 7])
def test_remove_object_refuses_an_unknown_id_and_lists_the_known(unknown):
    follow = started(squares(1, 3))
    with pytest.raises(ValueError, match=rf"object {unknown} is not followed: the ids are \[1, 3\]"):
        follow.remove_object(unknown)
    assert follow.object_ids == (1, 3)


def test_many_objects_are_followed_at_once():
    frame = np.random.default_rng(0).integers(0, 256, (30, 34, 3), dtype=np.uint8)
    mask = np.kron(np.arange(255, dtype=np.uint8).reshape(15, 17), np.ones((2, 2), np.uint8))
    follow = Propagator(PixelExtractor(2), PropagationConfig(radius=3, top_k=1))
    assert np.array_equal(follow.step(frame, mask=mask).label_map(), mask)
    again = follow.step(frame)
    assert again.object_ids == tuple(range(1, 255))
    assert region_similarity(again.label_map() == 200, mask == 200) > 0.9
    assert (again.label_map() == mask).mean() > 0.99
