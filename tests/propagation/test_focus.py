"""Only the patches near the objects are encoded, and nothing is lost that way in silence."""

import numpy as np
import pytest
import torch

from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.focus import Focus
from siammae.propagation.propagator import Propagator
from siammae.propagation.video import propagate_masks
from tests.helpers import moving_square, ramp_weights, tiny_model


def scores(grid=(10, 12), **objects):
    """Soft labels with boxes of patches."""
    maps = torch.zeros((1 + len(objects), *grid))
    for channel, (top, left, bottom, right) in enumerate(objects.values(), start=1):
        maps[channel, top:bottom, left:right] = 0.9
    maps[0] = 1 - maps[1:].sum(dim=0)
    return maps


def test_focus_looks_at_the_boxes_of_the_last_frames_with_a_margin():
    focus = Focus(2, 1)
    assert focus.look((10, 12)) is None
    focus.learn(scores(a=(3, 4, 5, 6)), given=True)
    assert focus.look((10, 12)) == (1, 2, 7, 8)
    focus.learn(scores(a=(4, 5, 6, 7)), given=False)
    assert focus.look((10, 12)) == (1, 2, 8, 9)
    focus.reset()
    assert focus.look((10, 12)) is None


def test_focus_looks_everywhere_once_an_object_is_lost_until_it_is_back():
    focus = Focus(1, 1)
    two, one = scores(a=(1, 1, 2, 2), b=(5, 5, 6, 6)), scores(a=(1, 1, 2, 2), b=(0, 0, 0, 0))
    focus.learn(two, given=True)
    focus.learn(one, given=False)
    assert focus.look((10, 12)) is None
    focus.learn(two, given=False)
    assert focus.look((10, 12)) == (0, 0, 7, 7)
    focus.learn(one, given=True)  # said to have left: that is no loss
    assert focus.look((10, 12)) == (0, 0, 3, 3)


def test_focus_looks_everywhere_where_objects_fill_the_frame():
    focus = Focus(1, 1)
    focus.learn(scores(a=(0, 0, 9, 12)), given=True)
    assert focus.look((10, 12)) is None


def test_focus_counts_a_patch_of_which_one_cell_is_the_objects():
    focus = Focus(1, 4)
    focus.learn(scores((40, 48), a=(19, 21, 20, 22)), given=True)
    assert focus.look((10, 12)) == (3, 4, 6, 7)


def test_an_object_is_kept_near_where_it_was_and_the_background_gets_the_rest():
    focus = Focus(1, 1)
    focus.learn(scores(a=(1, 1, 2, 2), b=(6, 8, 8, 10)), given=True)
    leaked = scores(a=(1, 1, 2, 3), b=(6, 8, 8, 10))
    leaked[2, 0, 0], leaked[0, 0, 0] = 0.7, 0.3  # another one that looks like b, far from it
    kept = focus.keep_near(leaked)
    assert (kept[0, 0, 0], kept[2, 0, 0]) == (1, 0)
    leaked[:, 0, 0] = kept[:, 0, 0]
    assert torch.equal(kept, leaked)
    torch.testing.assert_close(kept.sum(dim=0), torch.ones(10, 12))


def test_keeping_near_counts_cells_and_lets_an_object_be_anywhere_that_was_not_there():
    focus = Focus(1, 2)
    focus.learn(scores((20, 24), a=(2, 2, 4, 4), b=(0, 0, 0, 0)), given=True)
    far = scores((20, 24), a=(2, 2, 7, 4), b=(10, 10, 12, 12))
    kept = focus.keep_near(far)
    assert kept[1].nonzero().amax(dim=0).tolist() == [5, 3]  # patch (1, 1), and one more on each side
    assert torch.equal(kept[2], far[2])


def test_one_object_or_other_objects_than_before_are_left_as_they_are():
    focus = Focus(1, 1)
    alone, two = scores(a=(0, 0, 9, 9)), scores(a=(0, 0, 9, 9), b=(9, 9, 10, 10))
    assert focus.keep_near(two) is two  # nothing is known yet
    focus.learn(scores(a=(1, 1, 2, 2)), given=True)
    assert focus.keep_near(alone) is alone
    assert focus.keep_near(two) is two


