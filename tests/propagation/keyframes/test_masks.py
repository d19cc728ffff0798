"""Several annotated frames: what is drawn stays, what lies between comes from both sides, and memory stays flat."""

import tracemalloc

import numpy as np
import pytest

import siammae
from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.propagator import Propagator
from siammae.propagation.video import follow_masks, propagate_masks
from tests.helpers import moving_square

RULES = {"model": PixelExtractor(4), "config": PropagationConfig(radius=3, queue_length=2, top_k=3)}


@pytest.fixture
def clip():
    """A square that moves right, and its masks."""
    return moving_square(9, (48, 64), step=(1, 3))


def by_hand(video, mask, frames):
    propagator = Propagator(RULES["model"], RULES["config"])
    return {t: propagator.step(video[t], mask=mask if n == 0 else None) for n, t in enumerate(frames)}


def test_one_mask_is_followed_as_by_hand_wherever_it_is(clip):
    video, masks = clip
    got = propagate_masks(video, {4: masks[4]}, **RULES)
    ahead, back = by_hand(video, masks[4], range(4, 9)), by_hand(video, masks[4], range(4, -1, -1))
    for t in range(9):
        assert np.array_equal(got.labels[t], (ahead if t >= 4 else back)[t].label_map())
    assert np.array_equal(
        propagate_masks(video, {0: masks[0]}, **RULES).labels, propagate_masks(video, masks[0], **RULES).labels
    )


def test_annotated_frames_come_back_as_drawn_and_in_order(clip):
    video, masks = clip
    drawn = {0: masks[0], 3: np.roll(masks[3], 2, axis=0), 8: masks[8]}
    results = list(follow_masks(video, drawn, **RULES))
    assert [result.frame_index for result in results] == list(range(9))
    for t, mask in drawn.items():
        assert np.array_equal(results[t].label_map(), mask)
        assert results[t].confidence.tolist() == [1.0]


def test_two_annotated_frames_are_the_same_seen_backwards_in_time(clip):
    video, masks = clip
    there = propagate_masks(video, {0: masks[0], 8: masks[8]}, **RULES)
    back = propagate_masks(video[::-1], {0: masks[8], 8: masks[0]}, **RULES)
    assert np.array_equal(there.labels, back.labels[::-1])
    np.testing.assert_allclose(there.confidence, back.confidence[::-1], atol=1e-6)


def test_a_second_annotated_frame_brings_back_what_was_lost(clip):
    video, masks = clip
    video = video.copy()
    video[3] = 0  # nothing to be seen: the context of two frames forgets, but for the first
    config = RULES["config"].replace(pin_first=False, queue_length=1)
    one, two = (
        propagate_masks(video, given, model=RULES["model"], config=config).labels
        for given in ({0: masks[0]}, {0: masks[0], 8: masks[8]})
    )
    scores = [np.mean([region_similarity(run[t] == 1, masks[t] == 1) for t in range(4, 8)]) for run in (one, two)]
    assert scores[1] > scores[0] + 0.3
    assert scores[1] > 0.7


def test_an_object_drawn_later_is_followed_back_to_the_frame_before_and_no_farther(clip):
    video, masks = clip
    later = masks[6].copy()
    later[40:48, 4:12] = 2  # background: stands still
    got = propagate_masks(video, {0: masks[0], 3: masks[3], 6: later}, **RULES)
    assert got.object_ids == (1, 2)
    assert [bool((labels == 2).any()) for labels in got.labels] == [False] * 4 + [True] * 5
    assert np.isnan(got.confidence[:4, 1]).all()
    assert (got.confidence[4:, 1] > 0.3).all()


def test_an_object_that_is_said_to_be_gone_stays_as_long_as_it_is_seen(clip):
    video, masks = clip
    given = {0: masks[0], 8: np.zeros_like(masks[8])}
    got = propagate_masks(video, given, object_ids=[1], **RULES)
    for t in range(8):
        assert region_similarity(got.labels[t] == 1, masks[t] == 1) > 0.5, t
    assert not got.labels[8].any()
    gone = video.copy()
    gone[3:] = np.where(masks[0][..., None] == 1, video[8], video[0])  # the background alone
    got = propagate_masks(gone, given, object_ids=[1], **RULES)
    assert [bool(labels.any()) for labels in got.labels[[0, 1, 2, 6, 7, 8]]] == [True] * 3 + [False] * 3
    other = np.where(with_two(masks, 0) == 2, 2, 0).astype(np.uint8)
    back = propagate_masks(gone[::-1], {0: other, 8: masks[0]}, object_ids=[1, 2], **RULES)
    assert [bool((labels == 1).any()) for labels in back.labels[[0, 1, 2, 6, 7, 8]]] == [False] * 3 + [True] * 3


