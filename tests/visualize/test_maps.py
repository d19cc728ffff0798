"""Matches of a patch in all frames, and the rows of pictures that show them."""

import numpy as np
import pytest
import torch

from siammae.features import PixelExtractor
from siammae.network.attention import class_attention, cross_attention
from siammae.propagation.affinity import patch_affinity, topk_affinity
from siammae.visualize import overlay_heat
from siammae.visualize.maps import class_rows, heat_row, match_patch, point_rows
from tests.helpers import moving_square, tiny_model


@pytest.fixture
def clip():
    return moving_square(frames=3, size=(24, 40), side=8, start=(0, 0), step=(8, 8))[0]


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_patch_affinity_equals_topk_affinity_with_all_patches(temperature):
    query, context = features(33, 7, 13), features(3, 33, 7, 13, seed=1)
    got = patch_affinity(query[:, 2, 5], context, temperature=temperature)
    assert (got.shape, got.dtype) == ((3, 7, 13), torch.float32)
    torch.testing.assert_close(got.sum(dim=(1, 2)), torch.ones(3))
    for one, frame in zip(got, context, strict=True):
        best = topk_affinity(query, frame[None], top_k=91, temperature=temperature, kernels="reference")
        expected = torch.zeros(91).scatter(0, best.indices[2 * 13 + 5], best.weights[2 * 13 + 5])
        torch.testing.assert_close(one.flatten(), expected)


@pytest.mark.parametrize(
    ("query", "context", "temperature", "message"),
    [
        (features(5, 1), features(3, 5, 7, 13), 0.1, r"query is \(5, 1\) and context .* they must be \(C,\)"),
        (features(5), features(3, 6, 7, 13), 0.1, "with the same C"),
        (features(5), features(5, 7, 13), 0.1, "with the same C"),
        (features(5), features(0, 5, 7, 13), 0.1, "M >= 1"),
        (features(5), features(3, 5, 7, 13).half(), 0.1, "one floating-point dtype"),
        (features(5) * torch.nan, features(3, 5, 7, 13), 0.1, "query has NaN"),
        (features(5), features(3, 5, 7, 13), 0.0, r"temperature is 0\.0: it must be 1e-30 to 1e\+30"),
    ],
)
def test_patch_affinity_when_input_does_not_fit_then_raises(query, context, temperature, message):
    with pytest.raises(ValueError, match=message):
        patch_affinity(query, context, temperature=temperature)


def test_match_patch_of_pixels_finds_the_square_wherever_it_moves(clip):
    matches = match_patch(PixelExtractor(), clip, (1, 1), frame=1, temperature=0.01)
    assert (matches.patch, matches.frame, matches.decoder) == ((1, 1), 1, None)
    best = matches.features.flatten(1).argmax(dim=1).tolist()
    assert best == [0 * 5 + 0, 1 * 5 + 1, 2 * 5 + 2]


@pytest.mark.parametrize("decoder", ["cross-self", "cropmae"])
def test_match_patch_asks_features_and_decoder(clip, decoder):
    model = tiny_model(decoder=decoder)
    matches = match_patch(model, clip, (2, 3), frame=2, temperature=0.2, mask_ratio=0.7, seed=5)
    found = model.extract(clip)
    torch.testing.assert_close(matches.features, patch_affinity(found[2, :, 2, 3], found, temperature=0.2))
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2)
    for past, got in zip(frames, matches.decoder, strict=True):
        generator = torch.Generator().manual_seed(5)
        weights = cross_attention(model, past[None], frames[2:], mask_ratio=0.7, generator=generator).weights
        torch.testing.assert_close(got, weights[0, :, :, 13, 1:].mean(dim=1).unflatten(1, (3, 5)))


@pytest.mark.parametrize("decoder", ["joint", "none"])
def test_match_patch_without_cross_attention_gives_features_only(clip, decoder):
    assert match_patch(tiny_model(decoder=decoder), clip, (2, 3), temperature=0.2).decoder is None


@pytest.mark.parametrize(
    ("patch", "frame", "message"),
    [
        ((3, 0), 0, r"patch is \(3, 0\): it must be a row and a column of a grid of \(3, 5\)"),
        ((0, -1), 0, r"patch is \(0, -1\)"),
        ((0, 0), 3, "frame is 3: the clip has 3 frames, numbered from 0"),
    ],
)
def test_match_patch_when_there_is_none_then_raises(clip, patch, frame, message):
    with pytest.raises(ValueError, match=message):
        match_patch(PixelExtractor(), clip, patch, frame=frame, temperature=0.1)


def test_rows_hold_frames_then_maps_on_one_scale(clip):
    model = tiny_model()
    maps = class_attention(model, clip)
    rows = class_rows(list(clip), maps)
    assert list(rows) == ["frame", "mean of heads", "head 0", "head 1"]
    assert {len(row) for row in rows.values()} == {3}
    heat = maps[:, 1].numpy()
    np.testing.assert_array_equal(
        rows["head 1"][2], overlay_heat(clip[2], heat[2], limits=(0, float(np.quantile(heat, 0.999))))
    )
    shown = point_rows(list(clip), match_patch(model, clip, (1, 1), frame=1, temperature=0.2))
    assert list(shown) == ["frame", "features", "decoder 0", "decoder 1"]
    np.testing.assert_array_equal(shown["frame"][0], clip[0])
    assert (shown["frame"][1] != clip[1]).any()  # the mark
    assert list(point_rows(list(clip), match_patch(PixelExtractor(), clip, (1, 1), temperature=0.2))) == [
        "frame",
        "features",
    ]


def test_heat_row_when_one_patch_outshines_all_then_its_frame_is_brightest(clip):
    heat = torch.full((3, 3, 5), 0.1)
    heat[1, 1, 1] = 1
    row = heat_row(list(clip), heat)
    assert row[1].mean() > row[0].mean()
