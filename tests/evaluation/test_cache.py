import numpy as np
import pytest
import torch

from siammae.evaluation import FeatureCache
from siammae.features import PixelExtractor
from siammae.propagation.propagator import Propagator
from tests.evaluation.toy import CountingExtractor
from tests.helpers import moving_square, tiny_model

VIDEO, MASKS = moving_square(4, (32, 48), 12, (4, 4))


def test_cache_returns_what_the_extractor_does_and_asks_it_once():
    extractor = CountingExtractor(8)
    cache = FeatureCache(extractor)
    expected = PixelExtractor(8).extract(VIDEO)
    for _ in range(3):
        torch.testing.assert_close(cache.extract(VIDEO), expected, rtol=0, atol=0)
        for index in range(len(VIDEO)):
            torch.testing.assert_close(cache.extract(VIDEO[index : index + 1])[0], expected[index], rtol=0, atol=0)
    assert extractor.frames == cache.misses == len(VIDEO)
    assert cache.hits == 5 * len(VIDEO)
    assert cache.patch_size == 8


def test_cache_tells_normalisations_and_shapes_of_equal_bytes_apart():
    extractor = CountingExtractor(8)
    cache, frame = FeatureCache(extractor), np.zeros((1, 16, 32, 3), np.uint8)
    std = (0.5, 0.5, 0.5)
    plain, other, turned = (
        cache.extract(frame),
        cache.extract(frame, pixel_std=std),
        cache.extract(frame.reshape(1, 32, 16, 3)),
    )
    assert extractor.frames == 3
    torch.testing.assert_close(other, extractor.extract(frame, pixel_std=std))
    assert not torch.equal(plain, other)
    assert turned.shape == (1, 192, 4, 2)


@pytest.mark.parametrize(("kept", "made"), [(0, 12), (1, 10), (3, 6), (4, 4)])
def test_cache_when_full_keeps_the_first_frames(kept, made):
    extractor = CountingExtractor(8)
    size = PixelExtractor(8).extract(VIDEO[:1]).nbytes
    cache = FeatureCache(extractor, max_bytes=kept * size)
    for _ in range(3):
        for frame in VIDEO:
            cache.extract(frame[None])
    assert extractor.frames == made


def test_propagator_over_a_cache_gives_the_same_masks():
    def follow(extractor):
        propagator = Propagator(extractor)
        return [propagator.step(f, mask=MASKS[0] if i == 0 else None).label_map() for i, f in enumerate(VIDEO)]

    cache = FeatureCache(PixelExtractor(8))
    expected = follow(PixelExtractor(8))
    for _ in range(2):
        np.testing.assert_array_equal(follow(cache), expected)
    assert cache.hits == len(VIDEO)


def test_cache_when_its_bound_is_negative_is_refused():
    with pytest.raises(ValueError, match="max_bytes is -1: it must be at least 0"):
        FeatureCache(PixelExtractor(8), max_bytes=-1)


def _walk(model, cache, frames, regions):
    stream = cache.open_stream(threshold=5.0, refresh=3)
    return torch.stack([stream.extract(f, region=r) for f, r in zip(frames, regions, strict=True)])


@pytest.mark.parametrize("kept", [0, 2, 3, 100])
def test_streams_over_a_cache_give_the_extractor_s_own_features_whatever_was_kept(kept):
    model = tiny_model()
    frames = [np.ascontiguousarray(frame) for frame in moving_square(6, (64, 96), 12, (4, 4))[0]]
    whole, left = [None] * 6, [None, (0, 0, 4, 4), (0, 1, 4, 5), (0, 1, 4, 5), None, None]
    expected = {}
    for name, regions in (("whole", whole), ("left", left)):
        stream = model.open_stream(threshold=5.0, refresh=3)
        expected[name] = torch.stack([stream.extract(f, region=r) for f, r in zip(frames, regions, strict=True)])
    size = expected["whole"][0].nbytes
    cache = FeatureCache(model, max_bytes=kept * size)
    assert "reuse" in cache.extract_options
    for name, regions in (("whole", whole), ("left", left), ("whole", whole), ("left", left)):
        torch.testing.assert_close(_walk(model, cache, frames, regions), expected[name], rtol=0, atol=0)
    if kept == 100:
        assert cache.hits >= 2 * len(frames)
    other = cache.open_stream(threshold=0, refresh=3).extract(frames[0])
    torch.testing.assert_close(other, expected["whole"][0], rtol=1e-4, atol=1e-4)
