import numpy as np
import pytest
import torch

from siammae.frames import resize_frame
from siammae.pretraining.data.crops import Pairs, collate, crop_pair, draw_crop
from tests.helpers import tiny_config
from tests.pretraining.runs import run_config


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (7, 13), (20, 200), (200, 20)], ids=str)
def test_draw_crop_stays_in_the_frame_and_in_its_ranges(size):
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left, height, width = draw_crop(rng, size, (0.5, 1.0), (3 / 4, 4 / 3))
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
        assert (height - 0.5) * 3 / 4 - 0.5 <= width <= (height + 0.5) * 4 / 3 + 0.5
        if max(size) < 2 * min(size):
            assert (height + 0.5) * (width + 0.5) >= 0.5 * size[0] * size[1]


@pytest.mark.parametrize(("size", "box"), [((20, 200), (0, 86, 20, 27)), ((200, 20), (86, 0, 27, 20))], ids=str)
def test_draw_crop_where_no_draw_fits_is_centred(size, box):
    assert draw_crop(np.random.default_rng(0), size, (1.0, 1.0), (3 / 4, 4 / 3)) == box


def position_frame(height=120, width=160):
    """A frame whose red is its x and whose green is its y."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
    return frame


def centres(crop, patch):
    """Return the mean colour of every patch, ``(h, w, 3)``: the place in the frame at which its centre lies."""
    return crop.numpy().reshape(3, crop.shape[1] // patch, patch, -1, patch).mean(axis=(2, 4)).transpose(1, 2, 0)


def at(grid, x, y):
    """Read a map ``(h, w, C)`` at a fractional place inside it, bilinearly."""
    left, top = min(int(x), grid.shape[1] - 2), min(int(y), grid.shape[0] - 2)
    x, y = x - left, y - top
    rows = grid[top : top + 2, left] * (1 - x) + grid[top : top + 2, left + 1] * x
    return rows[0] * (1 - y) + rows[1] * y


@pytest.mark.parametrize(
    "fields",
    [{}, {"flip": 0.0}, {"flip": 1.0}, {"still_rotation": 30.0}, {"flip": 1.0, "still_rotation": 90.0}],
    ids=str,
)
def test_places_of_a_still_pair_point_to_what_the_future_patch_shows(fields):
    config = run_config(model=tiny_config(image_size=64, patch_size=8), crop_scale=(0.3, 0.8), **fields)
    checked = 0
    for seed in range(40):
        frame = position_frame()
        pair = crop_pair(frame, frame, config, np.random.default_rng(seed), still=True)
        past, future = (centres(crop, 8) for crop in pair.frames[0])
        for patch, (x, y) in zip(future.reshape(-1, 3), pair.places[0].numpy(), strict=True):
            if 0 <= x <= 7 and 0 <= y <= 7:
                np.testing.assert_allclose(at(past, x, y)[:2], patch[:2], atol=2)
                checked += 1
    assert checked > 500


def test_places_of_two_moments_are_unknown_and_the_crop_is_shared():
    frame = position_frame()
    pair = crop_pair(frame, frame, run_config(), np.random.default_rng(0), still=False)
    assert pair.places.isnan().all()
    assert torch.equal(pair.frames[0, 0], pair.frames[0, 1])


def test_color_jitter_changes_each_frame_of_its_own_and_leaves_the_places():
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    draw = [
        crop_pair(frame, frame, run_config(color_jitter=jitter), np.random.default_rng(1), still=False)
        for jitter in (0.0, 0.3)
    ]
    assert torch.equal(draw[0].frames[0, 0], draw[0].frames[0, 1])
    plain, (past, future) = draw[0].frames[0, 0].float(), draw[1].frames[0].float()
    assert len({round(float(crop.mean()), 3) for crop in (plain, past, future)}) == 3
    for crop in (past, future):  # still the same picture
        assert np.corrcoef(plain.flatten(), crop.flatten())[0, 1] > 0.8


def test_collate_joins_pairs():
    parts = [
        Pairs(torch.full((n, 2, 3, 4, 4), n, dtype=torch.uint8), torch.zeros(n, 1, 2), torch.full((n, 1), n > 1))
        for n in (1, 2)
    ]
    joined = collate(parts)
    assert (joined.frames.shape, joined.places.shape) == ((3, 2, 3, 4, 4), (3, 1, 2))
    assert joined.moves.tolist() == [[False], [True], [True]]
    assert joined.frames[:, 0, 0, 0, 0].tolist() == [1, 2, 2]


def test_places_of_a_still_pair_with_flow_follow_what_moved():
    texture = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    wide = resize_frame(texture, (150, 200), interpolation="bicubic")
    past, future = wide[10:130, 10:170], wide[14:134, 16:176]  # the camera moved: 6 pixels right, 4 down
    fields = {"model": tiny_config(image_size=64, patch_size=8), "crop_scale": (0.4, 0.8)}
    moved = []
    for seed in range(10):
        still, followed = (
            crop_pair(past, other, run_config(still_flow=flow, **fields), np.random.default_rng(seed), still=True)
            for other, flow in ((future, False), (future, True))
        )
        assert torch.equal(still.frames, followed.frames)
        moved.append((followed.places - still.places)[0])
        same = crop_pair(past, past, run_config(still_flow=True, **fields), np.random.default_rng(seed), still=True)
        assert torch.equal(same.places, still.places)  # one frame: nothing moved, and nothing is unknown
    moved = torch.cat(moved)
    known = moved.isfinite().all(dim=1)
    assert known.float().mean() > 0.8
    x, y = moved[known].abs().median(dim=0).values.tolist()  # mirrored or not
    assert x / y == pytest.approx(6 / 4, rel=0.35)  # a past crop's patch is as wide as high within its aspect's range
    assert 0.3 < x < 1.2  # 6 pixels, of crops 48 to 137 pixels wide, in eighths


def test_places_of_pieces_that_move_on_their_own_point_to_them_too():
    fields = {"model": tiny_config(image_size=64, patch_size=8), "crop_scale": (0.3, 0.8), "still_rotation": 15.0}
    config, still = run_config(still_copy_paste=3, **fields), run_config(**fields)
    off, moved, unknown = [], 0, 0
    for seed in range(40):
        frame = position_frame()
        pair, plain = (
            crop_pair(frame, frame, which, np.random.default_rng(seed), still=True) for which in (config, still)
        )
        past, future = (centres(crop, 8) for crop in pair.frames[0])
        away = (pair.places[0] - plain.places[0]).abs().amax(dim=1)
        moved += int((away > 1e-4).sum())
        unknown += int(away.isnan().sum())
        for patch, (x, y) in zip(future.reshape(-1, 3), pair.places[0].numpy(), strict=True):
            if 0 <= x <= 7 and 0 <= y <= 7:
                off.append(np.abs(at(past, x, y) - patch).max())
    assert moved > 60  # of 2560: most pieces are small
    assert unknown > 200  # edges, and what is covered in one of the two
    assert np.quantile(off, 0.95) < 12  # of 160; a fifth of a patch may be a piece's
    assert np.mean(off) < 2


def moving_part():
    """Two frames of a still ground on which a square moves 6 pixels right, and where that is in the second one."""
    texture = np.random.default_rng(0).integers(0, 256, (2, 15, 20, 3), dtype=np.uint8)
    ground, cover = (resize_frame(one, (120, 160), interpolation="bicubic") for one in texture)
    past, future, moves = ground.copy(), ground.copy(), np.zeros((120, 160), bool)
    past[30:80, 40:90], future[30:80, 46:96], moves[30:80, 46:96] = cover[:50, :50], cover[:50, :50], True
    return past, future, moves


def moving_pair(seed, **fields):
    past, future, _ = moving_part()
    defaults = {"model": tiny_config(image_size=64, patch_size=8), "crop_scale": (0.3, 0.6), "still_flow": True}
    matching = {"still_share": 1.0, "match_weight": 1.0}
    return crop_pair(
        past, future, run_config(**{**defaults, **matching, **fields}), np.random.default_rng(seed), still=True
    )


def test_moves_are_the_patches_that_move_against_the_rest():
    past, _, moves = moving_part()
    config = {"model": tiny_config(image_size=64, patch_size=8), "crop_scale": (0.3, 0.6)}
    shown = np.repeat(255 * moves[..., None], 3, axis=2).astype(np.uint8)
    found, known = [], []
    for seed in range(20):
        pair = moving_pair(seed, match_motion=1.0)
        where = crop_pair(past, shown, run_config(**config), np.random.default_rng(seed), still=True)
        share = centres(where.frames[0, 1], 8)[..., 0].ravel() / 255
        sure = pair.places[0].isfinite().all(dim=1).numpy() & ((share < 0.01) | (share > 0.99))
        found.append(pair.moves[0].numpy()[sure])
        known.append(share[sure] > 0.5)
    found, known = np.concatenate(found), np.concatenate(known)
    assert known.sum() > 100
    assert (found == known).mean() > 0.97
    assert not any(moving_pair(seed).moves.any() for seed in range(5))  # nobody asked


def test_pasted_pieces_move_on_their_own():
    frame = position_frame()
    fields = {"model": tiny_config(image_size=64, patch_size=8), "crop_scale": (0.3, 0.8)}
    count = 0
    for seed in range(20):
        pair, plain = (
            crop_pair(frame, frame, run_config(still_copy_paste=n, **fields), np.random.default_rng(seed), still=True)
            for n in (3, 0)
        )
        away = (pair.places[0] - plain.places[0]).abs().amax(dim=1)
        assert (away[pair.moves[0]] > 1e-4).all()  # each has a place of its own
        assert not (away[~pair.moves[0]] > 1e-4).any()
        count += int(pair.moves.sum())
    assert count > 30


def test_no_pieces_move_in_pairs_of_two_moments():
    frame = position_frame()
    fields = {"model": tiny_config(image_size=64, patch_size=8)}
    one, other = (
        crop_pair(frame, frame, run_config(still_copy_paste=most, **fields), np.random.default_rng(0), still=False)
        for most in (0, 3)
    )
    assert torch.equal(one.frames, other.frames)


def test_crop_size_makes_crops_smaller_than_the_networks_own():
    frame = position_frame()
    config = run_config(model=tiny_config(image_size=64, patch_size=8), crop_size=32)
    pair = crop_pair(frame, frame, config, np.random.default_rng(0), still=True)
    assert pair.frames.shape == (1, 2, 3, 32, 32)
    assert pair.places.shape == (1, 16, 2)