def test_an_object_that_is_said_to_be_gone_stays_away_after_the_last_mask():
    video, masks = moving_square(1, (48, 64))
    video = video.repeat(12, axis=0)  # stands still, so that only the masks can say that it has left
    got = propagate_masks(video, {0: masks[0], 4: np.zeros_like(masks[0])}, object_ids=[1], **RULES)
    assert (got.labels[:4] == 1).any(axis=(1, 2)).all()
    assert not (got.labels[4:] == 1).any()


def with_two(masks, frame):
    """The mask of a frame with a second object, which stands still."""
    both = masks[frame].copy()
    both[40:48, 4:12] = 2
    return both


def test_a_mask_that_holds_some_ids_only_leaves_the_others_followed(clip):
    video, masks = clip
    got = propagate_masks(video, {0: with_two(masks, 0), 8: masks[8]}, **RULES)  # speaks for 1 only
    for t in range(9):
        assert region_similarity(got.labels[t] == 2, with_two(masks, 0) == 2) > 0.5, t


def test_an_object_that_a_mask_does_not_speak_for_is_what_the_masks_around_say(clip):
    video, masks = clip
    lost = masks[0].copy()
    lost[30:38, 40:48] = 2  # wrongly drawn on plain background in frame 0, right in frame 8
    got = propagate_masks(video, {0: lost, 4: masks[4], 8: with_two(masks, 8)}, **RULES)
    right = [region_similarity(labels == 2, with_two(masks, 8) == 2) for labels in got.labels]
    assert max(right[1:5]) < 0.5  # nothing but frame 0 is known of it up to frame 4
    assert min(right[6:]) > 0.5  # nearer to frame 8 than to frame 0
    assert right[5] > 0.5


def test_objects_that_come_and_go_are_where_the_masks_say(clip):
    video, masks = clip
    empty = np.zeros_like(masks[0])
    only = np.where(with_two(masks, 4) == 2, 2, 0).astype(np.uint8)
    got = propagate_masks(video, {0: masks[0], 4: only, 8: with_two(masks, 8)}, object_ids=[1, 2], **RULES)
    assert got.object_ids == (1, 2)
    # Object 1 is seen all the time, object 2 is the background's, so that only the masks can say when it is there.
    for object_id, there in {1: [0, 1, 2, 3, 5, 6, 7, 8], 2: [3, 4, 5, 6, 7, 8]}.items():
        for t in there:
            assert region_similarity(got.labels[t] == object_id, with_two(masks, t) == object_id) > 0.5, (t, object_id)
    assert not (got.labels[4] == 1).any()
    assert not (got.labels[0] == 2).any()
    with pytest.raises(ValueError, match="the first mask is empty"):
        propagate_masks(video, {0: empty, 4: only}, object_ids=[1, 2], **RULES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"masks are of the frames \[\]: they must be at least one, counted from 0"),
        ({-1: "mask"}, r"masks are of the frames \[-1\]"),
        ({0: "mask", 20: "mask"}, "masks are given for frame 20, but the video ends at frame 8"),
    ],
)
def test_numbers_that_the_video_has_not_are_refused(clip, given, message):
    video, masks = clip
    with pytest.raises(ValueError, match=message):
        propagate_masks(video, dict.fromkeys(given, masks[0]), **RULES)


def test_a_mask_of_another_size_is_refused_at_the_first_frame(clip):
    video, masks = clip
    pulled = []
    frames = (pulled.append(t) or frame for t, frame in enumerate(video))
    with pytest.raises(ValueError, match=r"frame 8: mask is \(20, 64\) but the video is \(48, 64\)"):
        next(follow_masks(frames, {0: masks[0], 8: masks[8][:20]}, **RULES))
    assert pulled == [0]


def test_frames_of_two_sizes_before_the_first_mask_are_refused(clip):
    video, masks = clip
    frames = [video[0], video[1][:40], *video[2:]]
    with pytest.raises(ValueError, match=r"frame 1 is|must have one size"):
        propagate_masks(iter(frames), {3: masks[3]}, **RULES)


def test_refinement_between_two_masks_has_the_frame(clip):
    video, masks = clip
    config = RULES["config"].replace(refine="local-colour", refine_radius=2)
    results = list(follow_masks(video, {2: masks[2], 6: masks[6]}, model=RULES["model"], config=config))
    for t, result in enumerate(results):
        np.testing.assert_array_equal(result.image, video[t])


def test_memory_stays_flat_with_five_masks_in_3000_frames():
    video, masks = moving_square(2, (24, 32), side=8)
    frames, config = 3000, PropagationConfig(radius=2, queue_length=1, top_k=1)

    def results():
        given = dict.fromkeys(range(0, frames, frames // 5), masks[0])
        endless = (video[t % 2] for t in range(frames))
        return follow_masks(endless, given, model=siammae.PixelExtractor(8), config=config)

    next(results())  # what is loaded once
    tracemalloc.start()
    assert sum(1 for _ in results()) == frames
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # a frame has 9 KB of features alone: 600 of them, a stretch, would be 5 MB
