import pytest
import torch

from siammae.masking import hidden_mask, random_kept

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [(196, 0.95, 9), (784, 0.95, 39), (40, 0.9, 4), (196, 0.75, 49), (91, 0.5, 45), (16, 0.99, 1), (2, 0.5, 1)],
)
def test_random_kept_keeps_maes_number_of_patches_but_at_least_one(patches, ratio, kept):
    rows = random_kept(3, patches, ratio, generator=generator(), device=CPU)
    assert rows.shape == (3, kept)
    assert rows.dtype == torch.int64
    assert ((rows >= 0) & (rows < patches)).all()
    assert (rows.diff(dim=1) > 0).all()  # ascending, so no patch twice


def test_random_kept_with_equal_generators_is_the_same():
    first = random_kept(4, 91, 0.8, generator=generator(3), device=CPU)
    assert torch.equal(first, random_kept(4, 91, 0.8, generator=generator(3), device=CPU))
    assert not torch.equal(first, random_kept(4, 91, 0.8, generator=generator(4), device=CPU))


def test_random_kept_without_generator_follows_the_global_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = random_kept(2, 91, 0.8, device=CPU)
        torch.manual_seed(5)
        assert torch.equal(first, random_kept(2, 91, 0.8, device=CPU))
        assert not torch.equal(first, random_kept(2, 91, 0.8, device=CPU))


def test_random_kept_rows_are_independent_and_cover_all_patches_evenly():
    rows = random_kept(4000, 10, 0.8, generator=generator(), device=CPU)
    shares = torch.bincount(rows.flatten(), minlength=10) / 4000
    torch.testing.assert_close(shares, torch.full((10,), 0.2), atol=0.03, rtol=0)  # 0.03 = more than 4 deviations
    assert len(rows.unique(dim=0)) == 45  # every pair of 10 patches occurs


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_random_kept_with_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio is {ratio}: it must be between 0 and 1"):
        random_kept(1, 16, ratio, device=CPU)


@pytest.mark.parametrize(("patches", "ratio"), [(1, 0.95), (16, 1e-8)])
def test_random_kept_where_nothing_would_be_hidden_is_refused(patches, ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio is {ratio}: it hides none of {patches} patches"):
        random_kept(1, patches, ratio, device=CPU)


def test_hidden_mask_is_true_where_nothing_was_kept():
    mask = hidden_mask(torch.tensor([[0, 3], [1, 2]]), 5)
    assert mask.tolist() == [[False, True, True, False, True], [True, False, False, True, True]]
