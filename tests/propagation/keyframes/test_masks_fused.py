"""Two passes become one: how far each is believed."""

from types import SimpleNamespace

import pytest
import torch

from siammae.propagation.keyframes.both_ways import Between, Said
from siammae.propagation.keyframes.masks import fuse


def soft(cells, value):
    """Soft labels of one object on 8 x 8 cells, with a value on so many of them."""
    labels = torch.zeros(2, 64)
    labels[1, :cells] = value
    labels[0] = 1 - labels[1]
    return labels.unflatten(1, (8, 8))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("covered", "kept"), [(4, True), (8, True), (40, False)])
def test_pass_that_covers_far_more_than_both_annotated_frames_counts_less(covered, kept, mirrored):
    seen, unseen = soft(covered, 0.7), soft(4, 0.1)
    result = SimpleNamespace(object_ids=(5,))
    words = [{5: Said(0, True, 4.0)}, {5: Said(10, True, 3.0)}]
    between = Between(5, None, None, None, result, *words)
    fused = fuse(between, unseen if mirrored else seen, result, seen if mirrored else unseen)
    assert bool((fused[1] > 0.5).any()) == kept
    torch.testing.assert_close(fused.sum(dim=0), torch.ones(8, 8))
