import numpy as np
import pytest
import torch

from siammae.network import loss
from siammae.network.loss import masked_patch_loss, matching_loss, patchify, unpatchify

GRIDS = [((2, 3, 24, 40), 8), ((1, 3, 7, 13), 1), ((3, 3, 6, 6), 6), ((2, 3, 10, 5), 5)]


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def plain_loss(prediction, target, hidden, *, norm_pix):
    """The definition in float64, patch by patch."""
    errors = []
    for b, n in zip(*np.nonzero(hidden), strict=True):
        wanted = target[b, n].astype(np.float64)
        if norm_pix:
            wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
        errors.append(np.mean((prediction[b, n].astype(np.float64) - wanted) ** 2))
    return np.mean(errors)


@pytest.mark.parametrize(("shape", "size"), GRIDS, ids=str)
def test_patchify_orders_pixels_as_mae_does(shape, size):
    images = noise(*shape)
    patches = patchify(images, size)
    w = shape[3] // size
    for b, n, i in np.ndindex(*patches.shape):  # within a patch: row, column, colour
        row, column, colour = i // 3 // size, i // 3 % size, i % 3
        assert patches[b, n, i] == images[b, colour, n // w * size + row, n % w * size + column]


@pytest.mark.parametrize(("shape", "size"), GRIDS, ids=str)
def test_unpatchify_undoes_patchify(shape, size):
    images = noise(*shape)
    assert torch.equal(unpatchify(patchify(images, size), (shape[2] // size, shape[3] // size), size), images)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_patch_loss_equals_its_definition(norm_pix, dtype):
    prediction, target = noise(2, 91, 33).to(dtype), noise(2, 91, 33, seed=1).to(dtype)
    target[0, 0] = 0.5  # a patch of one colour: only the 1e-6 keeps it finite
    hidden = noise(2, 91, seed=2) < 0.7
    hidden[0, 0] = True
    got = masked_patch_loss(prediction, target, hidden, norm_pix=norm_pix)
    wanted = plain_loss(prediction.float().numpy(), target.float().numpy(), hidden.numpy(), norm_pix=norm_pix)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_masked_patch_loss_counts_hidden_patches_only():
    prediction, target = noise(2, 6, 12).requires_grad_(), noise(2, 6, 12, seed=1)
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[0, 2] = hidden[1, 5] = True
    loss = masked_patch_loss(prediction, target, hidden)
    loss.backward()
    assert not prediction.grad[~hidden].any()
    assert (prediction.grad[hidden] != 0).all()
    changed = torch.where(hidden[..., None], prediction.detach(), torch.tensor(100.0))
    assert masked_patch_loss(changed, target, hidden) == loss


def test_masked_patch_loss_of_the_normalised_target_is_zero():
    target = noise(1, 4, 12)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    hidden = torch.ones(1, 4, dtype=torch.bool)
    assert masked_patch_loss((target - mean) / (variance + 1e-6).sqrt(), target, hidden) == 0
    assert masked_patch_loss(target, target, hidden, norm_pix=False) == 0


def plain_matching(past, future, places, side, temperature):
    """The definition in float64, patch by patch: each bilinear neighbour is a class with its share."""
    unit = [features / np.linalg.norm(features, axis=-1, keepdims=True) for features in (past, future)]
    errors = []
    for b, n in np.ndindex(*places.shape[:2]):
        x, y = places[b, n]
        if not (-0.5 <= x <= side - 0.5 and -0.5 <= y <= side - 0.5):
            continue
        logits = np.einsum("pqc,c->pq", unit[0], unit[1][b, n]) / temperature
        errors.append(np.log(np.exp(logits).sum()))
        for i in range(side):
            for j in range(side):
                share = max(0, 1 - abs(min(max(x, 0), side - 1) - j)) * max(0, 1 - abs(min(max(y, 0), side - 1) - i))
                errors[-1] -= share * logits[b, i * side + j]
    return np.mean(errors)


@pytest.mark.parametrize(("batch", "side", "temperature"), [(3, 4, 0.1), (2, 3, 1.0), (4, 2, 0.5), (2, 1, 0.2)])
def test_matching_loss_equals_its_definition(batch, side, temperature):
    past, future = noise(batch, side**2, 5, seed=1) - 0.5, noise(batch, side**2, 5, seed=2) - 0.5
    places = noise(batch, side**2, 2, seed=3) * (side + 1) - 1  # some lie outside
    places[0, 0] = torch.tensor([side - 0.5, -0.5])
    places[-1, 0] = torch.nan
    wanted = plain_matching(*(part.double().numpy() for part in (past, future, places)), side, temperature)
    assert matching_loss(past, future, places, temperature=temperature).item() == pytest.approx(wanted, rel=1e-5)


def test_matching_loss_in_groups_tells_patches_apart_within_each(monkeypatch):
    past, future, places = noise(5, 4, 6, seed=1), noise(5, 4, 6, seed=2), noise(5, 4, 2, seed=3)
    monkeypatch.setattr(loss, "_GROUP_PATCHES", 8)  # two pairs a group
    parts = [matching_loss(past[i : i + 2], future[i : i + 2], places[i : i + 2]).item() for i in (0, 2, 4)]
    wanted = (2 * parts[0] + 2 * parts[1] + parts[2]) / 5
    assert matching_loss(past, future, places).item() == pytest.approx(wanted, rel=1e-5)


def test_matching_loss_counts_patches_by_their_weights():
    past, future, places = noise(3, 4, 6, seed=1), noise(3, 4, 6, seed=2), noise(3, 4, 2, seed=3)
    places[1, 2] = torch.nan
    only = [
        torch.zeros(3, 4).index_put_((torch.tensor(b), torch.tensor(n)), torch.tensor(1.0)) for b, n in ((0, 1), (2, 3))
    ]
    parts = [matching_loss(past, future, places, weights=one).item() for one in only]
    both = matching_loss(past, future, places, weights=only[0] + 3 * only[1])
    assert both.item() == pytest.approx((parts[0] + 3 * parts[1]) / 4, rel=1e-5)
    twice = matching_loss(past, future, places, weights=torch.full((3, 4), 2.0))
    assert twice.item() == pytest.approx(matching_loss(past, future, places).item(), rel=1e-6)


def test_matching_loss_is_small_where_right_patches_are_alike_and_zero_where_none_is_visible():
    features = torch.eye(8).reshape(2, 4, 8)
    right = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]).expand(2, -1, -1)
    assert matching_loss(features, features, right, temperature=0.05) < 1e-6
    assert matching_loss(features, features, right.flip(1), temperature=0.05) > 10
    assert matching_loss(features, features, torch.full_like(right, torch.nan)) == 0
    assert matching_loss(features[:0], features[:0], right[:0]) == 0
