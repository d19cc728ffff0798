import pytest
import torch

from siammae.network.masking import PAST_MASKS, draw_noise, grid_kept, hidden_mask, past_kept, random_kept


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(batch, patches, seed=0):
    return torch.rand(batch, patches, generator=generator(seed))


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [(196, 0.95, 9), (784, 0.95, 39), (40, 0.9, 4), (196, 0.75, 49), (91, 0.5, 45), (16, 0.99, 1), (2, 0.5, 1)],
)
def test_random_kept_keeps_maes_number_of_patches_but_at_least_one(patches, ratio, kept):
    rows = random_kept(noise(3, patches), ratio)
    assert rows.shape == (3, kept)
    assert rows.dtype == torch.int64
    assert ((rows >= 0) & (rows < patches)).all()
    assert (rows.diff(dim=1) > 0).all()  # ascending, so no patch twice


def test_random_kept_takes_the_smallest_numbers_and_of_equal_ones_the_first():
    rows = (10 * noise(50, 91, seed=1)).floor()  # many are equal
    wanted = [sorted(sorted(range(91), key=lambda place, row=row: (row[place], place))[:18]) for row in rows.tolist()]
    assert random_kept(rows, 0.8).tolist() == wanted
    assert random_kept(torch.zeros(2, 12), 0.75).tolist() == [[0, 1, 2]] * 2


def test_random_kept_rows_are_independent_and_cover_all_patches_evenly():
    rows = random_kept(noise(4000, 10), 0.8)
    shares = torch.bincount(rows.flatten(), minlength=10) / 4000
    torch.testing.assert_close(shares, torch.full((10,), 0.2), atol=0.03, rtol=0)  # 0.03 = more than 4 deviations
    assert len(rows.unique(dim=0)) == 45  # every pair of 10 patches occurs


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_random_kept_with_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio is {ratio}: it must be between 0 and 1"):
        random_kept(noise(1, 16), ratio)


@pytest.mark.parametrize(("patches", "ratio"), [(1, 0.95), (16, 1e-8)])
def test_random_kept_where_nothing_would_be_hidden_is_refused(patches, ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio is {ratio}: it hides none of {patches} patches"):
        random_kept(noise(1, patches), ratio)


def test_draw_noise_with_equal_generators_is_the_same_and_differs_between_frames():
    first = draw_noise(4, 91, generator=generator(3))
    assert first.shape == (4, 2, 91)
    assert torch.equal(first, torch.rand(4, 2, 91, generator=generator(3)))
    assert not torch.equal(first, draw_noise(4, 91, generator=generator(4)))
    assert not torch.equal(first[:, 0], first[:, 1])


def test_draw_noise_without_generator_follows_the_global_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = draw_noise(2, 91)
        torch.manual_seed(5)
        assert torch.equal(first, draw_noise(2, 91))
        assert not torch.equal(first, draw_noise(2, 91))


def test_draw_noise_hands_given_numbers_on_and_draws_none():
    given = torch.rand(3, 2, 12, generator=generator())
    before = torch.get_rng_state()
    assert draw_noise(3, 12, noise=given) is given
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "given",
    [torch.zeros(2, 2, 12), torch.zeros(3, 12), torch.zeros(3, 2, 11), torch.zeros(3, 2, 12, dtype=torch.int64)],
    ids=lambda given: f"{tuple(given.shape)} {given.dtype}",
)
def test_draw_noise_of_another_shape_or_type_is_refused(given):
    with pytest.raises(ValueError, match=r"noise is \(.*\) torch\.\w+: it must be float numbers .* = \(3, 2, 12\)"):
        draw_noise(3, 12, noise=given)


def test_draw_noise_with_generator_and_noise_is_refused():
    with pytest.raises(ValueError, match="generator and noise are both given"):
        draw_noise(3, 12, generator=generator(), noise=torch.zeros(3, 2, 12))


@pytest.mark.parametrize("grid", [(4, 4), (7, 13), (1, 6), (5, 1), (2, 3)], ids=str)
def test_grid_kept_keeps_the_top_left_patch_of_every_square_also_of_cut_ones(grid):
    h, w = grid
    wanted = {min(y * w + x for y, x in square) for square in squares(h, w)}
    assert grid_kept(grid).tolist() == sorted(wanted)
    assert len(wanted) == -(-h // 2) * -(-w // 2)


def squares(h, w):
    """The patches (y, x) of every square of 2 x 2 laid from the top left corner, cut at the frame's edge."""
    return [
        [(y, x) for y in (top, top + 1) for x in (left, left + 1) if y < h and x < w]
        for top in range(0, h, 2)
        for left in range(0, w, 2)
    ]


def test_past_kept_hides_nothing_the_same_part_or_all_but_the_grid():
    rows = noise(3, 91)
    assert past_kept(rows, "none", 0.8, (7, 13)) is None
    assert torch.equal(past_kept(rows, "symmetric", 0.8, (7, 13)), random_kept(rows, 0.8))
    assert past_kept(rows, "grid", 0.8, (7, 13)).tolist() == [grid_kept((7, 13)).tolist()] * 3


def test_past_kept_by_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="past_mask is 'block': it must be one of 'none', 'symmetric', 'grid'"):
        past_kept(noise(1, 16), "block", 0.5, (4, 4))
    assert PAST_MASKS == ("none", "symmetric", "grid")


def test_hidden_mask_is_true_where_nothing_was_kept():
    mask = hidden_mask(torch.tensor([[0, 3], [1, 2]]), 5)
    assert mask.tolist() == [[False, True, True, False, True], [True, False, False, True, True]]
