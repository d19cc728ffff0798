"""Predicted pixels against the formula written out, and the pictures made of them."""

import numpy as np
import pytest
import torch

import siammae
from siammae.features import PixelExtractor
from siammae.network.reconstruction import predict_frames
from siammae.visualize.reconstruction import centre_square, reconstruct, reconstruct_pairs
from tests.helpers import moving_square, ramp_weights, tiny_model


def clip(frames=4, size=(24, 40)):
    video, _ = moving_square(frames=frames, size=size, side=8, start=(0, 0))
    return video


def pair(size=(24, 40)):
    frames = torch.from_numpy(clip(size=size)).permute(0, 3, 1, 2)
    return frames[:2], frames[2:]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_patch(frame, row, column):
    """One patch's pixels, ``(8, 8, 3)`` float64."""
    return frame[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("decoder", ["cross-self", "joint", "cropmae"])
def test_predicted_frames_are_the_prediction_undone_patch_by_patch(norm_pix_loss, decoder):
    model = ramp_weights(tiny_model(norm_pix_loss=norm_pix_loss, decoder=decoder))
    past, future = pair()
    got = predict_frames(model, past, future, mask_ratio=0.7, generator=generator())
    with torch.no_grad():
        output = model(past, future, mask_ratio=0.7, generator=generator())
    assert (got.frames.shape, got.frames.dtype) == ((2, 3, 24, 40), torch.uint8)
    assert torch.equal(got.hidden, output.mask)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for sample, row, column in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        patch = output.prediction[sample, 5 * row + column].double().numpy()
        if norm_pix_loss:
            true = (as_patch(future[sample], row, column) / 255 - mean) / std
            patch = patch * np.sqrt(true.var(ddof=1) + 1e-6) + true.mean()
        pixels = (patch.reshape(8, 8, 3) * std + mean) * 255
        assert np.abs(as_patch(got.frames[sample], row, column) - np.clip(pixels, 0, 255)).max() < 0.51


def test_perfect_prediction_gives_the_true_frame(monkeypatch):
    model, (past, future) = tiny_model(), pair()
    pixels = (future / 255 - torch.tensor(model.config.pixel_mean).view(3, 1, 1)) / torch.tensor(
        model.config.pixel_std
    ).view(3, 1, 1)
    patches = siammae.network.loss.patchify(pixels, 8)
    patches = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(model.decoder, "forward", lambda *_: patches)
    assert torch.equal(predict_frames(model, past, future).frames, future)


def test_predicting_leaves_modes_and_random_numbers_as_they_were():
    model = tiny_model(decoder="cropmae").train()
    model.encoder.eval()
    modes, state = [part.training for part in model.modules()], torch.random.get_rng_state()
    first, second = (reconstruct_pairs(model, *pair()).prediction for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_pair_s_mask_depends_on_its_place_and_the_seed_alone():
    model, (past, future) = tiny_model(), pair(size=(64, 64))
    both, one = reconstruct_pairs(model, past, future), reconstruct_pairs(model, past[:1], future[:1])
    np.testing.assert_array_equal(both.prediction[:1], one.prediction)
    assert (both.hidden[0] != both.hidden[1]).any()
    assert (reconstruct_pairs(model, past, future, seed=1).hidden != both.hidden).any()


def test_reconstruction_shows_visible_patches_as_given_and_hidden_ones_grey():
    past, future = pair()
    shown = reconstruct_pairs(tiny_model(), past, future, mask_ratio=0.6)
    assert shown.hidden.shape == (2, 3, 5)
    assert shown.hidden.sum(axis=(1, 2)).tolist() == [9, 9]
    hidden = shown.hidden.repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_array_equal(shown.past, past.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(shown.target, future.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(shown.masked[~hidden], shown.target[~hidden])
    assert (shown.masked[hidden] == 127).all()
    np.testing.assert_array_equal(shown.prediction[~hidden], shown.target[~hidden])
    assert (shown.prediction[hidden] != shown.target[hidden]).any()


def test_strip_and_slides_hold_all_pictures_pixel_by_pixel():
    shown = reconstruct_pairs(tiny_model(), *pair())
    strip = shown.strip(captions=["a", "b"], width=40)
    assert strip.shape[1] > 2 * 40
    for row in (shown.past, shown.masked, shown.prediction, shown.target):
        for picture in row:
            windows = np.lib.stride_tricks.sliding_window_view(strip, picture.shape)[:, :, 0]
            assert (windows == picture).all(axis=(2, 3, 4)).sum() >= 1
    slides = list(shown.slides(width=80))
    assert len(slides) == 2
    assert slides[0].shape == slides[1].shape
    assert slides[0].shape[1] > 4 * 80


@pytest.mark.parametrize(
    ("past", "pairs"),
    [(0, [(0, 1), (0, 2), (0, 3)]), (2, [(2, 0), (2, 1), (2, 3)]), ("previous", [(0, 1), (1, 2), (2, 3)])],
)
def test_reconstruct_takes_pairs_from_the_clip(past, pairs):
    frames = clip(size=(32, 32))
    shown = reconstruct(frames, model=tiny_model(), past=past, mask_ratio=0.5)
    np.testing.assert_array_equal(shown.past, frames[[first for first, _ in pairs]])
    np.testing.assert_array_equal(shown.target, frames[[second for _, second in pairs]])


def test_reconstruct_cuts_the_middle_and_takes_other_sizes():
    frames = clip(frames=2, size=(33, 47))
    shown = reconstruct(frames, model=tiny_model(), size=40)
    assert shown.target.shape == (1, 40, 40, 3)
    np.testing.assert_array_equal(shown.target[0], centre_square(frames[1], 40))
    np.testing.assert_array_equal(centre_square(frames[0], 33), frames[0][:, 7:40])
    np.testing.assert_array_equal(centre_square(frames[0].transpose(1, 0, 2), 33), frames[0].transpose(1, 0, 2)[7:40])


def test_reconstruct_by_name_uses_the_networks_own_size():
    side = siammae.SiamMAE.from_pretrained().config.image_size
    shown = reconstruct(clip(frames=2, size=(70, 90)))
    assert shown.target.shape == (1, side, side, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "size is 20: it must be a multiple of the patch size 8"),
        ({"size": 0}, "size is 0: it must be a multiple"),
        ({"past": 4}, "past is 4: it must be the number of a frame, from 0 to 3, or 'previous'"),
        ({"past": -1}, "past is -1"),
        ({"frames": clip(frames=1)}, "the clip has one frame: at least two"),
        ({"mask_ratio": 1.0}, r"mask_ratio is 1\.0"),
        ({"model": tiny_model(decoder="none")}, r'random has no decoder \(config\.decoder is "none"\)'),
        ({"model": PixelExtractor()}, "PixelExtractor makes features only"),
    ],
)
def test_reconstruct_when_input_does_not_fit_then_raises(options, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(**{"frames": clip(), "model": tiny_model(), **options})


@pytest.mark.parametrize(
    ("past", "future", "message"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), r"past is torch\.float32: it must be uint8"),
        (torch.zeros(2, 3, 16, 16).byte(), torch.zeros(1, 3, 16, 16).byte(), "both must be .B, 3, H, W. of one shape"),
        (torch.zeros(0, 3, 16, 16).byte(), torch.zeros(0, 3, 16, 16).byte(), "B at least 1"),
        (torch.zeros(1, 3, 16, 17).byte(), torch.zeros(1, 3, 16, 17).byte(), "multiples of the patch size 8"),
    ],
)
def test_reconstruct_pairs_when_frames_do_not_fit_then_raises(past, future, message):
    with pytest.raises(ValueError, match=message):
        reconstruct_pairs(tiny_model(), past, future)
