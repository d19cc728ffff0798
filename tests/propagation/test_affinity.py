"""topk_affinity against a dense float64 statement of its definition, patch by patch."""

import math

import numpy as np
import pytest
import torch

from siammae.propagation.affinity import centered, topk_affinity, unit_length

SHAPES = [(33, 3, 7, 13), (8, 2, 1, 9), (8, 2, 9, 1), (4, 3, 1, 1), (5, 1, 2, 2)]  # C, M, h, w


def features(channels, frames, h, w, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(channels, h, w, generator=generator)
    return query, torch.randn(frames, channels, h, w, generator=generator)


def inside(y, x, v, u, radius, neighborhood):
    if neighborhood == "disk":
        return math.hypot(y - v, x - u) < radius
    if neighborhood == "closed_disk":
        return math.hypot(y - v, x - u) <= radius
    return abs(y - v) <= radius and abs(x - u) <= radius


def naive(query, context, *, top_k, temperature, radius=None, neighborhood="disk", free_frames=0, keep_ties=False):
    """Return one dict {index: weight} a query patch, best first; vectors are compared as they are."""
    query, context = query.double().numpy(), context.double().numpy()
    frames, _, h, w = context.shape
    rows = []
    for y, x in np.ndindex(h, w):
        scores = np.einsum("c,mcvu->mvu", query[:, y, x], context)
        candidates = [
            (-scores[m, v, u], (m * h + v) * w + u)
            for m, v, u in np.ndindex(frames, h, w)
            if radius is None or m < free_frames or inside(y, x, v, u, radius, neighborhood)
        ]
        candidates.sort()
        kept = candidates[:top_k]
        if keep_ties:  # DINO: every one at least as good as the k-th
            kept = [candidate for candidate in candidates if candidate[0] <= kept[-1][0]]
        shares = [math.exp((kept[0][0] - score) / temperature) for score, _ in kept]
        rows.append({index: share / sum(shares) for share, (_, index) in zip(shares, kept, strict=True)})
    return rows


def unit(values):
    values = values.double()
    return values / values.square().sum(dim=-3, keepdim=True).sqrt()


def as_rows(matches):
    return [
        {int(i): float(weight) for i, weight in zip(indices, weights, strict=True) if weight > 0}
        for weights, indices in zip(*matches, strict=True)
    ]


def assert_same(matches, expected, atol=2e-6):
    assert matches.weights.dtype == torch.float32
    assert matches.indices.dtype == torch.int64
    torch.testing.assert_close(matches.weights.sum(dim=1), torch.ones(len(expected)))
    assert (matches.weights.diff(dim=1) <= 0).all()
    for got, wanted in zip(as_rows(matches), expected, strict=True):
        assert set(got) == set(wanted)
        assert got == pytest.approx(wanted, abs=atol)


@pytest.mark.parametrize("keep_ties", [False, True])
@pytest.mark.parametrize("free_frames", [0, 1, 3])
@pytest.mark.parametrize("neighborhood", ["disk", "closed_disk", "square"])
@pytest.mark.parametrize("radius", [1, 2, 4, 50, None])
def test_topk_affinity_on_an_odd_grid_is_the_dense_statement(radius, neighborhood, free_frames, keep_ties):
    query, context = features(*SHAPES[0])
    options = {
        "top_k": 3,
        "temperature": 0.1,
        "radius": radius,
        "neighborhood": neighborhood,
        "free_frames": free_frames,
        "keep_ties": keep_ties,
    }
    assert_same(topk_affinity(query, context, **options), naive(unit(query), unit(context), **options))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_k", [1, 5, 1000])
@pytest.mark.parametrize("radius", [2, None])
def test_topk_affinity_on_any_shape_and_top_k_is_the_dense_statement(shape, top_k, radius):
    query, context = features(*shape, seed=1)
    options = {"top_k": top_k, "temperature": 0.7, "radius": radius, "free_frames": 1}
    assert_same(topk_affinity(query, context, **options), naive(unit(query), unit(context), **options))


@pytest.mark.parametrize(("neighborhood", "radius"), [("disk", 1), ("disk", 2), ("square", 1)])
@pytest.mark.parametrize("keep_ties", [False, True])
def test_topk_affinity_with_fewer_candidates_than_top_k_gives_the_rest_no_weight(neighborhood, radius, keep_ties):
    query, context = features(6, 1, 5, 6)
    options = {"radius": radius, "neighborhood": neighborhood, "keep_ties": keep_ties}
    matches = topk_affinity(query, context, top_k=20, temperature=0.5, **options)
    for (y, x), row in zip(np.ndindex(5, 6), as_rows(matches), strict=True):
        window = {v * 6 + u for v, u in np.ndindex(5, 6) if inside(y, x, v, u, radius, neighborhood)}
        assert set(row) == window
    assert matches.weights.shape == (30, 20)  # and not all candidates, which tie outside the window
    torch.testing.assert_close(matches.weights.sum(dim=1), torch.ones(30))


def whole_numbers(seed, channels=4, frames=3, h=4, w=5):
    """Features whose dot products are exact in float32, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randint(-2, 3, (1 + frames, channels, h, w), generator=generator).float()
    draw[-1] = draw[1]  # a duplicated frame
    return draw[0], draw[1:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep_ties", [False, True])
@pytest.mark.parametrize(("radius", "free_frames"), [(None, 0), (2, 0), (2, 1)])
def test_topk_affinity_when_similarities_are_equal_prefers_the_smaller_index(seed, keep_ties, radius, free_frames):
    query, context = whole_numbers(seed)
    options = {
        "top_k": 4,
        "temperature": 3.0,
        "radius": radius,
        "free_frames": free_frames,
        "neighborhood": "square",
        "keep_ties": keep_ties,
    }
    matches = topk_affinity(query, context, normalized=True, **options)
    expected = naive(query, context, **options)
    assert_same(matches, expected)
    for weights, indices, wanted in zip(*matches, expected, strict=True):
        assert indices[weights > 0].tolist() == list(wanted)  # in order, ties too


def test_topk_affinity_of_constant_features_keeps_the_first_patches():
    query, context = torch.ones(4, 3, 3), torch.ones(2, 4, 3, 3)
    matches = topk_affinity(query, context, top_k=3, temperature=0.1)
    assert matches.indices.tolist() == [[0, 1, 2]] * 9
    torch.testing.assert_close(matches.weights, torch.full((9, 3), 1 / 3))


def test_topk_affinity_with_keep_ties_keeps_all_patches_of_constant_features():
    query, context = torch.ones(4, 3, 3), torch.ones(2, 4, 3, 3)
    matches = topk_affinity(query, context, top_k=3, temperature=0.1, keep_ties=True)
    assert matches.indices.tolist() == [list(range(18))] * 9
    torch.testing.assert_close(matches.weights, torch.full((9, 18), 1 / 18))


def test_topk_affinity_of_zero_vectors_mixes_the_first_patches_evenly():
    query, context = features(4, 2, 2, 3)
    query[:, 1, 2] = 0
    matches = topk_affinity(query, context, top_k=4, temperature=0.1)
    assert matches.indices[5].tolist() == [0, 1, 2, 3]
    assert matches.weights[5].tolist() == [0.25] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_topk_affinity_of_other_dtypes_sums_in_float32(dtype):
    query, context = (values.to(dtype) for values in features(33, 2, 4, 5))
    options = {"top_k": 5, "temperature": 0.2, "radius": 3}
    assert_same(topk_affinity(query, context, **options), naive(unit(query), unit(context), **options))


@pytest.mark.parametrize("scale", [1e-9, 1e4, 1e9])
def test_topk_affinity_does_not_depend_on_the_length_of_features(scale):
    query, context = features(16, 2, 3, 4)
    plain = topk_affinity(query, context, top_k=3, temperature=0.1)
    scaled = topk_affinity(query * scale, context / scale, top_k=3, temperature=0.1)
    assert torch.equal(plain.indices, scaled.indices)
    torch.testing.assert_close(plain.weights, scaled.weights)


def test_topk_affinity_leaves_its_inputs_alone():
    query, context = features(8, 2, 3, 3)
    before = query.clone(), context.clone()
    topk_affinity(query, context, top_k=2, temperature=0.1, keep_ties=True)
    assert torch.equal(query, before[0])
    assert torch.equal(context, before[1])


def test_unit_length_scales_to_one_and_keeps_zero_vectors():
    values = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, :, 1, 1] = 0
    lengths = unit_length(values.half()).norm(dim=1)
    assert lengths.dtype == torch.float32
    assert (lengths[:, 1, 1] == 0).all()
    lengths[:, 1, 1] = 1
    torch.testing.assert_close(lengths, torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, r"top_k is 0: it must be at least 1"),
        ({"temperature": 0.0}, r"temperature is 0.0: it must be 1e-30 to 1e\+30"),
        ({"temperature": -1.0}, r"temperature is -1.0: it must be 1e-30 to 1e\+30"),
        ({"temperature": math.nan}, r"temperature is nan: it must be 1e-30 to 1e\+30"),
        ({"temperature": math.inf}, r"temperature is inf: it must be 1e-30 to 1e\+30"),
        ({"temperature": 1e-39}, r"temperature is 1e-39: it must be 1e-30 to 1e\+30"),
        ({"radius": 0}, r"radius is 0: it must be at least 1, or None"),
        ({"neighborhood": "ring"}, r"neighborhood is 'ring': it must be 'disk', 'closed_disk' or 'square'"),
        ({"free_frames": -1}, r"free_frames is -1: it must be at least 0"),
        ({"kernels": "cuda"}, r"kernels is 'cuda': it must be one of auto, triton, native, cpu, reference"),
    ],
)
def test_topk_affinity_refuses_options_out_of_range(changes, message):
    query, context = features(4, 2, 3, 3)
    with pytest.raises(ValueError, match=message):
        topk_affinity(query, context, **{"top_k": 2, "temperature": 0.1, **changes})


@pytest.mark.parametrize(
    ("query", "context"),
    [
        ((4, 3, 3), (4, 3, 3)),
        ((4, 3), (2, 4, 3)),
        ((4, 3, 3), (2, 5, 3, 3)),
        ((4, 3, 3), (2, 4, 3, 4)),
        ((4, 3, 3), (0, 4, 3, 3)),
        ((0, 3, 3), (2, 0, 3, 3)),
    ],
)
def test_topk_affinity_refuses_shapes_that_do_not_fit(query, context):
    with pytest.raises(ValueError, match=r"query is \(.*\) and context \(.*\): they must be \(C, h, w\) and"):
        topk_affinity(torch.ones(query), torch.ones(context), top_k=1, temperature=1.0)


@pytest.mark.parametrize(
    ("query", "context"),
    [(torch.float16, torch.float32), (torch.int64, torch.int64), (torch.uint8, torch.float32)],
)
def test_topk_affinity_refuses_dtypes_that_differ_or_are_whole_numbers(query, context):
    with pytest.raises(ValueError, match="one floating-point dtype and one device"):
        topk_affinity(torch.ones(4, 2, 2, dtype=query), torch.ones(1, 4, 2, 2, dtype=context), top_k=1, temperature=1.0)


def test_topk_affinity_refuses_two_devices():
    with pytest.raises(ValueError, match=r"on cpu, context torch.float32 on meta: they must have"):
        topk_affinity(torch.ones(4, 2, 2), torch.ones(1, 4, 2, 2, device="meta"), top_k=1, temperature=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["query", "context"])
def test_topk_affinity_refuses_features_that_are_not_finite(bad, place):
    tensors = dict(zip(("query", "context"), features(4, 2, 3, 3), strict=True))
    tensors[place][..., 1, 2, 0] = bad
    with pytest.raises(ValueError, match=f"{place} has NaN or infinite values: check the network"):
        topk_affinity(tensors["query"], tensors["context"], top_k=1, temperature=1.0)


def test_centered_takes_the_mean_away_and_only_inside_a_region():
    query, _ = features(8, 1, 5, 7)
    whole = centered(query + 3)
    torch.testing.assert_close(whole, query - query.mean(dim=(1, 2), keepdim=True), rtol=0, atol=1e-5)
    part = torch.zeros_like(query)
    part[:, 1:4, 2:6] = query[:, 1:4, 2:6] + 3
    before = part.clone()
    got = centered(part, (1, 2, 4, 6))
    inside = query[:, 1:4, 2:6]
    wanted = inside - inside.mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(got[:, 1:4, 2:6], wanted, rtol=0, atol=1e-5)
    assert got.count_nonzero() == wanted.count_nonzero()
    assert torch.equal(part, before)
    assert centered(query.bfloat16()).dtype == torch.float32
    assert not centered(torch.ones(8, 5, 7)).any()
