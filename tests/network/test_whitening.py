import pytest
import torch

import siammae
from siammae.network.whitening import Whitening
from tests.helpers import moving_square, tiny_model


def correlated(count=500):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 8, 1, 1, generator=generator) @ torch.eye(1) * torch.arange(1, 9).view(1, 8, 1, 1) + 5


def test_whitening_is_the_identity_until_it_is_fitted():
    tokens = torch.randn(3, 4, 8)
    torch.testing.assert_close(Whitening(8)(tokens), tokens, rtol=0, atol=0)


def test_whitening_when_fitted_gives_zero_mean_and_one_variance_in_every_direction():
    mixing = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    features = torch.einsum("dc,tchw->tdhw", mixing, correlated())
    whitening = Whitening(8)
    whitening.fit(features, epsilon=1e-9)
    white = whitening(features[:, :, 0, 0])
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(8), rtol=0, atol=1e-3)


def test_whitening_when_a_direction_never_varies_stays_finite():
    features = correlated()
    features[:, 3] = 7
    whitening = Whitening(8)
    whitening.fit(features, epsilon=0.01)
    white = whitening(features[:, :, 0, 0])
    assert white.isfinite().all()
    assert white.std(dim=0)[3] < 1e-3


@pytest.mark.parametrize(
    ("features", "epsilon", "message"),
    [
        (torch.zeros(2, 8, 2, 2), 0.01, "8 patches: more than 8 finite"),
        (torch.full((9, 8, 1, 1), torch.nan), 0.01, "more than 8 finite"),
        (correlated(), 0.0, "epsilon is 0"),
    ],
)
def test_whitening_when_it_cannot_be_fitted_says_why(features, epsilon, message):
    with pytest.raises(ValueError, match=message):
        Whitening(8).fit(features, epsilon=epsilon)


def test_fit_whitening_changes_the_last_normed_layer_only_and_is_saved(tmp_path):
    video, _ = moving_square()
    model = tiny_model().eval()
    raw, inner = model.extract(video), model.extract(video, layer=0)
    model.fit_whitening(video)
    white = model.extract(video)
    assert not torch.allclose(white, raw)
    torch.testing.assert_close(model.extract(video, whiten=False), raw, rtol=0, atol=0)
    torch.testing.assert_close(model.extract(video, layer=0), inner, rtol=0, atol=0)
    loaded = siammae.SiamMAE.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.config.whitened
    torch.testing.assert_close(loaded.extract(video), white, rtol=0, atol=0)
    loaded.drop_whitening()
    torch.testing.assert_close(loaded.extract(video), raw, rtol=0, atol=0)
    assert not loaded.config.whitened
