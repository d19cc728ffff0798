"""Which frame to annotate next: each rule on results made by hand."""

import numpy as np
import pytest

from siammae.propagation.suggestion import expected_gain, frame_confidence, suggest_frame
from siammae.propagation.video import VideoKeypoints, VideoMasks


def result(*confidence):
    """Masks of one object, as sure as said."""
    sure = np.array(confidence, np.float32)
    return VideoMasks(np.zeros((len(sure), 2, 2), np.uint8), (1,), sure.reshape(len(sure), -1))


def test_lowest_is_the_frame_that_is_least_sure_of_those_not_annotated():
    sure = result(1, 0.5, 0.9, 0.2, 0.6)
    assert suggest_frame(sure, [0], rule="lowest") == 3
    assert suggest_frame(sure, [0, 3], rule="lowest") == 1


def test_uniform_spaces_frames_evenly_whatever_their_confidence():
    random = np.random.default_rng(0)
    for sure in (np.full(100, 0.5), random.random(100)):
        order = [0]
        while len(order) < 9:
            order.append(suggest_frame(result(*sure), order, rule="uniform"))
        assert order[:2] == [0, 49]
        assert np.diff([*sorted(order), 100]).max() <= 20


def test_random_is_any_other_frame_and_the_same_for_the_same_seed():
    sure = result(*[0.5] * 30)
    drawn = [suggest_frame(sure, [0, 3], rule="random", seed=seed) for seed in range(200)]
    assert drawn == [suggest_frame(sure, [0, 3], rule="random", seed=seed) for seed in range(200)]
    assert len(set(drawn)) > 20
    assert not {0, 3} & set(drawn)


def test_gain_prefers_a_long_unsure_stretch_to_one_frame_that_is_less_sure():
    sure = np.full(40, 0.95)
    sure[0], sure[5], sure[20:36] = 1, 0.1, 0.5
    assert suggest_frame(result(*sure), [0, 39], rule="lowest") == 5
    assert 20 <= suggest_frame(result(*sure), [0, 39], rule="gain") < 36
    assert suggest_frame(result(*sure), [0, 39]) == suggest_frame(result(*sure), [0, 39], rule="gain")


def test_expected_gain_is_the_doubt_that_shrinks_with_the_distance():
    random = np.random.default_rng(0)
    for frames in (1, 2, 7, 30):
        for count in {1, (frames + 1) // 2, frames}:
            sure, annotated = random.random(frames), random.permutation(frames)[:count].tolist()
            away = [min(abs(t - a) for a in annotated) for t in range(frames)]
            slow = [
                sum((1 - sure[t]) * max(0, 1 - abs(t - c) / away[t]) for t in range(frames) if away[t])
                for c in range(frames)
            ]
            np.testing.assert_allclose(expected_gain(sure, annotated), slow, atol=1e-9)


def test_objects_count_alike_and_those_not_known_yet_not_at_all():
    sure = np.array([[1, np.nan], [0.4, 0.6], [np.nan, np.nan]])
    np.testing.assert_allclose(frame_confidence(sure), [1, 0.5, 0])
    assert suggest_frame(VideoKeypoints(np.zeros((3, 2, 2), np.float32), sure.astype(np.float32)), [0, 2]) == 1


@pytest.mark.parametrize("rule", ["gain", "lowest", "uniform", "random"])
def test_when_all_frames_are_annotated_there_is_none(rule):
    assert suggest_frame(result(0.5, 0.5, 0.5), {0, 1, 2}, rule=rule) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "rule is 'best': it must be one of gain, uniform, lowest, random"),
        ({"annotated": []}, r"annotated is \[\]: at least one number, each from 0 to 2"),
        ({"annotated": [0, 3]}, r"annotated is \[0, 3\]: at least one number, each from 0 to 2"),
        ({"annotated": [-1]}, r"annotated is \[-1\]"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        suggest_frame(result(1, 0.5, 0.5), **{"annotated": [0], **options})
