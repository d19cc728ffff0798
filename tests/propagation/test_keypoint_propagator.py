"""Keypoints followed one frame a call: accuracy, corrections in mid-stream, refusals that change nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from siammae.config import PropagationConfig
from siammae.errors import KernelUnavailableError
from siammae.features import PixelExtractor
from siammae.propagation.keypoint_propagator import KeypointPropagator

SIZE = (24, 40)
POINTS = np.array([[6.5, 6.5], [12.5, 6.5], [8.5, 14.5]])  # on the moving square in frame 0


def moving_square(frames=6, step=2):
    """A textured square that moves right over a textured background."""
    random = np.random.default_rng(0)
    video = np.repeat(random.integers(0, 80, (1, *SIZE, 3), dtype=np.uint8), frames, axis=0)
    texture = random.integers(120, 256, (16, 14, 3), dtype=np.uint8)
    for t in range(frames):
        video[t, 2:18, 2 + step * t : 16 + step * t] = texture
    return video


def follower(**changes):
    config = PropagationConfig(**{"radius": 5, "top_k": 1, "queue_length": 3, **changes})
    return KeypointPropagator(PixelExtractor(2), config)


def run(video, points=POINTS, **changes):
    follow = follower(**changes)
    return [follow.step(frame, keypoints=points if t == 0 else None) for t, frame in enumerate(video)]


def test_keypoint_propagator_follows_the_points_of_a_moving_square():
    for t, result in enumerate(run(moving_square())):
        truth = POINTS + np.array([2 * t, 0])
        assert result.points.shape == (3, 2)
        assert (result.points.dtype, result.confidence.dtype) == (np.float32, np.float32)
        assert np.abs(result.points - truth).max() < 1
        assert ((result.confidence >= 0) & (result.confidence <= 1)).all()


@pytest.mark.parametrize("points", [POINTS, np.array([[-0.5, -0.5], [39.5, 23.5]]), np.array([[3, 4]])])
def test_given_keypoints_come_back_exactly_with_confidence_1(points):
    result = follower().step(moving_square()[0], keypoints=points)
    assert np.array_equal(result.points, points.astype(np.float32))
    assert (result.confidence == 1).all()


def test_given_keypoints_are_decoded_when_the_rules_say_rendered():
    result = follower(first_output="rendered", keypoint_rule="cell").step(moving_square()[0], keypoints=POINTS)
    assert not np.array_equal(result.points, POINTS)
    assert np.abs(result.points - POINTS).max() < 2


def test_keypoint_propagator_takes_numpy_torch_and_pil_frames_alike():
    video = moving_square(3)
    others = [torch.from_numpy(video).permute(0, 3, 1, 2), [Image.fromarray(frame) for frame in video]]
    for other in others:
        for one, two in zip(run(video), run(other), strict=True):
            assert np.array_equal(one.points, two.points)


def test_correction_in_mid_stream_with_nan_rows_moves_the_others_only():
    video = moving_square()
    follow, undisturbed = follower(), run(video)
    for t in range(3):
        follow.step(video[t], keypoints=POINTS if t == 0 else None)
    correction = np.full((3, 2), np.nan)
    correction[1] = (30.5, 20.5)
    result = follow.step(video[3], keypoints=correction)
    assert np.array_equal(result.points[1], np.float32([30.5, 20.5]))
    assert result.confidence[1] == 1
    assert np.array_equal(result.points[[0, 2]], undisturbed[3].points[[0, 2]])
    assert follow._stream.queue.pinned == 2
    later = follow.step(video[4])
    assert np.abs(later.points[[0, 2]] - undisturbed[4].points[[0, 2]]).max() < 1


def test_correction_in_mid_stream_is_not_outvoted_by_the_frames_before():
    video = moving_square(1).repeat(9, axis=0)
    follow = follower(top_k=7, queue_length=7)
    follow.step(video[0], keypoints=POINTS)
    for frame in video[1:6]:
        follow.step(frame)
    moved = POINTS + np.array([4, 2])
    follow.step(video[6], keypoints=moved)
    for frame in video[7:]:  # only the first frame, whose points were given too, says otherwise
        assert np.abs(follow.step(frame).points - moved).max() < 2


@pytest.mark.parametrize("rule", ["subpixel", "cell"])
def test_keypoints_of_nan_alone_change_nothing_and_are_not_kept(rule):
    video = moving_square()
    follow, undisturbed = follower(keypoint_rule=rule), run(video, keypoint_rule=rule)
    for t, frame in enumerate(video):
        result = follow.step(frame, keypoints=POINTS if t == 0 else np.full((3, 2), np.nan))
        assert np.array_equal(result.points, undisturbed[t].points)
    assert follow._stream.queue.pinned == 1


def test_keypoint_propagator_memory_is_bounded():
    video, follow = moving_square(), follower()
    for t in range(100):
        follow.step(video[t % 6], keypoints=POINTS if t == 0 else None)
        assert len(follow._stream.queue) == min(t, 3) + 1


def test_keypoint_propagator_after_reset_begins_a_new_video():
    video, follow = moving_square(), follower()
    follow.step(video[0], keypoints=POINTS)
    follow.reset()
    assert follow.config.radius == 5
    with pytest.raises(RuntimeError, match=r"no keypoints yet: give them on the first frame, step\(frame, keypoints"):
        follow.step(video[0])
    assert follow.step(video[0], keypoints=POINTS[:1]).points.shape == (1, 2)


def test_keypoint_propagator_refuses_a_step_before_any_keypoints():
    with pytest.raises(RuntimeError, match="no keypoints yet"):
        follower().step(moving_square()[0])


def test_keypoint_propagator_refuses_kernels_that_cannot_run(monkeypatch):
    monkeypatch.setattr("siammae.kernels.available_kernels", lambda: {"triton": "no GPU", "reference": "available"})
    with pytest.raises(KernelUnavailableError, match="no triton kernels here: no GPU"):
        KeypointPropagator(PixelExtractor(2), kernels="triton")


NAN = float("nan")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((3, 3)), r"keypoints are \(3, 3\) float64: they must be \(N, 2\) numbers, x and y in pixels"),
        (np.zeros(2), r"keypoints are \(2,\) float64: they must be"),
        (np.zeros((0, 2)), r"keypoints are \(0, 2\) float64: they must be"),
        (np.zeros((1, 2), bool), r"keypoints are \(1, 2\) bool: they must be"),
        (np.array([["a", "b"]]), r"keypoints are \(1, 2\) <U1: they must be"),
        (np.array([[1, 1], [NAN, 2]]), r"keypoint 1 is \(nan, 2.0\): it must lie inside .*or be NaN, NaN"),
        (np.array([[NAN, NAN], [-1, -1]]), r"first keypoints are all NaN or -1: at least one must have a place"),
        (np.array([[0, 0], [39.6, 0], [50, 0]]), r"keypoint 1 is \(39.6, 0.0\): it must lie inside the frame, x in \["),
        (
            np.array([[0, 24]]),
            r"keypoint 0 is \(0, 24\): it must lie inside the frame, x in \[-0.5, 39.5\] and y in \[",
        ),
        (np.array([[-0.6, 0]]), r"keypoint 0 is \(-0.6, 0.0\)"),
        (np.array([[np.inf, 0]]), r"keypoint 0 is \(inf, 0.0\)"),
    ],
)
def test_keypoint_propagator_refuses_first_keypoints(points, message):
    video, follow = moving_square(2), follower()
    with pytest.raises(ValueError, match=message):
        follow.step(video[0], keypoints=points)
    follow.step(video[0], keypoints=POINTS)
    assert np.array_equal(follow.step(video[1]).points, run(video)[1].points)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (POINTS[:2], r"2 keypoints, but 3 are followed. NaN rows are followed on"),
        (np.array([[1, 1], [NAN, 2], [1, 1]]), r"keypoint 1 is \(nan, 2.0\): .* or be NaN, NaN"),
        (np.array([[NAN, NAN], [1, 1], [1, 99]]), r"keypoint 2 is \(1.0, 99.0\): it must lie inside the frame"),
    ],
)
def test_keypoint_propagator_refuses_a_correction_and_stays_as_it_was(points, message):
    video, follow = moving_square(4), follower()
    undisturbed = run(video)
    follow.step(video[0], keypoints=POINTS)
    with pytest.raises(ValueError, match=message):
        follow.step(video[1], keypoints=points)
    for frame, expected in zip(video[1:], undisturbed[1:], strict=True):
        got = follow.step(frame)
        assert np.array_equal(got.points, expected.points)
        assert np.array_equal(got.confidence, expected.confidence)


def test_keypoint_propagator_refuses_another_frame_size():
    follow = follower()
    follow.step(moving_square()[0], keypoints=POINTS)
    with pytest.raises(ValueError, match=r"frame 1 is \(24, 20\) but the frames before are \(24, 40\). Resize it, or"):
        follow.step(np.zeros((24, 20, 3), np.uint8))