def test_focus_with_other_objects_than_before_begins_anew():
    focus = Focus(1, 1)
    focus.learn(scores(a=(1, 1, 2, 2), b=(6, 8, 8, 10)), given=True)
    focus.learn(scores(a=(1, 1, 2, 2), b=(6, 8, 8, 10), c=(4, 4, 5, 5)), given=False)
    assert focus.look((20, 20)) == (0, 0, 9, 11)
    assert focus.keep_near(scores(a=(1, 1, 2, 2), b=(6, 8, 8, 10), c=(9, 11, 10, 12)))[3].count_nonzero() == 0


@pytest.fixture
def model():
    return ramp_weights(tiny_model())


def test_extract_of_a_region_is_the_network_on_those_tokens_alone(model):
    video, _ = moving_square(1, (48, 64))
    got = model.extract(video, region=(1, 2, 4, 7))
    assert not got[:, :, 0].any()
    assert not got[:, :, :, 7:].any()
    assert got.shape == model.extract(video).shape
    with torch.no_grad():
        from siammae.features import normalize

        images = torch.from_numpy(video).permute(0, 3, 1, 2)
        pixels = normalize(images, model.config.pixel_mean, model.config.pixel_std, torch.float32)
        tokens = model.encoder.embed(pixels).unflatten(1, (6, 8))[:, 1:4, 2:7].flatten(1, 2)
        expected = model.encoder(tokens)[:, 1:].unflatten(1, (3, 5)).permute(0, 3, 1, 2)
    torch.testing.assert_close(got[:, :, 1:4, 2:7], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.extract(video, region=(0, 0, 6, 8)), model.extract(video))


@pytest.mark.parametrize("region", [(0, 0, 7, 8), (2, 0, 2, 8), (-1, 0, 2, 2), (0, 0, 6, 9)])
def test_extract_refuses_a_region_outside_the_grid(model, region):
    video, _ = moving_square(1, (48, 64))
    with pytest.raises(ValueError, match=r"region is .*inside the grid of \(6, 8\)"):
        model.extract(video, region=region)


class Regions(PixelExtractor):
    """Pixels as features, of a region only where one is asked for."""

    extract_options = frozenset({"region"})

    def __init__(self, patch_size):
        super().__init__(patch_size)
        self.asked = []

    def extract(self, frames, *, region=None, **options):
        self.asked.append(region)
        features = super().extract(frames, **options)
        if region is None:
            return features
        top, left, bottom, right = region
        kept = torch.zeros_like(features)
        kept[:, :, top:bottom, left:right] = features[:, :, top:bottom, left:right]
        return kept


def test_propagation_with_a_focus_follows_and_encodes_less():
    video, masks = moving_square(6, (96, 128), side=16, step=(4, 4))
    extractor = Regions(4)
    config = PropagationConfig(radius=3, queue_length=2, top_k=2, temperature=0.02, focus_margin=3)
    result = propagate_masks(video, masks[0], model=extractor, config=config)
    assert extractor.asked[0] is None  # the annotated frame as a whole
    assert all(region is not None for region in extractor.asked[1:])
    for labels, truth in zip(result.labels, masks, strict=True):
        assert region_similarity(labels == 1, truth == 1) > 0.9
    outside = np.ones(video.shape[1:3], bool)
    top, left, bottom, right = (4 * side for side in extractor.asked[-1])
    outside[top:bottom, left:right] = False
    assert not result.labels[-1][outside].any()


def test_a_focus_with_an_extractor_that_cannot_is_refused():
    with pytest.raises(ValueError, match=r"focus_margin is 3, but PixelExtractor\.extract knows no 'region'"):
        Propagator(PixelExtractor(4), PropagationConfig(focus_margin=3))


def test_a_margin_out_of_range_is_refused():
    with pytest.raises(ValueError, match="focus_margin is 0: it must be at least 1, or None"):
        PropagationConfig(focus_margin=0)
