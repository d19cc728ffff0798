"""How the reference kernel works inside: packed scores order exactly, chunks bound memory and change nothing."""

import itertools
import math

import pytest
import torch

from siammae.kernels import reference

LEAST_SUBNORMAL = 2.0**-149


def unit(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-3)


def affinity(query, context, **changes):
    options = {"top_k": 5, "temperature": 0.1, "radius": 2, "neighborhood": "disk", "free_frames": 1}
    return reference.topk_affinity(query, context, **{**options, "keep_ties": False, **changes})


def test_packed_scores_order_as_the_floats_do():
    values = [-math.inf, -3e38, -1.5, -1.0, -1e-40, -LEAST_SUBNORMAL, 0.0]
    values += [LEAST_SUBNORMAL, 1e-40, 0.25, 1.0, 1.0 + 2**-23, 3e38, math.inf]
    packed = reference.pack(torch.tensor(values), torch.zeros(1, dtype=torch.int64))
    assert (packed.diff() > 0).all()
    scores, indices = reference.unpack(packed)
    assert scores.tolist() == torch.tensor(values).tolist()
    assert (indices == 0).all()


@pytest.mark.parametrize("value", [-math.inf, -2.5, -0.0, 0.0, 1e-45, 0.3, math.inf])
def test_packed_scores_that_are_equal_order_by_smaller_index(value):
    index = torch.tensor([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
    packed = reference.pack(torch.full((6,), value), index)
    assert (packed.diff() < 0).all()
    assert torch.equal(reference.unpack(packed)[1], index)


def test_packed_scores_take_minus_zero_for_zero():
    packed = reference.pack(torch.tensor([[-0.0, 0.0, -0.0]]), torch.arange(3))
    assert reference.unpack(packed.sort(descending=True).values)[1].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("keep_ties", [False, True])
@pytest.mark.parametrize("top_k", [5, 1000])
@pytest.mark.parametrize(("radius", "free_frames"), [(None, 0), (1, 0), (2, 1), (3, 3), (50, 0)])
def test_topk_affinity_in_small_chunks_gives_the_same(monkeypatch, keep_ties, top_k, radius, free_frames):
    query, context = unit(33, 7, 13), unit(3, 33, 7, 13, seed=1)
    context[2] = context[1]
    options = {"top_k": top_k, "radius": radius, "free_frames": free_frames, "keep_ties": keep_ties}
    whole = [affinity(query, context, **options)]
    for scores in (1, 1500, 4000):
        monkeypatch.setattr(reference, "_CHUNK_SCORES", scores)
        whole.append(affinity(query, context, **options))
    dense = []
    for weights, indices in whole:
        dense.append(torch.zeros(7 * 13, 3 * 7 * 13).scatter_add_(1, indices, weights))
    for one, other in itertools.pairwise(dense):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 6), (6, 40), (17, 17)])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("radius", [1, 3, 30, None])
@pytest.mark.parametrize("free_frames", [0, 1])
def test_topk_affinity_never_holds_more_scores_than_a_chunk(monkeypatch, size, frames, radius, free_frames):
    held, best = [], reference.best
    one_row = size[0] * size[1] ** 2 * frames
    monkeypatch.setattr(reference, "_CHUNK_SCORES", one_row)

    def watched(packed, *rest):
        held.append(packed.shape)
        return best(packed, *rest)

    monkeypatch.setattr(reference, "best", watched)
    affinity(unit(4, *size), unit(frames, 4, *size), radius=radius, free_frames=free_frames)
    assert sum(rows for rows, _ in held) == size[0] * size[1]
    assert max(rows * candidates for rows, candidates in held) <= one_row


def test_topk_affinity_with_keep_ties_holds_no_candidates_from_outside_a_small_window():
    weights, indices = affinity(unit(4, 9, 9), unit(2, 4, 9, 9), radius=1, free_frames=0, keep_ties=True)
    assert weights.shape == indices.shape == (81, 5)
    assert ((weights > 0).sum(dim=1) == 2).all()  # the patch at the same place in both frames
