"""Token reuse: what it gives against the plain encoder, and what it saves."""

import copy

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import siammae
from siammae.config import ModelConfig
from siammae.network.timm_extractor import TimmExtractor

_SHAPES = ((24, 40), (40, 24), (24, 32))


def _model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(patch_size=8, image_size=32, embed_dim=24, depth=3, num_heads=2, decoder="none")
    return siammae.SiamMAE(config.replace(**changes)).eval()


MODEL = _model()


def _frames(count=4, size=(24, 40), seed=0):
    """Noise that stays, and a bright square that walks over it."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
    frames = []
    for t in range(count):
        frame = ground.copy()
        frame[4:12, 4 * t : 4 * t + 8] = 250
        frames.append(frame)
    return frames


def _close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@given(
    seeds=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    sizes=st.sampled_from(_SHAPES),
    pool_keys=st.integers(1, 3),
    regions=st.lists(st.sampled_from([None, (0, 0, 2, 3), (1, 1, 3, 2), (0, 1, 3, 3)]), min_size=6, max_size=6),
)
@settings(max_examples=25, deadline=None)
def test_threshold_0_equals_the_plain_encoder_on_any_frames(seeds, sizes, pool_keys, regions):
    stream = MODEL.open_stream(threshold=0, pool_keys=pool_keys)
    for seed, region in zip(seeds, regions, strict=False):
        frame = np.random.default_rng(seed).integers(0, 256, (*sizes, 3), dtype=np.uint8)
        got = stream.extract(frame, region=region)
        grid = (0, 0, sizes[0] // 8, sizes[1] // 8)
        where = None if stream.region == grid else stream.region
        _close(got, MODEL.extract(frame[None], pool_keys=pool_keys, region=where)[0])


@given(refresh=st.integers(1, 4), pool_keys=st.integers(1, 2), threshold=st.sampled_from([1.0, 5.0, 255.0]))
@settings(max_examples=12, deadline=None)
def test_every_refresh_equals_the_plain_encoder(refresh, pool_keys, threshold):
    stream = MODEL.open_stream(threshold=threshold, refresh=refresh, pool_keys=pool_keys)
    for index, frame in enumerate(_frames(9, (64, 96))):
        features = stream.extract(frame)
        if index % refresh == 0:
            _close(features, MODEL.extract(frame[None], pool_keys=pool_keys)[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"registers": 2, "position": "learned"},
        {"layer_scale": True},
        {"encoder": "joint", "decoder": "joint", "decoder_depth": 1, "decoder_dim": 24, "decoder_heads": 2},
        {"position": "learned"},
    ],
    ids=str,
)
def test_first_frame_equals_the_plain_encoder_of_other_shapes(changes):
    model = _model(**changes)
    frame = _frames(1)[0]
    _close(model.open_stream(threshold=5).extract(frame), model.extract(frame[None])[0])


def test_whitening_is_applied():
    model = _model()
    model.fit_whitening(np.stack(_frames(12)))
    frame = _frames(1)[0]
    _close(model.open_stream(threshold=5).extract(frame), model.extract(frame[None])[0])


def test_only_what_has_changed_and_its_neighbours_are_computed():
    frames = [np.full((64, 64, 3), 100, np.uint8) for _ in range(3)]
    frames[1][24:32, 24:32] = 200  # patch (3, 3)
    frames[2][:] = frames[1]
    stream = MODEL.open_stream(threshold=5)
    first = stream.extract(frames[0])
    assert stream.computed == 64
    second = stream.extract(frames[1])
    assert stream.computed == 64 + 9
    moved = (second != first).any(dim=0)
    assert moved[2:5, 2:5].all()
    assert moved.sum() == 9
    assert torch.equal(stream.extract(frames[2]), second)
    assert (stream.computed, stream.asked) == (64 + 9, 3 * 64)


def test_computed_patches_see_the_kept_ones():
    """With everything kept as it was, a patch that is computed again has the features of the whole frame."""
    frame = _frames(1, (64, 64))[0]
    stream = MODEL.open_stream(threshold=5)
    whole = stream.extract(frame)
    stream._kept.valid[2:4, 2:5] = False
    again = stream.extract(frame)
    assert stream.computed == 64 + 6
    _close(again, whole)


def test_a_region_is_computed_as_it_grows():
    frame = _frames(1, (64, 128))[0]
    stream = MODEL.open_stream(threshold=5)
    stream.extract(frame, region=(0, 0, 8, 8))
    assert (stream.region, stream.computed) == ((0, 0, 8, 8), 64)
    features = stream.extract(frame, region=(0, 1, 8, 9))
    assert (stream.region, stream.computed) == ((0, 0, 8, 12), 96)
    assert (features[:, :, 12:] == 0).all()


@pytest.mark.parametrize(("first", "second"), [(None, (0, 0, 4, 8)), ((0, 0, 4, 4), None)])
def test_what_was_kept_in_a_much_larger_or_smaller_region_is_computed_anew(first, second):
    frame = _frames(1, (64, 128))[0]
    stream = MODEL.open_stream(threshold=5)
    stream.extract(frame, region=first)
    features = stream.extract(frame, region=second)
    _close(features, MODEL.extract(frame[None], region=second)[0])


def test_a_region_stays_while_the_wanted_one_lies_in_it():
    frame = _frames(1, (128, 128))[0]
    stream = MODEL.open_stream(threshold=5)
    for wanted, encoded in (
        ((4, 4, 12, 12), (4, 4, 12, 12)),
        ((4, 5, 12, 12), (4, 4, 12, 12)),
        ((5, 5, 7, 7), (4, 4, 8, 8)),  # what is held would be four times as large
    ):
        stream.extract(frame, region=wanted)
        assert stream.region == encoded


@pytest.mark.parametrize("pool_keys", [1, 2])
def test_a_cut_and_a_moving_camera_give_the_plain_features(pool_keys):
    stream = MODEL.open_stream(threshold=5, pool_keys=pool_keys)
    for seed in range(4):
        frame = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        region = (1, 1, 4, 5) if seed else None  # no whole number of means, and not rounded: as without reuse
        features = stream.extract(frame, region=region)
        assert torch.equal(features, MODEL.extract(frame[None], region=region, pool_keys=pool_keys)[0])
    assert stream.computed == stream.asked


def test_another_size_begins_anew():
    stream = MODEL.open_stream(threshold=5)
    for size in ((24, 40), (40, 24), (24, 40)):
        frame = _frames(1, size)[0]
        _close(stream.extract(frame), MODEL.extract(frame[None])[0])


def test_an_interrupted_frame_leaves_nothing_half_done(monkeypatch):
    frames = _frames(3, (64, 64))
    stream = MODEL.open_stream(threshold=5)
    stream.extract(frames[0])
    with monkeypatch.context() as patched:
        patched.setattr(type(MODEL.encoder.blocks[2].mlp), "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            stream.extract(frames[1])
    _close(stream.extract(frames[1]), MODEL.extract(frames[1][None])[0])


def test_a_copy_goes_on_by_itself_with_the_same_weights():
    frames = _frames(3, (64, 64))
    stream = MODEL.open_stream(threshold=5)
    stream.extract(frames[0])
    other = copy.deepcopy(stream, {id(MODEL): MODEL})
    assert other._trunk.model is MODEL
    one = stream.extract(frames[1])
    stream.extract(frames[2])
    assert torch.equal(other.extract(frames[1]), one)


def test_features_are_the_stream_s_own():
    frame = _frames(1)[0]
    stream = MODEL.open_stream(threshold=5)
    first = stream.extract(frame)
    kept = first.clone()
    first.zero_()
    assert torch.equal(stream.extract(frame), kept)


def test_same_frames_give_same_bytes():
    frames = _frames(5, (64, 64))
    one, two = (torch.stack([s.extract(f) for f in frames]) for s in (MODEL.open_stream(threshold=5) for _ in "ab"))
    assert torch.equal(one, two)


def test_bfloat16_streams_are_bfloat16():
    model = _model().to(torch.bfloat16)
    frames = _frames(3, (64, 64))
    stream = model.open_stream(threshold=5, pool_keys=2)
    for frame in frames:
        features = stream.extract(frame)
        assert features.dtype == torch.bfloat16
    reference = model.extract(frames[-1][None], pool_keys=2)[0].float()
    assert torch.cosine_similarity(features.float(), reference, dim=0).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1}, "threshold is -1: it must be 0 to 255"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": 5, "refresh": 0}, "refresh is 0: it must be at least 1"),
        ({"threshold": 5, "pool_keys": 0}, "pool_keys is 0: it must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MODEL.open_stream(**options)


def test_blocks_that_are_watched_are_refused():
    model = _model()
    model.encoder.blocks[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks"):
        model.open_stream(threshold=5)


@pytest.mark.parametrize("pool_keys", [1, 2])
@pytest.mark.parametrize("layer", [-1, 0])
def test_timm_networks_give_their_own_features(pool_keys, layer):
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32, depth=2, dynamic_img_size=True
    )
    extractor = TimmExtractor(network, layer=layer)
    assert extractor.extract_options == {"pool_keys", "reuse", "cls"}
    stream = extractor.open_stream(threshold=5, pool_keys=pool_keys)
    frames = [np.repeat(np.repeat(frame, 2, 0), 2, 1) for frame in _frames(3, (40, 48))]
    _close(stream.extract(frames[0]), extractor.extract(frames[0][None], pool_keys=pool_keys)[0])
    for frame in frames[1:]:
        stream.extract(frame)
    assert stream.computed < stream.asked
    with pytest.raises(ValueError, match="encodes whole frames only"):
        stream.extract(frames[0], region=(0, 0, 2, 2))


def test_timm_networks_with_other_blocks_say_that_they_cannot():
    network = timm.create_model("eva02_tiny_patch14_224", pretrained=False, num_classes=0, img_size=28, depth=1)
    extractor = TimmExtractor(network)
    assert "reuse" not in extractor.extract_options
    with pytest.raises(ValueError, match="other blocks than timm's plain ones"):
        extractor.open_stream(threshold=5)
    with pytest.raises(ValueError, match=r"reuse_threshold is 5\.0, but TimmExtractor.extract knows no 'reuse'"):
        siammae.Propagator(extractor, siammae.PropagationConfig(reuse_threshold=5.0))
