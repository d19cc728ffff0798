"""The size at which frames enter the network, and features made batch by batch."""

import numpy as np
import pytest
import torch

from siammae import features
from siammae.features import HogExtractor, PixelExtractor, extract_features, input_size, normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frame_size", "options", "expected"),
    [
        # DINO's DAVIS rule; 1152 is the sequence 'shooting'
        ((480, 854), {"resize": 480, "multiple": 64, "rounding": "floor"}, (480, 832)),
        ((480, 1152), {"resize": 480, "multiple": 64, "rounding": "floor"}, (480, 1152)),
        ((1080, 2592), {"resize": 480, "multiple": 64, "rounding": "floor"}, (480, 1152)),
        ((854, 480), {"resize": 480, "multiple": 64, "rounding": "floor"}, (832, 480)),
        ((1080, 1920), {"resize": 480, "multiple": 64, "rounding": "floor"}, (480, 832)),
        ((480, 854), {"resize": 480, "multiple": 64, "rounding": "nearest"}, (480, 832)),
        ((480, 854), {"resize": 480, "multiple": 64, "rounding": "ceil"}, (480, 896)),
        # the frame's own size
        ((480, 854), {}, (480, 848)),
        ((480, 854), {"rounding": "ceil"}, (480, 864)),
        ((100, 90), {"rounding": "floor"}, (96, 80)),
        ((17, 17), {}, (16, 16)),
        ((16, 16), {"rounding": "floor"}, (16, 16)),
        # a short side
        ((480, 854), {"resize": 240}, (240, 432)),
        ((720, 1280), {"resize": 480}, (480, 848)),
        ((1280, 720), {"resize": 480}, (848, 480)),
        ((30, 30), {"resize": 480}, (480, 480)),
        ((480, 500), {"resize": 480, "multiple": 64, "rounding": "floor"}, (480, 480)),  # never below the short side
        ((480, 850), {"resize": 200, "rounding": "ceil"}, (192, 368)),  # 200 goes to the nearest, 354.2 up
        ((480, 850), {"resize": 200, "rounding": "ceil", "round_both": True}, (208, 384)),  # 368.3 of 208 goes up
        ((850, 480), {"resize": 200, "rounding": "floor", "round_both": True}, (336, 192)),  # 340 of 192 goes down
        ((480, 850), {"rounding": "ceil", "round_both": True}, (480, 864)),
        # a long side
        ((720, 1280), {"resize": 880, "side": "long", "multiple": 64, "rounding": "floor"}, (448, 880)),
        ((1280, 720), {"resize": 880, "side": "long", "multiple": 64, "rounding": "floor"}, (880, 448)),
        ((90, 90), {"resize": 880, "side": "long", "multiple": 64, "rounding": "floor"}, (880, 832)),
        ((720, 1280), {"resize": 875, "side": "long"}, (496, 880)),  # 492.2 goes to 31 patches
        ((720, 1280), {"resize": 875, "side": "long", "rounding": "floor", "round_both": True}, (480, 864)),
        ((720, 1280), {"side": "long"}, (720, 1280)),
        # exact
        ((480, 854), {"resize": (480, 880)}, (480, 880)),
        ((50, 40), {"resize": (16, 320)}, (16, 320)),
    ],
)
def test_input_size_follows_the_rules(frame_size, options, expected):
    assert input_size(frame_size, patch_size=16, **options) == expected


@pytest.mark.parametrize("rounding", ["nearest", "floor", "ceil"])
@pytest.mark.parametrize("resize", [None, 32, 100])
def test_input_size_is_made_of_whole_patches(rounding, resize):
    for height, width in [(33, 70), (101, 47), (64, 64), (15, 400)]:
        size = input_size((height, width), patch_size=14, resize=resize, rounding=rounding)
        assert all(side % 14 == 0 and side >= 14 for side in size)
        assert (size[0] <= size[1]) == (height <= width)


