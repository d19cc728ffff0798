"""The checkpoint inside the package: small, whole, and the same features on every version of torch."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import siammae
from siammae.checkpoints.hub import DEFAULT_WEIGHTS, bundled_names, find_checkpoint

FOLDER = find_checkpoint()


def test_bundled_checkpoint_is_the_default_and_is_small():
    assert bundled_names() == ("siammae-ti8",)
    assert DEFAULT_WEIGHTS == "siammae-ti8"
    assert (FOLDER / "model.safetensors").stat().st_size < 16e6


def test_bundled_weights_are_the_ones_described_in_the_card():
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in (FOLDER / "README.md").read_text()


def test_bundled_card_says_how_it_was_made_and_how_weak_it_is():
    card = (FOLDER / "README.md").read_text()
    for part in ("## How it was made", "siammae pretrain", "## How good it is", "siammae evaluate davis", "## Limits"):
        assert part in card


def test_bundled_model_recommends_its_propagation():
    model = siammae.SiamMAE.from_pretrained()
    assert model.propagation is not None
    assert siammae.Propagator(model).config == model.propagation


@pytest.fixture
def ramp() -> np.ndarray:
    """Two frames of smooth colour gradients, without any random generator."""
    y, x = np.mgrid[0:48, 0:64]
    first = np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).clip(0, 255).astype(np.uint8)
    return np.stack([first, first[:, ::-1]])


def test_bundled_features_equal_the_golden_ones(ramp):
    golden = np.load(Path(__file__).parents[1] / "data" / "siammae-ti8-golden.npy")  # (2, 192, 6, 8) float32
    features = siammae.SiamMAE.from_pretrained(dtype=torch.float32).extract(ramp)
    torch.testing.assert_close(features, torch.from_numpy(golden), rtol=1e-3, atol=1e-3)


def test_bundled_features_match_the_frame_they_came_from(ramp):
    model = siammae.SiamMAE.from_pretrained()
    first, mirrored = model.extract(ramp)
    matches = siammae.topk_affinity(first, first[None], top_k=1, temperature=0.1).indices[:, 0]
    assert torch.equal(matches, torch.arange(48))
    assert not torch.allclose(first, mirrored, atol=0.1)
