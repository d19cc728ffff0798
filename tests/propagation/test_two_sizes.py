"""Two sizes of a frame, compared together."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import siammae
from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.keypoint_propagator import KeypointPropagator
from siammae.propagation.propagator import Propagator
from siammae.propagation.two_sizes import covering, joined, smaller_grid
from tests.helpers import moving_square, ramp_weights, tiny_model
from tests.propagation.test_focus import Regions

VIDEO, MASKS = moving_square(6, (96, 128), 16, (8, 8))
RULES = PropagationConfig(radius=5, queue_length=3, top_k=2, temperature=0.02, second_size=0.5)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("grid", "share", "expected"), [((30, 53), 0.5, (15, 26)), ((3, 4), 0.1, (1, 1))])
def test_second_grid_is_the_share_of_the_first_and_never_empty(grid, share, expected):
    assert smaller_grid(grid, share) == expected


def test_joined_features_of_equal_grids_have_the_weighted_mean_of_both_cosines():
    one, two = features(7, 5, 6), features(9, 5, 6, seed=1)
    both = F.normalize(joined(one, two, None), dim=0).flatten(1)
    first, second = (F.normalize(part, dim=0).flatten(1) for part in (one, two))
    torch.testing.assert_close(both.T @ both, 0.7 * first.T @ first + 0.3 * second.T @ second)


def test_joined_features_are_the_second_size_resized_as_a_picture_would_be():
    one, two = features(7, 9, 13), features(5, 4, 6, seed=1)
    expected = F.interpolate(F.normalize(two, dim=0)[None], (9, 13), mode="bilinear", align_corners=False)[0]
    got = joined(one, two, None)
    torch.testing.assert_close(got[:7], 0.7**0.5 * F.normalize(one, dim=0))
    torch.testing.assert_close(got[7:], 0.3**0.5 * expected)


@pytest.mark.parametrize("region", [(0, 0, 10, 14), (2, 3, 7, 9), (4, 5, 5, 6), (8, 11, 10, 14)])
def test_a_region_is_covered_and_lies_where_it_lies_in_the_whole_frame(region):
    grid, smaller = (10, 14), (4, 6)
    top, left, bottom, right = region
    part = covering(region, grid, smaller)
    assert part[0] * grid[0] <= top * smaller[0]
    assert part[1] * grid[1] <= left * smaller[1]
    assert part[2] * grid[0] >= bottom * smaller[0]
    assert part[3] * grid[1] >= right * smaller[1]
    one, two = features(3, *grid), features(5, *smaller, seed=1)
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    got = joined(one.where(inside, torch.zeros(())), two, region)
    assert (got[:, ~inside] == 0).all()
    # Away from the part's border, beyond which a region knows nothing, the features are those of the whole frame.
    whole = joined(one, two, None)
    y = (torch.arange(grid[0]) + 0.5) * smaller[0] / grid[0] - 0.5
    x = (torch.arange(grid[1]) + 0.5) * smaller[1] / grid[1] - 0.5
    known = ((y >= part[0]) & (y <= part[2] - 1))[:, None] & ((x >= part[1]) & (x <= part[3] - 1)) & inside
    torch.testing.assert_close(got[:, known], whole[:, known])


@pytest.mark.parametrize("changes", [{}, {"focus_margin": 3}, {"center_features": True}, {"label_cells": 2}])
def test_a_square_is_followed_by_two_sizes(changes):
    extractor = Regions(4) if "focus_margin" in changes else PixelExtractor(4)
    follow = Propagator(extractor, RULES.replace(**changes))
    for t, frame in enumerate(VIDEO):
        result = follow.step(frame, mask=MASKS[0] if t == 0 else None)
        assert region_similarity(result.label_map() == 1, MASKS[t] == 1) > 0.4  # of what stays where it was: 0


def test_the_second_size_sees_the_frame_smaller():
    class Sizes(PixelExtractor):
        def extract(self, frames, **options):
            self.seen = (*getattr(self, "seen", ()), np.asarray(frames).shape[1:3])
            return super().extract(frames, **options)

    extractor = Sizes(4)
    Propagator(extractor, RULES.replace(second_size=0.75)).step(VIDEO[0], mask=MASKS[0])
    assert extractor.seen == ((96, 128), (72, 96))


@pytest.fixture(scope="module")
def model():
    network = tiny_model()
    ramp_weights(network)
    return network


NETWORK = PropagationConfig(resize=64, top_k=3, queue_length=3, second_size=0.5)


def test_token_reuse_keeps_each_size_by_itself(model):
    exact, reusing = (Propagator(model, NETWORK.replace(reuse_threshold=at)) for at in (None, 0.0))
    for index, frame in enumerate([VIDEO[0], VIDEO[0], *VIDEO]):
        mask = MASKS[0] if index == 0 else None
        expected, got = exact.step(frame, mask=mask), reusing.step(frame, mask=mask)
        torch.testing.assert_close(got.scores, expected.scores, atol=1e-3, rtol=0)
    assert reusing.encoded_share < 1
    reusing.reset()
    assert reusing.encoded_share == 1


def test_a_copied_propagator_goes_on_by_itself_with_two_sizes(model):
    follow = Propagator(model, NETWORK.replace(reuse_threshold=5.0))
    follow.step(VIDEO[0], mask=MASKS[0])
    other = copy.copy(follow)
    expected = follow.step(VIDEO[1]).scores
    follow.step(VIDEO[2])
    assert (other.step(VIDEO[1]).scores == expected).all()


def test_several_annotated_frames_and_keypoints_are_followed_by_two_sizes(model):
    given = {0: MASKS[0], 5: MASKS[5]}
    tracks = siammae.propagate_masks(VIDEO, given, model=model, config=NETWORK)
    backwards = siammae.propagate_masks(VIDEO[::-1], {0: MASKS[5], 5: MASKS[0]}, model=model, config=NETWORK)
    assert np.array_equal(tracks.labels, backwards.labels[::-1])
    follow = KeypointPropagator(model, NETWORK)
    points = [
        follow.step(f, keypoints=np.array([[20.0, 20.0]]) if t == 0 else None).points for t, f in enumerate(VIDEO)
    ]
    assert np.isfinite(points).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0, float("nan")])
def test_a_second_size_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="second_size"):
        PropagationConfig(second_size=share)


def test_features_that_are_not_finite_at_the_second_size_are_refused():
    class Broken(PixelExtractor):
        def extract(self, frames, **options):
            result = super().extract(frames, **options)
            return result / 0 if np.asarray(frames).shape[1] < 96 else result

    with pytest.raises(ValueError, match="NaN or infinite"):
        Propagator(Broken(4), RULES).step(VIDEO[0], mask=MASKS[0])