@pytest.mark.parametrize(
    ("frame_size", "options", "message"),
    [
        ((7, 100), {}, r"the frame is \(7, 100\) and would enter the network with a short side of 7 pixels: at least"),
        ((15, 100), {"rounding": "floor"}, r"at least one patch of 16 is needed. Pass resize=... to enlarge it"),
        ((100, 100), {"resize": 5}, r"short side of 5 pixels"),
        (
            (100, 700),
            {"resize": 96, "side": "long", "rounding": "floor"},
            "enter the network with .* of 13.7143 pixels",
        ),
        ((90, 180), {"resize": 96, "side": "long", "multiple": 64, "rounding": "floor"}, "short side of 48 pixels"),
        ((0, 100), {"resize": 32, "side": "long"}, r"the frame is \(0, 100\)"),
        ((0, 100), {"resize": 32}, r"the frame is \(0, 100\)"),
        (
            (64, 64),
            {"resize": (480, 854)},
            r"resize is \(480, 854\): both sides must be multiples of the patch size 16",
        ),
        ((64, 64), {"resize": (0, 16)}, r"resize is \(0, 16\): both sides must be"),
        ((64, 64), {"resize": 64, "multiple": 24}, r"multiple is 24: it must be a multiple of the patch size 16"),
    ],
)
def test_input_size_refuses_what_has_no_whole_patches(frame_size, options, message):
    with pytest.raises(ValueError, match=message):
        input_size(frame_size, patch_size=16, **options)


@pytest.mark.parametrize("std", [None, (0.228, 0.224, 0.225), (1.0, 2.0, 3.0)])
def test_pixel_extractor_returns_each_patchs_normalised_pixels(std):
    video = noise(2, 8, 12)
    got = PixelExtractor(4).extract(video, **({} if std is None else {"pixel_std": std})).numpy()
    assert got.shape == (2, 48, 2, 3)
    pixels = (video / 255 - np.array(MEAN)) / np.array(std or STD)
    for t, y, x in np.ndindex(2, 2, 3):
        patch = pixels[t, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]  # (4, 4, 3)
        np.testing.assert_allclose(np.sort(got[t, :, y, x]), np.sort(patch.ravel()), atol=1e-5)
        np.testing.assert_allclose(got[t, :16, y, x], patch[..., 0].ravel(), atol=1e-5)  # red first, row by row


def test_pixel_extractor_resizes_frames_to_whole_patches():
    extractor = PixelExtractor(8)
    assert extractor.extract(noise(1, 30, 50)).shape == (1, 192, 4, 6)
    assert extractor.extract(noise(1, 30, 50), resize=16).shape == (1, 192, 2, 3)
    assert extractor.extract(noise(1, 30, 50), resize=(8, 40)).shape == (1, 192, 1, 5)


