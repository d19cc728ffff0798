"""Token reuse within propagation."""

import copy
import pickle

import numpy as np
import pytest

import siammae
from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.propagation.keypoint_propagator import KeypointPropagator
from siammae.propagation.propagator import Propagator
from tests.helpers import moving_square, ramp_weights, tiny_model

VIDEO, MASKS = moving_square(8, (64, 96), 16, (8, 8))
RULES = PropagationConfig(resize=64, top_k=3, queue_length=3)


@pytest.fixture(scope="module")
def model():
    network = tiny_model()
    ramp_weights(network)
    return network


def _follow(model, config, frames=VIDEO):
    propagator = Propagator(model, config)
    maps = [propagator.step(f, mask=MASKS[0] if i == 0 else None).label_map() for i, f in enumerate(frames)]
    return np.stack(maps), propagator


@pytest.mark.parametrize("changes", [{}, {"focus_margin": 1}, {"pool_keys": 2}, {"focus_margin": 2, "pool_keys": 2}])
def test_threshold_0_follows_as_without_reuse(model, changes):
    rules = RULES.replace(**changes)
    expected, _ = _follow(model, rules)
    got, propagator = _follow(model, rules.replace(reuse_threshold=0.0))
    assert (got == expected).mean() > 0.999
    assert propagator.encoded_share == 1


def test_a_still_video_is_encoded_once_until_the_refresh(model):
    still = [VIDEO[0]] * 8
    got, propagator = _follow(model, RULES.replace(reuse_threshold=5.0, reuse_refresh=4), still)
    assert propagator.encoded_share == 2 / 8
    assert (got == _follow(model, RULES, still)[0]).all()
    propagator.reset()
    assert propagator.encoded_share == 1


def test_keypoints_are_followed_with_reuse(model):
    propagator = KeypointPropagator(model, RULES.replace(reuse_threshold=5.0))
    for index, frame in enumerate(VIDEO):
        points = propagator.step(frame, keypoints=np.array([[20.0, 20.0]]) if index == 0 else None).points
    assert points.shape == (1, 2)
    assert propagator.encoded_share < 1


def test_a_copied_propagator_goes_on_by_itself(model):
    propagator = Propagator(model, RULES.replace(reuse_threshold=5.0))
    propagator.step(VIDEO[0], mask=MASKS[0])
    other = copy.copy(propagator)
    expected = propagator.step(VIDEO[1]).scores
    propagator.step(VIDEO[2])
    assert (other.step(VIDEO[1]).scores == expected).all()
    assert other._stream.extractor is model


def test_several_annotated_frames_are_followed_with_reuse(model):
    rules = RULES.replace(reuse_threshold=5.0)
    tracks = siammae.propagate_masks(VIDEO, {0: MASKS[0], 7: MASKS[7]}, model=model, config=rules)
    assert tracks.labels.shape == (8, 64, 96)


def test_an_extractor_that_cannot_is_refused_and_recommended_none():
    with pytest.raises(ValueError, match=r"reuse_threshold is 5\.0, but PixelExtractor.extract knows no 'reuse'"):
        Propagator(PixelExtractor(8), RULES.replace(reuse_threshold=5.0))
    assert PropagationConfig.recommended(PixelExtractor(8)).reuse_threshold is None
    assert RULES.replace(reuse_threshold=5.0).for_extractor(PixelExtractor(8)).reuse_threshold is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reuse_threshold": -1.0}, "reuse_threshold is -1.0: it must be 0 to 255"),
        ({"reuse_threshold": float("nan")}, "reuse_threshold is nan"),
        ({"reuse_refresh": 0}, "reuse_refresh is 0: it must be at least 1"),
        ({"reuse_refresh": 2.5}, "reuse_refresh is 2.5: it must be a whole number"),
    ],
)
def test_rules_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PropagationConfig(**fields)


def test_a_pickled_propagator_goes_on_with_what_it_kept(model):
    propagator = Propagator(model, RULES.replace(reuse_threshold=5.0))
    propagator.step(VIDEO[0], mask=MASKS[0])
    other = pickle.loads(pickle.dumps(propagator))
    assert (other.step(VIDEO[1]).scores == propagator.step(VIDEO[1]).scores).all()
    assert other.encoded_share == propagator.encoded_share < 1
