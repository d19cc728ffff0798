"""Keypoints of several annotated frames: what is given stays, what lies between comes from both sides."""

import tracemalloc

import numpy as np
import pytest

from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.propagation.keypoint_propagator import KeypointPropagator
from siammae.propagation.video import follow_keypoints, propagate_keypoints
from tests.helpers import moving_square

RULES = {"model": PixelExtractor(4), "config": PropagationConfig(radius=3, queue_length=2, top_k=1)}
FIRST = np.array([[12.0, 14.0], [18.0, 20.0]])  # on the square in frame 0
STEP = np.array([4.0, 0.0])
NAN, NOWHERE = [np.nan, np.nan], [-1.0, -1.0]


@pytest.fixture(scope="module")
def video():
    """A square that moves right by a patch a frame."""
    return moving_square(9, (48, 64), step=(0, 4))[0]


def truth(frame):
    return FIRST + frame * STEP


def follow(video, points, **changes):
    return propagate_keypoints(video, points, **{**RULES, **changes})


@pytest.mark.parametrize("rule", ["subpixel", "cell"])
def test_the_first_frame_alone_gives_what_a_stream_gives_to_the_bit(video, rule):
    config = RULES["config"].replace(keypoint_rule=rule)
    stream = KeypointPropagator(RULES["model"], config)
    steps = [stream.step(frame, keypoints=FIRST if t == 0 else None) for t, frame in enumerate(video)]
    for given in (FIRST, {0: FIRST}):
        got = follow(video, given, config=config)
        assert np.array_equal(got.points, [step.points for step in steps])
        assert np.array_equal(got.confidence, [step.confidence for step in steps])


def test_what_lies_before_the_first_annotated_frame_is_followed_backwards(video):
    got = follow(video, {6: truth(6)})
    stream = KeypointPropagator(RULES["model"], RULES["config"])
    back = [stream.step(video[t], keypoints=truth(6) if t == 6 else None).points for t in range(6, -1, -1)]
    np.testing.assert_allclose(got.points[6::-1], back, atol=1e-3)
    assert np.abs(got.points[0] - truth(0)).max() < 2


def test_annotated_frames_come_back_as_given(video):
    given = {1: truth(1), 4: truth(4) + 3, 8: truth(8)}
    got = follow(video, given)
    for t, points in given.items():
        assert np.array_equal(got.points[t], points.astype(np.float32))
        assert (got.confidence[t] == 1).all()


def test_two_annotated_frames_are_the_same_seen_backwards_in_time(video):
    there = follow(video, {0: truth(0), 8: truth(8)})
    back = follow(video[::-1], {0: truth(8), 8: truth(0)})
    np.testing.assert_allclose(there.points, back.points[::-1], atol=1e-4)
    np.testing.assert_allclose(there.confidence, back.confidence[::-1], atol=1e-6)


def test_a_second_annotated_frame_brings_back_what_was_lost(video):
    video = video.copy()
    video[3] = 0  # nothing to be seen: a context of one frame forgets
    config = RULES["config"].replace(pin_first=False, queue_length=1)
    one, two = (follow(video, given, config=config) for given in ({0: truth(0)}, {0: truth(0), 8: truth(8)}))
    errors = [np.mean([np.abs(run.points[t] - truth(t)) for t in range(4, 8)]) for run in (one, two)]
    assert errors[1] < 2 < errors[0]


def test_a_keypoint_that_a_frame_does_not_speak_for_is_followed_on_as_if_it_were_not_there(video):
    some = {0: truth(0), 4: np.array([truth(4)[0], NAN]), 8: truth(8)}
    got, alone = follow(video, some), follow(video, {0: truth(0)[1:]})
    # Until the frame is reached nothing but the first frame knows it; then the last one does, too.
    np.testing.assert_allclose(got.points[:5, 1], alone.points[:5, 0], atol=1e-4)
    assert np.abs(got.points[:, 1] - [truth(t)[1] for t in range(9)]).max() < 2


def test_a_keypoint_that_is_given_later_is_not_known_before_the_frame_that_lacks_it(video):
    got = follow(video, {2: np.array([truth(2)[0], NAN]), 6: truth(6)})
    assert (got.points[:3, 1] == -1).all()
    assert (got.confidence[:3, 1] == 0).all()
    assert np.abs(got.points[3:, 1] - [truth(t)[1] for t in range(3, 9)]).max() < 2
    assert np.abs(got.points[:, 0] - [truth(t)[0] for t in range(9)]).max() < 2


def test_a_keypoint_that_vanishes_and_returns_changes_half_way(video):
    gone = np.array([truth(4)[0], NOWHERE])
    got = follow(video, {0: truth(0), 4: gone, 8: truth(8)})
    there = (got.points[:, 1] != -1).all(axis=1)
    assert there.tolist() == [True, True, True, False, False, False, True, True, True]
    assert (got.confidence[[3, 5], 1] == 0).all()
    assert got.confidence[4, 1] == 1  # as given
    assert np.abs(got.points[there, 1] - [truth(t)[1] for t in np.flatnonzero(there)]).max() < 2


def test_a_keypoint_that_is_said_to_be_gone_stays_away_until_it_is_given_again(video):
    got = follow(video, {0: truth(0), 3: np.array([NOWHERE, truth(3)[1]])})
    assert (got.points[3:, 0] == -1).all()
    assert np.abs(got.points[3:, 1] - [truth(t)[1] for t in range(3, 9)]).max() < 2


def test_when_all_are_gone_at_the_end_the_second_half_is_empty(video):
    got = follow(video, {0: truth(0), 8: np.array([NOWHERE, NOWHERE])})
    assert (got.points[5:8] == -1).all()
    assert (got.points[:4] != -1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"keypoints are of the frames \[\]: they must be at least one, counted from 0"),
        ({-1: FIRST}, r"keypoints are of the frames \[-1\]"),
        ({0: FIRST, 20: FIRST}, "keypoints are given for frame 20, but the video ends at frame 8"),
        ({0: FIRST, 3: FIRST * np.nan}, "the keypoints of frame 3 are all NaN, so they say nothing: leave the frame"),
        ({2: np.array([NOWHERE])}, "the first keypoints are all NaN or -1"),
        ({2: FIRST[0]}, r"keypoints are \(2,\) float64: they must be \(N, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(video, given, message):
    with pytest.raises(ValueError, match=message):
        follow(video, given)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (FIRST[:1], "frame 8: 1 keypoints, but 2 are followed"),
        (FIRST[0], r"frame 8: keypoints are \(2,\) float64: they must be \(N, 2\)"),
        (FIRST + 50, r"frame 8: keypoint 0 is \(62.0, 64.0\): it must lie inside the frame"),
    ],
)
def test_what_does_not_fit_a_later_frame_is_refused_at_the_first(video, later, message):
    pulled = []
    frames = (pulled.append(t) or frame for t, frame in enumerate(video))
    with pytest.raises(ValueError, match=message):
        next(follow_keypoints(frames, {0: FIRST, 8: later}, **RULES))
    assert pulled == [0]


def test_memory_stays_flat_with_five_annotated_frames_in_a_long_video():
    video = moving_square(2, (24, 32), side=8)[0]

    def peak(frames):
        given = dict.fromkeys(range(0, frames, frames // 5), np.array([[12.0, 12.0]]))
        endless = (video[t % 2] for t in range(frames))
        tracemalloc.start()
        assert sum(1 for _ in follow_keypoints(endless, given, **RULES)) == frames
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(20)  # what is loaded once
    assert peak(600) < 1.2 * peak(60) + 200_000
