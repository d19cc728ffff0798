"""How much patches have changed."""

import numpy as np
import pytest
import torch

from siammae.network.changes import Reference


def _frame(height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(30, 200, (height, width, 3), dtype=np.uint8)


def _known(frame, patch_size=8):
    reference = Reference(patch_size)
    reference.begin(frame)
    return reference


@pytest.mark.parametrize("patch_size", [1, 4, 7, 8, 14, 16])
def test_a_frame_has_not_changed_against_itself(patch_size):
    frame = _frame(2 * patch_size, 3 * patch_size)
    changes = _known(frame, patch_size).changes(frame)
    assert changes.shape == (2, 3)
    assert changes.max() == 0


def test_changes_are_grey_levels_of_the_cell_that_changed_most():
    frame = np.full((32, 48, 3), 100, np.uint8)
    moved = frame.copy()
    moved[8:12, 16:20, 1] += 20  # one cell of patch (1, 2), in green
    changes = _known(frame).changes(moved)
    assert changes[1, 2] == pytest.approx(20)
    changes[1, 2] = 0
    assert changes.max() == 0


def test_brightness_of_the_whole_frame_is_evened_out():
    frame = np.full((64, 64, 3), 100, np.uint8)
    frame[:, 32:] = 180
    brighter = (frame * 1.05).round().astype(np.uint8)
    assert _known(frame).changes(brighter).max() < 1
    brighter[:8, :8] = 60  # what has changed besides is seen
    changes = _known(frame).changes(brighter)
    assert changes[0, 0] > 30
    assert (changes > 1).sum() == 1


def test_brightness_beyond_what_features_bear_counts_as_change():
    frame = np.full((64, 64, 3), 100, np.uint8)
    assert _known(frame).changes(frame * 2).min() > 50


def test_a_black_frame_has_no_brightness_to_even_out():
    black = np.zeros((16, 16, 3), np.uint8)
    changes = _known(black).changes(black + np.uint8(9))
    assert torch.equal(changes, torch.full((2, 2), 9.0))


def test_what_drifts_slowly_adds_up_until_it_is_computed():
    frame = np.full((32, 48, 3), 100, np.uint8)
    reference = _known(frame)
    shadow = frame.copy()
    for step in range(1, 4):
        shadow[8:16, 16:24] -= 2
        assert reference.changes(shadow)[1, 2] == pytest.approx(2 * step)
    computed = torch.zeros(4, 6, dtype=torch.bool)
    computed[1, 2] = True
    reference.remember(computed)
    assert reference.changes(shadow).max() == 0
    assert reference.changes(frame)[1, 2] == pytest.approx(6)


def test_noise_of_single_pixels_counts_little():
    rng = np.random.default_rng(0)
    frame = np.full((64, 64, 3), 100, np.uint8)
    noisy = (frame + rng.normal(0, 4, frame.shape)).round().astype(np.uint8)
    assert np.abs(noisy.astype(int) - 100).max() > 12
    assert _known(frame).changes(noisy).max() < 5