def test_pixel_extractor_refuses_a_patch_size_below_1():
    with pytest.raises(ValueError, match="patch_size is 0: it must be at least 1"):
        PixelExtractor(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalize_treats_bytes_and_unit_floats_alike(dtype):
    images = torch.from_numpy(noise(2, 4, 5)).permute(0, 3, 1, 2)
    got = normalize(images, MEAN, STD, dtype)
    assert got.dtype == dtype
    torch.testing.assert_close(got, normalize(images / 255, MEAN, STD, dtype))
    red = (images[:, 0].double() / 255 - MEAN[0]) / STD[0]
    torch.testing.assert_close(got[:, 0].double(), red, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_extract_features_in_batches_gives_the_same(batch_size):
    video, sizes = noise(5, 17, 24), []

    def encode(images):
        sizes.append(len(images))
        assert images.dtype == torch.uint8
        return images.float()[:, :, ::8, ::8]

    options = {"patch_size": 8, "device": torch.device("cpu")}
    got = extract_features(iter(video), encode, batch_size=batch_size, **options)
    assert got.shape == (5, 3, 2, 3)
    assert sum(sizes) == 5
    assert max(sizes) == min(batch_size, 5)
    one_by_one = [extract_features(frame[None], encode, **options) for frame in video]
    assert torch.equal(got, torch.cat(one_by_one))


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_extract_features_resizes_by_the_rule_asked_for(interpolation):
    stripes = np.zeros((1, 16, 64, 3), np.uint8)
    stripes[:, :, 1::4] = stripes[:, :, 2::4] = 200  # bilinear by 4 sees the middle of each stripe, area a mean
    got = extract_features(
        stripes, lambda x: x.float(), patch_size=4, device=torch.device("cpu"), resize=4, interpolation=interpolation
    )
    assert got.shape == (1, 3, 4, 16)
    assert got.unique().tolist() == [100.0 if interpolation == "area" else 200.0]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_extract_features_refuses_a_batch_size_below_1(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}: it must be at least 1"):
        PixelExtractor(4).extract(noise(1, 8, 8), batch_size=batch_size)


def test_extract_features_refuses_frames_of_two_sizes():
    with pytest.raises(ValueError, match=r"frame 1 is \(8, 16\) but the first was \(8, 8\)"):
        PixelExtractor(4).extract([noise(8, 8), noise(8, 16)])


def test_hog_extractor_tells_the_orientation_of_an_edge_wherever_the_patch_is():
    frame = np.zeros((48, 80, 3), np.uint8)
    frame[:, ::4] = 255  # vertical lines on the left
    frame[:, 40:] = 0
    frame[::4, 40:] = 255  # horizontal lines on the right
    features = HogExtractor(8).extract(frame[None])
    assert features.shape == (1, 36, 6, 10)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1, 6, 10), atol=1e-3, rtol=0)
    left, right = features[0, :, 2, 1], features[0, :, 2, 8]
    assert left @ features[0, :, 3, 2] > 0.99
    assert left @ right < 0.3


def test_hog_extractor_puts_rows_and_columns_where_they_are():
    frame = np.full((32, 48, 3), 128, np.uint8)
    frame[8:16, 40:48] = noise(8, 8)  # the patch in row 1, column 5
    energy = HogExtractor(8).extract(frame[None])[0].square().sum(dim=0)  # (4, 6)
    assert (energy > 0.5).nonzero().tolist() == [[y, x] for y in (0, 1, 2) for x in (4, 5)]


@pytest.mark.parametrize("size", [0, 1, 7])
def test_hog_extractor_refuses_cells_without_a_middle(size):
    with pytest.raises(ValueError, match=f"patch_size is {size}: it must be even"):
        HogExtractor(size)


def test_cost_of_an_unreasonable_size_is_said_once_before_it_is_begun(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(features.time, "perf_counter", lambda: clock[0])
    seen = []

    def encode(images):
        patches = images.shape[-2] * images.shape[-1] // 64
        seen.append(patches)
        clock[0] += 1e-4 * patches + 1e-7 * patches**2
        return torch.zeros(1, 192, 1, 1)

    frame = torch.zeros(1, 3, 1080, 1920, dtype=torch.uint8)
    for _ in range(2):
        features.say_cost(encode, frame, 8)
    assert seen == [256, 1024, 2304]
    # 32400 patches: 3.24 s + 104.98 s; 192 channels x 24 x 4 bytes a patch
    assert caplog.messages == [
        "1920 x 1080 pixels are 32400 patches: about 108 s and 0.6 GB for each frame's features on cpu. "
        "Shrink the frames: a short side of 480 pixels (resize=480, --short-side 480) is usual."
    ]


def test_cost_of_a_usual_size_is_neither_measured_nor_said(caplog):
    features.say_cost(None, torch.zeros(1, 3, 480, 848, dtype=torch.uint8), 8)
    assert not caplog.messages


def test_extraction_looks_at_the_cost_before_its_first_batch(monkeypatch):
    looked = []
    monkeypatch.setattr(
        features, "say_cost", lambda _, image, patch_size: looked.append((tuple(image.shape), patch_size))
    )
    PixelExtractor(8).extract(np.zeros((5, 32, 40, 3), np.uint8), batch_size=2)
    assert looked == [((1, 3, 32, 40), 8)]
