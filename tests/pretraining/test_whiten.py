"""The map that turns down what changes when a thing moves."""

import numpy as np
import pytest
import torch

from siammae.network.model import SiamMAE
from siammae.pretraining.data.crops import Pairs
from siammae.pretraining.whiten import Matches, sample, whiten
from tests.helpers import tiny_model
from tests.pretraining.runs import make_clips, same_weights


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), count=2, frames=6, size=(64, 80))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(image_size=64).eval().save_pretrained(tmp_path_factory.mktemp("model"))


class Given:
    """Stands for a network: what comes out is what was put in the frames."""

    patch_size = 1

    def extract(self, frames):
        return frames.float()


def test_sample_reads_between_patches():
    features = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")[::-1])  # x, y
    places = torch.tensor([[0.0, 0.0], [1.25, 0.5], [4.0, 2.0], [3.5, 1.75]])
    torch.testing.assert_close(sample(features, places), places)


def test_matches_are_the_differences_of_what_moves_and_is_seen():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4, 2, 3, 6, 6, generator=generator)
    places = torch.randint(0, 6, (4, 36, 2), generator=generator).float()
    places[0, :5], places[1, :5] = torch.nan, 7.0
    moves = torch.rand(4, 36, generator=generator) < 0.5
    matches = Matches(3)
    for part in (slice(0, 3), slice(3, 4)):
        matches.add(Given(), Pairs(frames[part], places[part], moves[part]))
    differences = []
    for pair in range(4):
        for patch in range(36):
            x, y = places[pair, patch].tolist()
            if moves[pair, patch] and x <= 5 and y <= 5:
                right = frames[pair, 0, :, int(y), int(x)]
                differences.append(frames[pair, 1].flatten(1)[:, patch] - right)
    differences = torch.stack(differences).double()
    assert len(differences) > 40
    within = differences.T @ differences / len(differences) / 2
    fitted = matches.fit(1e-9)
    torch.testing.assert_close(fitted.mean, frames[:, 0].mean(dim=(0, 2, 3)))
    white = fitted.matrix.double() @ within @ fitted.matrix.double()
    torch.testing.assert_close(white, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-4)


def test_whiten_finds_a_moved_patch_among_those_that_stand_at_its_old_place():
    # Six directions say what a patch is, a seventh one where it is, and that is loud.
    generator = torch.Generator().manual_seed(1)
    looks = torch.randn(30, 6, 6, 6, generator=generator)
    place = 9 * torch.linspace(-1, 1, 36).reshape(1, 6, 6)
    order = torch.stack([torch.randperm(36, generator=generator) for _ in looks])
    matches, pairs = Matches(7), []
    for look, way in zip(looks, order, strict=True):
        moved = look.flatten(1)[:, way].reshape(6, 6, 6)
        frames = torch.stack([torch.cat([look, place]), torch.cat([moved, place])])[None]
        places = torch.stack([way % 6, way // 6], dim=1).float()[None]
        pairs.append(Pairs(frames, places, torch.ones(1, 36, dtype=torch.bool)))

    def right(change):
        hits = []
        for pair, way in zip(pairs[20:], order[20:], strict=True):
            past, future = (torch.nn.functional.normalize(change(part.flatten(1).T), dim=1) for part in pair.frames[0])
            hits.append(((future @ past.T).argmax(dim=1) == way).float().mean())
        return torch.stack(hits).mean()

    for pair in pairs[:20]:
        matches.add(Given(), pair)
    assert right(lambda tokens: tokens) < 0.5
    assert right(matches.fit(1e-3)) > 0.95


def test_whiten_is_deterministic_and_changes_features_only(clips, model, tmp_path):
    one, other = (whiten(clips, tmp_path / name, model=model, pairs=30) for name in "ab")
    assert same_weights(one, other)
    before, after = SiamMAE.from_pretrained(model), SiamMAE.from_pretrained(one)
    assert after.config == before.config.replace(whitened=True)
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(after.extract(frame, whiten=False), before.extract(frame))
    assert not torch.allclose(after.extract(frame), before.extract(frame))
    whiten(clips, tmp_path / "c", model=one, pairs=30)  # of the network itself, not of the map it had
    assert same_weights(one, tmp_path / "c")
    whiten(clips, tmp_path / "d", model=model, pairs=30, seed=1)
    assert not same_weights(one, tmp_path / "d")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": 0}, "pairs is 0: it must be at least 1"),
        ({"epsilon": 0.0}, r"epsilon is 0\.0: it must be above 0"),
        ({"pairs": 1, "epsilon": 0.1}, r"\d+ patches move in these pairs: more than \d+ are needed"),
    ],
    ids=str,
)
def test_whiten_that_cannot_be_says_why_and_leaves_nothing(clips, model, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        whiten(clips, tmp_path / "out", model=model, **fields)
    assert list(tmp_path.iterdir()) == []


def test_whiten_without_videos_is_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        whiten(tmp_path / "gone", tmp_path / "out", model=model)
